"""Children: each profiles itself, as an instance of its own."""

import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from conftest import PRELUDE
from pprof import read

def test_a_fork_goes_on_by_itself(program):
    done = program(
        """
        everprof.start(service="x")
        burn(0.2)
        child = os.fork()
        if child == 0:
            burn(0.4)
            assert everprof.stats()["running"]
            everprof.stop()
            os._exit(7)
        assert os.waitpid(child, 0)[1] >> 8 == 7
        """
    )
    profiles = done.profiles()
    assert len(profiles) == 2 and len({profile.tags["instance"] for profile in profiles}) == 2
    assert all(profile.total("cpu") > 0.15e9 for profile in profiles)


def test_forks_of_many_threads_and_of_forks(program):
    done = program(
        """
        import threading
        everprof.start(service="x", kinds=["cpu", "wall"])
        def fork(depth):
            for _ in range(3):
                child = os.fork()
                if child == 0:
                    try:
                        assert everprof.stats()["running"]
                        with everprof.labels(a=1): burn(0.01)
                        everprof.flush()
                    except everprof.UnavailableError:
                        pass  # Longer than two seconds, among so many.
                    finally:
                        if depth: fork(depth - 1)
                        os._exit(0)
                assert os.waitpid(child, 0)[1] == 0
        threads = [threading.Thread(target=fork, args=[1]) for _ in range(4)]
        [thread.start() for thread in threads]; [thread.join() for thread in threads]
        print("end")
        """,
        interpreter=["-W", "ignore"],
    )
    assert done.out == "end\n" and done.err == ""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_children_of_multiprocessing(program, method, when):
    done = program(
        f"""
        {"import multiprocessing" if when == "before" else ""}
        def work(seconds):
            burn(seconds)
            print("child", everprof.stats()["running"], flush=True)
        if __name__ == "__main__":
            everprof.start(service="shop", tags={{"a": "b"}}, push_token="sesame-sesame", symbolize="off")
            import multiprocessing
            assert "sesame" not in str(os.environ)
            context = multiprocessing.get_context({method!r})
            children = [context.Process(target=work, args=[0.3]) for _ in range(2)]
            [child.start() for child in children]; [child.join() for child in children]
            assert all(child.exitcode == 0 for child in children)
            burn(0.2)
        """,
        interpreter=["-W", "ignore"],
    )
    assert done.out == "child True\n" * 2, done.err
    profiles = done.profiles()
    assert {profile.tags["service"] for profile in profiles} == {"shop"} and all(profile.tags["a"] == "b" for profile in profiles)
    instances = {profile.tags["instance"] for profile in profiles if profile.total("cpu") > 0.08e9}
    assert len(instances) == 3, [(profile.tags["instance"], profile.total("cpu")) for profile in profiles]


def test_children_under_run(program):
    (program.folder / "script.py").write_text(
        """
import multiprocessing, sys, time
import everprof
def work(x):
    return x, everprof.stats()["running"]
if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            print(pool.map(work, [1, 2]))
"""
    )
    done = program.start(["-W", "ignore", "-m", "everprof", "run", "script.py"])
    assert done.out == "[(1, True), (2, True)]\n" * 3, done.err


def test_a_child_that_starts_one_itself(program):
    done = program(
        """
        import multiprocessing
        everprof.start(service="shop")
        def work(): print(everprof.stats()["running"], flush=True)
        if __name__ == "__main__":
            child = multiprocessing.get_context("spawn").Process(target=work)
            child.start(); child.join(); print(child.exitcode)
        """
    )
    assert done.out == "True\n0\n", done.err


def test_children_whose_interpreter_lacks_everprof(program):
    done = program(
        """
        import pickle, subprocess
        everprof.start(push="off")
        import multiprocessing
        told = pickle.dumps(multiprocessing.current_process()._config["everprof"])
        code = f"import sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p]; import pickle; print(pickle.loads({told!r}))"
        print(subprocess.run([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE, text=True).stdout)
        """
    )
    assert done.out.strip() == "None", done.err


