"""Each hazard has a process of its own: what tests run is a program of Python, as a user would write it."""

import os
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest

import everprof
from pprof import read

# What programs of the tests begin with: work of the processor's, of so many seconds.
PRELUDE = """
import sys, time, os, hashlib, zlib
import everprof

def burn(seconds):
    # Native code for most of the time, and for some of it the interpreter.
    data, end = bytes(range(256)) * 64, time.process_time() + seconds
    while time.process_time() < end:
        zlib.crc32(data); hashlib.sha256(data).digest()
"""


@pytest.fixture
def program(tmp_path):
    """Runs a program in a process of its own: its output, its exit code, and the profiles that it left."""

    def run(code, *arguments, prelude=PRELUDE, interpreter=(), code_is=0, timeout=60, **environment):
        script = tmp_path / "program.py"
        script.write_text(prelude + textwrap.dedent(code))
        return start([*interpreter, str(script), *arguments], code_is=code_is, timeout=timeout, **environment)

    def start(arguments, code_is=0, timeout=60, **environment):
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("EVERPROF_", "PYTHON"))}
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            # Interpreters with debug information, a wheel without optimisation, a busy machine: lines would take longer to read than
            # a stop waits for.
            env={**clean, "EVERPROF_SYMBOLIZE": "names", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=timeout,
        )
        if code_is is not None:
            assert done.returncode == code_is, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return SimpleNamespace(
            out=done.stdout,
            err=done.stderr,
            code=done.returncode,
            folder=tmp_path / "everprof",
            profiles=lambda kind="cpu": read(tmp_path / "everprof", kind),
        )

    run.start = start
    run.folder = tmp_path
    return run


@pytest.fixture(autouse=True)
def nothing_runs_after_a_test():
    yield
    everprof.stop()
