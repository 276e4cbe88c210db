"""What nobody should do, and somebody does: interpreters within the interpreter, and values that are none."""

import subprocess
import sys

import pytest

import everprof
from conftest import PRELUDE
from everprof import _everprof

PRELUDE_WITH_INTERPRETERS = PRELUDE + """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

def create(kind):
    if sys.version_info >= (3, 13): return interpreters.create(kind)
    if sys.version_info >= (3, 12): return interpreters.create(isolated=kind == "isolated")
    return interpreters.create(isolated=False)

def run(kind, code):
    one = create(kind)
    try:
        (interpreters.run_string if hasattr(interpreters, "run_string") else interpreters.exec)(one, code)
    finally:
        interpreters.destroy(one)
"""
WORK = """
try:
    import everprof
except ImportError as error:
    print("no:", error, flush=True)
else:
    try:
        everprof.start(service="sub")
        print("started", flush=True)
    except everprof.AlreadyRunningError:
        print("already", flush=True)
    with everprof.labels(a=1):
        sum(range(10**5))
import threading
def work():
    for _ in range(300): [str(n) for n in range(300)]
try:
    threads = [threading.Thread(target=work) for _ in range(3)]
    [thread.start() for thread in threads]; [thread.join() for thread in threads]
except RuntimeError as error:
    print(error)
"""


@pytest.mark.parametrize("kind", ["legacy", "isolated"])
def test_sub_interpreters_that_end_leave_the_profiler_alone(program, kind):
    done = program(
        f"""
        import threading
        everprof.start(service="main", rate_hz=1000, kinds="cpu,wall,alloc,heap")
        code = {WORK!r}
        for _ in range(2):
            run({kind!r}, code)
        thread = threading.Thread(target=run, args=[{kind!r}, code]); thread.start(); thread.join()
        print("main", everprof.stats()["running"])
        burn(0.3)
        for _ in range(10):
            # A busy machine takes longer than the two seconds of one.
            try:
                everprof.flush()
                break
            except everprof.UnavailableError:
                pass
        """,
        prelude=PRELUDE_WITH_INTERPRETERS,
    )
    own_lock = kind == "isolated" and sys.version_info >= (3, 12)
    lines = done.out.splitlines()
    assert lines.count("already") == (0 if own_lock else 3), done.out + done.err
    assert sum("does not support loading in subinterpreters" in line for line in lines) == (3 if own_lock else 0), done.out
    assert lines[-1] == "main True"
    assert {profile.tags["service"] for profile in done.profiles()} == {"main"}
    assert sum(profile.total("cpu") for profile in done.profiles()) > 0.1e9


def test_a_sub_interpreter_that_has_started_it_stops_it(program):
    done = program(
        f"""
        run("legacy", {WORK!r})
        print("main", everprof.stats()["running"])
        everprof.start(service="main")
        burn(0.2)
        """,
        prelude=PRELUDE_WITH_INTERPRETERS,
    )
    assert "started" in done.out and done.out.endswith("main False\n"), done.out + done.err


def test_autostart_in_sub_interpreters_says_nothing(program):
    done = program(
        """
        for kind in ("legacy", "isolated"):
            run(kind, "import everprof._autostart" if kind == "legacy" else "sum(range(1000))")
        print("main", everprof.stats()["running"])
        """,
        prelude=PRELUDE_WITH_INTERPRETERS.replace("import everprof\n", "import everprof, everprof._autostart\n", 1),
        EVERPROF_AUTOSTART="1",
    )
    assert done.out == "main True\n" and "not profiled" not in done.err, done.err


def test_the_pth_file_says_why_and_lets_the_program_start(tmp_path):
    import sysconfig
    from pathlib import Path

    pth = Path(sysconfig.get_path("purelib"), "everprof.pth")
    if not pth.exists():
        pth = Path(__file__).parents[1] / "data/purelib/everprof.pth"
    line = pth.read_text()
    # One line that begins so is what `site` executes.
    assert line.startswith("import ") and line.count("\n") == 1
    code = f"import os, sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p]\nexec({line!r})\nprint('runs')"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=tmp_path, env={"EVERPROF_AUTOSTART": "1"}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "runs\n")
    assert done.stderr == "everprof: not profiled: No module named 'everprof'\n"


@pytest.mark.parametrize("value", [10**5000, -(10**5000), {"a": 10**5000}, [10**5000]], ids=["huge", "low", "in a dictionary", "in a list"])
def test_numbers_without_end(value):
    with pytest.raises(everprof.InvalidOptionError, match="rate_hz"):
        everprof.start(rate_hz=value)
    assert everprof.stats()["running"] is False


def test_names_that_are_no_text():
    with pytest.raises(everprof.InvalidOptionError, match=r"there is no option '\\ud800'"):
        everprof.start(**{"\ud800": 1})


def test_labels_that_are_no_text():
    # What a system call gave, and what a client sent.
    with everprof.labels({"pa\udcffth": "/tmp/\udcff"}, tenant="\ud800x"):
        assert everprof.current_labels() == {"pa_th": "/tmp/?", "tenant": "?x"}


def test_labels_that_cannot_be_made_text():
    class Unfinished:
        def __str__(self):
            return self.name

    number = 10**5000
    text = "<int>" if hasattr(sys, "get_int_max_str_digits") else str(number)[:256]
    with everprof.labels(number=number, other=Unfinished()):
        labels = everprof.current_labels()
    assert labels["number"] == text and labels["other"].endswith("Unfinished>")


def test_a_kind_that_is_no_text():
    with pytest.raises(everprof.InvalidOptionError, match="there is no kind"):
        everprof.snapshot("\ud800")
    with pytest.raises(everprof.InvalidOptionError, match="there is no kind"):
        with everprof.profile("\ud800"):
            pass
    assert everprof.stats()["running"] is False


def test_this_is_the_main_interpreter():
    assert _everprof.is_main_interpreter() is True