def test_nothing_after_exec(program):
    done = program(
        """
        import subprocess
        everprof.start(service="shop")
        print(subprocess.run([sys.executable, "-c", "import sys; print('everprof' in sys.modules)"], stdout=subprocess.PIPE, text=True).stdout)
        """
    )
    assert done.out.strip() == "False"


def test_whoever_is_spawned_or_takes_the_place_is_as_without_it(program):
    look = """
import os
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
open_files = sorted(os.readlink(f"/proc/self/fd/{n}").split(":")[0] for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}"))
print([status[name].strip() for name in ("SigBlk", "SigIgn", "ShdPnd", "Threads")], len(open_files), os.nice(0), flush=True)
import time
end = time.process_time() + 0.3
while time.process_time() < end: pass
"""
    (program.folder / "look.py").write_text(look)
    told = [
        program(
            f"""
            {start}
            if {bool(start)}: burn(0.5)
            child = os.posix_spawn(sys.executable, [sys.executable, "-I", "-S", "look.py"], os.environ)
            assert os.waitpid(child, 0)[1] == 0
            os.execv(sys.executable, [sys.executable, "-I", "-S", "look.py"])
            """,
        )
        for start in ("", 'everprof.start(service="x", rate_hz=500, serve="127.0.0.1:0", cpu_clock="perf_event", kinds="cpu,wall,alloc,block")')
    ]
    assert told[0].out == told[1].out and len(told[0].out.splitlines()) == 2, told


def test_workers_of_a_pool_that_end_in_order(program):
    """A pool that is left by `with` ends its workers by SIGTERM; what the README says to do about it."""
    done = program(
        """
        import multiprocessing
        def work(_): burn(0.2)
        if __name__ == "__main__":
            everprof.start(service="shop")
            for method in ("fork", "spawn"):
                with multiprocessing.get_context(method).Pool(2) as pool:
                    pool.map(work, range(8), chunksize=1)
                    pool.close()
                    pool.join()
        """,
        interpreter=["-W", "ignore"],
    )
    worked = [profile.total("cpu", lambda sample: "burn" in str(sample["stack"])) for profile in done.profiles()]
    assert sum(0.15e9 < cpu for cpu in worked) == 4 and 2.8e9 < sum(worked) < 4e9, (worked, done.err)


def test_stopped_parents_have_no_profiled_children(program):
    done = program(
        """
        import multiprocessing
        def work(): print(everprof.stats()["running"], flush=True)
        if __name__ == "__main__":
            everprof.start(); everprof.stop()
            for method in ("fork", "spawn"):
                child = multiprocessing.get_context(method).Process(target=work)
                child.start(); child.join()
        """
    )
    assert done.out == "False\nFalse\n"


def test_every_worker_of_gunicorn_profiles_itself(tmp_path):
    pytest.importorskip("gunicorn", reason="NOT TESTED: gunicorn is not installed")
    app = """
everprof.start(service="shop", period_s=1, symbolize="off")
def app(environ, start_response):
    burn(0.02)
    start_response("200 OK", [])
    return [str(os.getpid()).encode()]
app = everprof.wsgi(app, endpoint=lambda environ: environ["PATH_INFO"])
"""
    (tmp_path / "shop.py").write_text(PRELUDE + app)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "gunicorn", "--preload", "-w", "4", "-b", f"127.0.0.1:{port}", "shop:app"]
    server = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        seen, end = set(), time.monotonic() + 40
        while time.monotonic() < end and (len(seen) < 4 or len(instances(tmp_path)) < 5):
            try:
                seen.add(urllib.request.urlopen(f"http://127.0.0.1:{port}/a", timeout=10).read())
            except OSError:
                time.sleep(0.1)
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
    of_requests = instances(tmp_path, lambda sample: sample["labels"].get("endpoint") == "/a")
    assert len(seen) == 4 and len(of_requests) >= 4, (seen, of_requests)


def instances(folder, keep=lambda sample: True):
    """The instances that have samples."""
    return {profile.tags["instance"] for profile in read(folder / "everprof") if any(map(keep, profile.samples))}
