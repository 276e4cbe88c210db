"""Python's frames by every interpreter that there is: each script in a process of its own, since a crash is what it looks for.

`EVERPROF_TEST_PYTHONS` names the interpreters, separated by spaces; else they are looked for. `EVERPROF_TEST_SECONDS` is how
long a storm lasts.
"""

import os
import shutil
import subprocess
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
MINORS = range(9, 16)
SECONDS = os.environ.get("EVERPROF_TEST_SECONDS", "5")


def interpreters():
    named = os.environ.get("EVERPROF_TEST_PYTHONS", "").split()
    found = named or [shutil.which(f"python3.{minor}") for minor in MINORS]
    return [path for path in found if path and works(path)] or [sys.executable]


def works(path):
    """Whether it starts: a shim may stand for one that is not there."""
    return subprocess.run([path, "-c", ""], capture_output=True).returncode == 0


@pytest.mark.parametrize("interpreter", interpreters())
@pytest.mark.parametrize("script", ["tree 0.25", "fork", "wall 3", f"storm {SECONDS} 3000", f"storm {SECONDS} 100 wall,cpu"])
def test_frames(interpreter, script):
    name, *arguments = script.split()
    command = [interpreter, "-X", "faulthandler", os.path.join(HERE, f"frames_{name}.py"), *arguments]
    environment = dict(os.environ, EVERPROF_TEST_PYTHON=sys.executable, EVERPROF_WALL_RATE_HZ="500")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    print(done.stdout[-4000:], done.stderr[-4000:])
    assert done.returncode == 0, f"{interpreter} {script}: {done.returncode}"
