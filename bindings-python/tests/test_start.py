"""Start and stop: the thin slice, twice, in the wrong order, and at moments at which nobody should."""

import pytest

import everprof
from conftest import PRELUDE


def test_two_lines_leave_a_profile_with_native_frames_and_tags(program):
    done = program(
        """
        everprof.start(service="shop", version="1.4", tags={"team": "pay,ments", "n": 3})
        burn(0.6)
        """
    )
    assert done.err == ""
    (profile,) = done.profiles()
    assert profile.tags["service"] == "shop" and profile.tags["version"] == "1.4"
    assert profile.tags["team"] == "pay,ments" and profile.tags["n"] == "3"
    assert profile.total("cpu") > 0.5e9
    # Whoever has named the library of zlib's: its functions are native.
    assert profile.has("crc32") or profile.has("sha256") or profile.has("SHA256"), profile.samples[:5]
    assert all(sample["labels"]["thread_name"] for sample in profile.samples)


def test_the_service_is_called_as_the_script(program):
    (profile,) = program("everprof.start(); burn(0.2)").profiles()
    assert profile.tags["service"] == "program"
    (profile,) = program("everprof.start(); burn(0.2)", OTEL_SERVICE_NAME="o").profiles()[-1:]
    assert profile.tags["service"] == "o"


def test_a_start_loads_no_module_of_a_megabyte(program):
    # The compiler does, for names beyond ASCII.
    done = program("everprof.start(); print(everprof.stats()['frames_off'], 'unicodedata' in sys.modules)")
    assert done.out == "None False\n"


def test_a_second_start_is_an_error_and_the_first_goes_on(program):
    done = program(
        """
        everprof.start(service="first")
        try:
            everprof.start(service="second")
        except everprof.AlreadyRunningError as error:
            print(error.kind, error)
        burn(0.3)
        print(everprof.stats()["running"])
        everprof.stop()
        everprof.start(service="third")
        burn(0.3)
        """
    )
    assert "already_running a profiler runs in this process already" in done.out and "True" in done.out
    assert [profile.tags["service"] for profile in done.profiles()] == ["first", "third"]


def test_what_is_not_running_can_be_stopped_and_asked():
    everprof.stop()
    everprof.stop()
    everprof.flush()
    assert everprof.stats()["running"] is False
    with pytest.raises(everprof.UnavailableError):
        everprof.set(rate_hz=50)
    with pytest.raises(everprof.UnavailableError):
        everprof.snapshot("threads")


def test_start_in_a_signal_handler(program):
    done = program(
        """
        import signal
        signal.signal(signal.SIGUSR1, lambda *ignored: everprof.start(service="handler"))
        os.kill(os.getpid(), signal.SIGUSR1)
        burn(0.3)
        signal.signal(signal.SIGUSR1, lambda *ignored: everprof.stop())
        os.kill(os.getpid(), signal.SIGUSR1)
        print(everprof.stats()["running"])
        """
    )
    assert done.out == "False\n"
    assert done.profiles()[0].tags["service"] == "handler"


def test_start_while_the_interpreter_ends(program):
    # Ours runs after whatever was registered later, and before what was registered earlier.
    done = program(
        """
        import atexit
        def early():
            everprof.start(service="early")
            burn(0.2)
        def late():
            try:
                everprof.start(service="late")
            except everprof.UnavailableError as error:
                print(error)
        class Last:
            def __del__(self, start=everprof.start, Error=everprof.Error, print=print):
                try:
                    start(service="last")
                except Error as error:
                    print(type(error).__name__)
        atexit.register(early)
        last = Last()
        sys.last_one = last
        """
        ,
        prelude="import atexit\natexit.register(lambda: late())\n" + PRELUDE,
    )
    assert "the interpreter is about to end" in done.out
    assert [profile.tags["service"] for profile in done.profiles()] == ["early"]


def test_threads_that_block_in_everprof_at_the_end_do_not_kill_the_process(program):
    done = program(
        """
        import threading
        everprof.start(service="x")
        def ask():
            while True:
                everprof.flush()
                everprof.stats()
        for _ in range(4):
            threading.Thread(target=ask, daemon=True).start()
        burn(0.3)
        print("end")
        """
    )
    assert done.out == "end\n" and done.err == ""


def test_other_threads_run_while_everprof_blocks(program):
    done = program(
        """
        import threading
        everprof.start(service="x")
        ticks, is_over = [], False
        def tick():
            while not is_over:
                ticks.append(time.monotonic()); time.sleep(0.001)
        thread = threading.Thread(target=tick); thread.start()
        begin = time.monotonic()
        everprof._everprof.Pull("GET", "/debug/pprof/profile", "seconds=1", b"").wait()
        end = time.monotonic()
        is_over = True; thread.join()
        during = [at for at in ticks if begin <= at <= end]
        print(len(during), end - begin)
        """
    )
    ticks, took = done.out.split()
    assert float(took) >= 1 and int(ticks) >= 20, done.out


def test_no_thread_is_left_and_signals_are_as_before(program):
    done = program(
        """
        import signal, threading
        before = len(os.listdir("/proc/self/task"))
        everprof.start()
        assert threading.active_count() == 1
        assert len(os.listdir("/proc/self/task")) > before
        everprof.stop()
        end = time.monotonic() + 5
        while len(os.listdir("/proc/self/task")) > before and time.monotonic() < end:
            time.sleep(0.01)
        print(len(os.listdir("/proc/self/task")) - before, signal.getsignal(signal.SIGINT) is signal.default_int_handler)
        """
    )
    assert done.out == "0 True\n"


def test_enabled_false_wins(program):
    done = program("everprof.start(service='x'); print(everprof.stats()['running']); everprof.flush(); everprof.stop()", EVERPROF_ENABLED="false")
    assert done.out == "False\n" and not done.folder.exists()


def test_a_subinterpreter_does_not_crash(program):
    done = program(
        """
        everprof.start(service="x")
        try:
            import _interpreters as interpreters
        except ImportError:
            try:
                import _xxsubinterpreters as interpreters
            except ImportError:
                interpreters = None
        if interpreters is not None:
            one = interpreters.create()
            code = "try:\\n import everprof\\nexcept ImportError as error:\\n print('no:', error)\\nsum(range(10**6))"
            try:
                interpreters.run_string(one, code) if hasattr(interpreters, "run_string") else interpreters.exec(one, code)
            except Exception as error:
                print("not run", error)
            interpreters.destroy(one)
        burn(0.2)
        print("end")
        """
    )
    assert done.out.endswith("end\n")
