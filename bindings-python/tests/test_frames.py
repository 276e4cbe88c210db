"""Python's frames: each script in a process of its own, since a crash is what it looks for.

`EVERPROF_TEST_SECONDS` is how long a storm lasts.
"""

import os
import subprocess
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
# What makes objects of frames, also of other threads'.
FRAMES = "cleared,traced,churn,exceptions,generators,recursion,executing,calling"
SECONDS = os.environ.get("EVERPROF_TEST_SECONDS", "4")
# What rests on how each version of the interpreter is made.
SCRIPTS = [
    "tree 0.25",
    "fork",
    "wall 3",
    "labels",
    "tasks",
    "memory",
    "memory_life",
    "gil 3",
    "locks",
    "dying 3",
    "loading",
    f"storm {SECONDS} 100 wall,cpu",
    f"storm {SECONDS} 20000 cpu {FRAMES}",
]
# What does not, or hardly: under some of them.
MORE = [
    "shares 5",
    "tasks uvloop",
    "names",
    "waits",
    "waits uvloop",
    "greenlets",
    "greenlets gevent",
    "memory_age",
    "pauses",
    "locks_life 3",
    "interrupted 500",
    f"storm {SECONDS} 3000",
    f"storm {SECONDS} 500 cpu,wall,lock,mutex,block,gil,gc",
]
if not os.environ.get("EVERPROF_TEST_LESS"):
    SCRIPTS += MORE


@pytest.mark.parametrize("script", SCRIPTS)
def test_frames(script):
    run(script)


@pytest.mark.parametrize("allocator", ["malloc", "debug"])
def test_memory_of_other_allocators(allocator):
    run("memory_life", PYTHONMALLOC=allocator)
    if "memory_age" in SCRIPTS:
        run("memory_age", PYTHONMALLOC=allocator)


def run(script, **more):
    name, *arguments = script.split()
    command = [sys.executable, "-X", "faulthandler", os.path.join(HERE, "frames", f"{name}.py"), *arguments]
    environment = dict(os.environ, TEST_PYTHON=sys.executable, EVERPROF_WALL_RATE_HZ="500", **more)
    # A build for debugging costs more than a host would bear, which would slow its sampling down.
    environment["EVERPROF_CPU_BUDGET_PERCENT"] = "100"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    print(done.stdout[-4000:], done.stderr[-4000:])
    assert done.returncode == 0, f"{script}: {done.returncode}"
    if done.stdout.startswith("NOT TESTED"):
        pytest.skip(done.stdout.splitlines()[0])
