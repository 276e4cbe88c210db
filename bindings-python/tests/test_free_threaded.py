"""CPython without its lock (3.13t and newer): no frames of Python, and everything else. The wheel is not for it; `pip install` of the
sdist builds one. Debian and pyenv have none by themselves: tests/free_threaded.sh says how one was had."""

import sysconfig

import pytest

pytestmark = pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="NOT TESTED: this Python has its lock")


def test_it_stays_without_its_lock_and_says_what_is_off(program):
    done = program(
        """
        import threading
        assert not sys._is_gil_enabled()
        everprof.start(service="x", kinds="cpu,wall,alloc,heap,block", interval_bytes="64KiB", cpu_budget_percent=100)
        def work(name):
            with everprof.labels(tenant=name):
                kept = []
                end = time.thread_time() + 0.7
                while time.thread_time() < end:
                    zlib.crc32(bytes(100_000)); kept.append({"a": [1] * 10}); kept[:-1000] = []
        threads = [threading.Thread(target=work, args=[name]) for name in "abcd"]
        [thread.start() for thread in threads]; [thread.join() for thread in threads]
        child = os.fork()
        if child == 0:
            burn(0.3); everprof.stop(); os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert not sys._is_gil_enabled()
        print(everprof.stats()["frames_off"])
        everprof.stop()
        """,
        interpreter=["-W", "ignore"],
    )
    assert done.err == "" and "free-threaded" in done.out, (done.out, done.err)
    profiles = done.profiles()
    assert len(profiles) == 2
    of = lambda tenant: sum(profile.total("cpu", lambda sample: sample["labels"].get("tenant") == tenant) for profile in profiles)
    assert all(0.5e9 < of(tenant) < 0.9e9 for tenant in "abcd"), [of(tenant) for tenant in "abcd"]
    assert any(profile.has("crc32") for profile in profiles)
    # Nothing of whose lock there is none.
    assert not any("gil" in sample["labels"] for profile in profiles for sample in profile.samples)
    assert sum(profile.total("alloc_space") for profile in done.profiles("heap")) > 100 << 20
