"""Pauses of the garbage collector: told by function and generation as long as the program's own callback measures them, through all
that a program does to `gc.callbacks`.
"""

import collections
import gc
import os
import shutil
import sys
import tempfile
import threading
import time

import everprof
import pprof

# Nanoseconds from which on each pause is told; below, one in proportion.
THRESHOLD = 1_000_000
FUNCTIONS = ("large", "many", "frozen", "on_thread", "labelled", "cleared", "in_child", "between")

# By function and generation: each pause's nanoseconds, at the least and at the most. Callbacks of the program's own stand before and
# behind everprof's in the list; between them others may have the interpreter, or the machine.
truth = collections.defaultdict(list)
times = {}


def before(phase, info):
    times["before", phase] = time.perf_counter_ns()


def behind(phase, info):
    times["behind", phase] = time.perf_counter_ns()
    if phase == "start":
        return
    least = times["before", "stop"] - times["behind", "start"]
    most = times["behind", "stop"] - times["before", "start"]
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_name not in FUNCTIONS:
        frame = frame.f_back
    if frame is not None:
        truth[frame.f_code.co_name, str(info["generation"])].append((least, most))


def measure():
    gc.callbacks.insert(0, before)
    gc.callbacks.append(behind)


class Node:
    def __init__(self):
        self.me = self


def large(count=100_000):
    kept = [Node() for _ in range(count)]
    for _ in range(4):
        gc.collect()
    return len(kept)


def many(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        [Node() for _ in range(1000)]


def frozen():
    gc.freeze()
    gc.collect(), gc.collect(1)
    gc.unfreeze()


def on_thread():
    kept = [Node() for _ in range(20_000)]
    gc.collect()
    return len(kept)


def labelled():
    kept = [Node() for _ in range(20_000)]
    with everprof.labels(tenant="a", generation="mine"):
        gc.collect()
    return len(kept)


def cleared():
    """What clears the list in the middle of a collection, or in between."""
    def clears(phase, info):
        gc.callbacks.clear()

    gc.callbacks.append(clears)
    gc.collect()
    assert gc.callbacks == []
    gc.collect()


def between():
    kept = [Node() for _ in range(30_000)]
    gc.collect()
    return len(kept)


def in_child():
    kept = [Node() for _ in range(30_000)]
    gc.collect()
    return len(kept)


def followers():
    return [callback for callback in gc.callbacks if callback not in (before, behind)]


def stop():
    try:
        everprof.stop()
    except everprof.UnavailableError:
        # The machine has much else to do; it goes on.
        time.sleep(10)


folder = tempfile.mkdtemp(prefix="everprof-")
try:
    everprof.start(dir=folder, kinds="cpu", period_s=600)
    assert followers() == []
    everprof.set(kinds="cpu,gc")
    assert len(followers()) == 1
    everprof.set(kinds="cpu")
    assert followers() == []
    everprof.stop()

    everprof.start(dir=folder, kinds="cpu,gc", period_s=600)
    ours = followers()
    assert len(ours) == 1
    measure()
    gc.disable()
    large(), frozen(), labelled()
    thread = threading.Thread(target=on_thread, name="collector")
    thread.start(), thread.join()
    gc.enable()
    many(3)
    gc.disable()
    cleared()
    everprof.flush()
    assert gc.callbacks == ours, "it is back with the next call"
    measure()
    between()
    child = os.fork()
    if child == 0:
        # Its own profiler begins on a thread of its own.
        while "gc" not in everprof.stats()["active_kinds"]:
            time.sleep(0.01)
        in_child()
        stop()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    cost = everprof.stats()["gc_callback_cpu"]
    stop()
    assert gc.callbacks == [before, behind], "it is gone with the stop"
    gc.collect()

    told, counts, labels_of, samples = collections.Counter(), collections.Counter(), {}, collections.Counter()
    for stack, values, labels in pprof.profiles(folder, "gc"):
        name = next((frame.name.split(".")[-1] for frame in stack if frame.name.split(".")[-1] in FUNCTIONS), None)
        key = name, labels["generation"]
        told[key] += values[1]
        counts[key] += values[0]
        labels_of[name] = labels
        assert stack[-1].name == "<module>" or name == "on_thread", stack
    failed = []
    for key, pauses in sorted(truth.items()):
        if key[0] == "cleared":
            continue
        short = [least for least, _ in pauses if least < THRESHOLD]
        # A pause of d is told with the chance d / T as T, and as T / d pauses.
        sigma = sum(nanos * (THRESHOLD - nanos) for nanos in short) ** 0.5
        sigma_of_count = sum(THRESHOLD / nanos for nanos in short) ** 0.5
        least, most = map(sum, zip(*pauses))
        print(f"{key}: {told[key] / 1e6:.2f} of {least / 1e6:.2f} to {most / 1e6:.2f} ms, {counts[key]} of {len(pauses)}, sigma {sigma / 1e6:.2f}, {sigma_of_count:.0f}")
        if not 0.95 * least - 4 * sigma <= told[key] <= 1.05 * most + 4 * sigma + 1:
            failed.append(key)
        if abs(counts[key] - len(pauses)) > 4 * sigma_of_count + 1:
            failed.append((key, "count"))
    assert not failed, failed
    assert {("large", "2"), ("between", "2"), ("on_thread", "2"), ("frozen", "1")} <= set(truth), set(truth)
    assert any(name == "many" for name, _ in truth)
    # One of the child's own, which nobody measured here.
    assert told["in_child", "2"] > 0, told
    assert labels_of["on_thread"]["thread_name"] in ("collector", "python", os.path.basename(sys.executable)), labels_of
    assert labels_of["labelled"]["tenant"] == "a" and labels_of["labelled"]["generation"] == "2", labels_of
    everything = sum(least for pauses in truth.values() for least, _ in pauses)
    print(f"callback {cost * 1e3:.2f} ms for {everything / 1e6:.1f} ms of pauses in {sum(map(len, truth.values()))} collections")
    assert 0 < cost * 1e9 < 0.5 * everything

    # A recording alone, and what is left of it.
    everprof.start(dir=folder, kinds="cpu", period_s=600)
    with everprof.profile("gc") as block:
        large()
    assert "large" in str(block.top()), block.top()
    everprof.stats()
    assert followers() == []
    everprof.stop()
finally:
    shutil.rmtree(folder, ignore_errors=True)
