"""Functions that die as they return, and whose code is large enough to be given back to the kernel at once: SECONDS HZ. From the
moment on that the interpreter has let go of the code of the innermost frame, nothing of it may be read. No crash, and no
name but theirs."""

import os
import signal
import subprocess
import sys
import threading
import time
import types

import profiler

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 3
HZ = int(sys.argv[2]) if len(sys.argv) > 2 else 20000

# What is larger than that is a mapping of its own: its end is a call of the kernel's, behind which signals arrive.
if os.environ.get("MALLOC_MMAP_THRESHOLD_") != "16384":
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "16384"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]] if hasattr(sys, "orig_argv") else [sys.executable, *sys.argv])


SOURCE = "def made(n):\n if n:\n" + "  n = n + 1; n = n - 1\n" * 1000 + " return n\n"


def dying(until):
    """Calls each function once, by its last reference."""
    found = {}
    exec(compile(SOURCE, "<made>", "exec"), found)
    code, number = found["made"].__code__, 0
    while time.monotonic() < until:
        number += 1
        # A name of its own, which goes with it.
        names = {"co_name": f"made_{number}"}
        if sys.version_info >= (3, 11):
            names["co_qualname"] = f"made_{number}"
        call([types.FunctionType(code.replace(co_filename=f"<made {number}>", **names), {})])


def call(functions):
    return functions.pop()(0)


with profiler.Run(1000) as profile:
    threads = [threading.Thread(target=dying, args=(time.monotonic() + SECONDS,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    arguments = [str(number) for number in (profiler.pid(), int(signal.SIGPROF), HZ)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MALLOC"))}
    sender = subprocess.Popen([profiler.python(), profiler.beside("storm_sender.py"), *arguments], env=environment)
    for thread in threads:
        thread.join()
    sender.terminate()
    sender.wait()
wrong = [
    frame
    for stack, _, _ in profile.samples
    for frame in stack
    if frame.name.startswith("made_") and not frame.file.startswith("<made ")
]
called = sum(any(frame.name == "call" for frame in stack) for stack, _, _ in profile.samples)
print(f"{len(profile.samples)} stacks, {called} of them in the call, {len(wrong)} wrong, counts {profile.counts}, "
      f"{profile.samples_taken} samples")
assert called and not wrong
