"""Python's allocators under what others do to them: tracemalloc above and below, starts and stops, forks, interpreters, the end.

After each turn what is allocated has to be found, where a profiler runs, and the program is unharmed.
"""

import gc
import os
import shutil
import sys
import tempfile
import threading
import tracemalloc

import everprof
import pprof


def small_blocks():
    for _ in range(40_000):
        bytes(450)


def profiled(between=lambda: None, times=1):
    """Bytes found in `small_blocks`, which asks for 19 MB."""
    folder = tempfile.mkdtemp(prefix="everprof-")
    everprof.start(dir=folder, kinds="alloc,heap", interval_bytes=65536, period_s=600)
    between()
    for _ in range(times):
        small_blocks()
    everprof.stop()
    samples = pprof.profiles(folder, "alloc")
    shutil.rmtree(folder)
    return sum(values[1] for stack, values, _ in samples if any(frame.name == "small_blocks" for frame in stack)) / 19.3e6


def expect(what, share, true=1):
    print(f"{what}: {share:.2f}")
    # Of some 300 samples for each time.
    assert abs(share - true) < 0.35 * true**0.5, (what, share)


expect("plain", profiled())
expect("again", profiled())
# Above ours while they are in place, and from then on.
# It keeps some bytes of each block, which are found as well.
WITH_TRACES = 1.15
expect("tracemalloc after the start", profiled(tracemalloc.start), WITH_TRACES)
small_blocks()
assert tracemalloc.get_traced_memory()[0] > 0
expect("below tracemalloc", profiled(), WITH_TRACES)
tracemalloc.stop()
small_blocks()
expect("after tracemalloc", profiled())
# Below ours: its end takes ours out, and the next start puts them back.
tracemalloc.start()
expect("above tracemalloc", profiled(), WITH_TRACES)
share = profiled(tracemalloc.stop)
print(f"tracemalloc stopped below: {share:.2f}")
expect("after that", profiled())
for _ in range(3):
    tracemalloc.start(), tracemalloc.stop()
expect("once more", profiled())


def fork():
    child = os.fork()
    if child == 0:
        small_blocks()
        gc.collect()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


expect("with a fork", profiled(fork))


def threads():
    several = [threading.Thread(target=small_blocks) for _ in range(4)]
    [one.start() for one in several], [one.join() for one in several]


expect("with threads", profiled(threads), 5)


def interpreters():
    try:
        import _interpreters as module
    except ImportError:
        try:
            import _xxsubinterpreters as module
        except ImportError:
            return
    for _ in range(3):
        one = module.create()
        run = getattr(module, "run_string", None) or module.exec
        run(one, "for _ in range(20_000): bytes(450)")
        module.destroy(one)


expect("with interpreters", profiled(interpreters))


def recording():
    with everprof.profile("alloc") as block:
        small_blocks()
    assert "small_blocks" in block.collapsed


folder = tempfile.mkdtemp(prefix="everprof-")
everprof.start(dir=folder, kinds="cpu", period_s=600)
recording()
small_blocks()
# It runs until the end, and what is left is given back after it.
left = [bytes(450) for _ in range(40_000)]
print("end", sys.version_info[:2])
