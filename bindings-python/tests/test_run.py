"""Programs without a change: `python -m everprof run`, and EVERPROF_AUTOSTART."""

import sys
import zipfile

import pytest

SCRIPT = """
import sys, os, time, zlib
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end: zlib.crc32(bytes(100_000))
burn(0.2)
"""


def both(program, name, code, *arguments, code_is=0):
    """What the program prints by `python` alone and under `run`."""
    (program.folder / name).write_text(SCRIPT + code)
    plain = program.start([name, *arguments], code_is=code_is)
    under = program.start(["-m", "everprof", "run", "--service", "x", name, *arguments], code_is=code_is)
    return plain, under


def test_a_script_finds_what_it_always_finds(program):
    (program.folder / "beside.py").write_text("HERE = 1")
    code = """
import beside, __main__, pickle
class C: pass
print(sys.argv, __name__, __file__, __spec__, __package__, __doc__, sys.path[0], sorted(k for k in globals() if k.startswith("__")))
print(__main__.C is C, pickle.loads(pickle.dumps(C)) is C, sys.flags.optimize)
import atexit; atexit.register(lambda: print(C, __main__.C))
"""
    plain, under = both(program, "script.py", code, "--rate_hz", "a b", "-m")
    assert under.out == plain.out
    assert under.profiles()[0].tags["service"] == "x"


@pytest.mark.parametrize(
    "code, code_is",
    [("sys.exit(3)", 3), ("sys.exit('so')", 1), ("raise SystemExit", 0), ("1/0", 1), ("def f(): g()\ndef g(): {}['x']\nf()", 1), ("os._exit(5)", 5)],
)
def test_ends_are_kept(program, code, code_is):
    plain, under = both(program, "script.py", code, code_is=code_is)
    assert (under.out, under.err) == (plain.out, plain.err)


def test_errors_of_syntax_and_missing_files(program):
    (program.folder / "bad.py").write_text("def :")
    plain, under = program.start(["bad.py"], code_is=1), program.start(["-m", "everprof", "run", "bad.py"], code_is=1)
    assert under.err == plain.err
    assert "No such file" in program.start(["-m", "everprof", "run", "missing.py"], code_is=2).err


def test_an_interrupt_is_one(program):
    plain, under = both(program, "script.py", "import signal; os.kill(os.getpid(), signal.SIGINT); time.sleep(1)", code_is=-2)
    assert "KeyboardInterrupt" in under.err


def test_modules_packages_folders_and_archives(program):
    package = program.folder / "shop"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(SCRIPT + "from . import other; print(sys.argv, __name__, __package__, __spec__.name, sys.path[0] == os.getcwd())")
    (package / "other.py").write_text("")
    for arguments in (["-m", "shop", "a"], ["-m", "shop.__main__"]):
        plain = program.start(arguments)
        under = program.start(["-m", "everprof", "run", *arguments])
        assert under.out == plain.out
    assert under.profiles()[-1].tags["service"] == "shop"
    assert "No module named nowhere" in program.start(["-m", "everprof", "run", "-m", "nowhere"], code_is=1).err

    folder = program.folder / "folder"
    folder.mkdir()
    (folder / "__main__.py").write_text("import sys, beside; print(sys.argv, __name__, beside.__name__)")
    (folder / "beside.py").write_text("")
    with zipfile.ZipFile(program.folder / "archive.pyz", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, file.name)
    for path in ("folder", "archive.pyz"):
        assert program.start(["-m", "everprof", "run", path, "a"]).out == program.start([path, "a"]).out


def test_options_on_the_command_line(program):
    (program.folder / "script.py").write_text(SCRIPT + "import everprof; print(round(everprof.stats()['wanted_rate_hz']))")
    for told in (["--rate-hz", "42"], ["--rate_hz=42"], ["--rate_hz=42", "--"]):
        assert program.start(["-m", "everprof", "run", *told, "script.py"]).out == "42\n"
    for told, message in [
        (["--rate", "42", "script.py"], "there is no option `rate`: did you mean `rate_hz`?"),
        (["--rate_hz", "fast", "script.py"], 'rate_hz is "fast": give a whole number'),
        (["--rate_hz"], "--rate_hz lacks its value"),
        ([], "name a script"),
    ]:
        assert message in program.start(["-m", "everprof", "run", *told], code_is=2).err
    assert "no command 'walk'" in program.start(["-m", "everprof", "walk"], code_is=2).err


def test_help_and_version(program):
    shown = program.start(["-m", "everprof", "--help"]).out
    assert "--rate_hz (EVERPROF_RATE_HZ)" in shown and "default 99" in shown
    assert program.start(["-m", "everprof", "--version"]).out.startswith("everprof 0.")


def test_started_by_the_environment(program):
    done = program("burn(0.2); print(everprof.stats()['running'])", EVERPROF_AUTOSTART="1")
    assert done.out == "True\n" and done.err == "" and done.profiles()[0].tags["service"] == "program"
    for no in ("0", "off", ""):
        assert program("print(everprof.stats()['running'])", EVERPROF_AUTOSTART=no).out == "False\n"


def test_what_the_program_starts_takes_the_place_of_what_the_environment_did(program):
    done = program(
        """
        everprof.start(service="code")
        burn(0.2)
        try:
            everprof.start(service="twice")
        except everprof.AlreadyRunningError:
            print("once")
        """,
        EVERPROF_AUTOSTART="1",
    )
    assert done.out == "once\n" and done.profiles()[-1].tags["service"] == "code"


def test_a_wrong_environment_keeps_no_program_from_running(program):
    done = program("print('runs')", EVERPROF_AUTOSTART="1", EVERPROF_RATE_HZ="fast")
    assert done.out == "runs\n" and "EVERPROF_RATE_HZ" in done.err


def test_what_is_not_asked_for_is_not_imported(program):
    done = program("print([name for name in sys.modules if name.startswith('everprof')])", prelude="import sys\n")
    assert done.out == "[]\n"
