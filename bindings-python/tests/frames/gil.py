"""The interpreter's lock: whether who used the processor held it, and that who waits for it is told, by stack.

Three threads that compute take turns at it, so each waits for two thirds of its time; hashing and compressing go on without it.
What the kernel says of a thread is the truth: the time that it was neither on a processor nor ready to run, it waited for the lock.
"""

import hashlib
import shutil
import sys
import tempfile
import threading
import time

import everprof
import pprof

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 3


# Of threads that compute: the seconds, those on a processor, and those ready to run.
times = []


def scheduled():
    """On a processor, and ready to run; None where the kernel does not tell."""
    try:
        with open("/proc/thread-self/schedstat") as file:
            return [int(word) / 1e9 for word in file.read().split()[:2]]
    except OSError:
        return None


def computing(end):
    total, begin, before = 0, time.monotonic(), scheduled()
    while time.monotonic() < end:
        for i in range(1000):
            total += i * i
    if before:
        times.append([time.monotonic() - begin, *(now - then for now, then in zip(scheduled(), before))])


def hashing(seconds):
    data, end = bytes(50_000_000), time.thread_time() + seconds
    while time.thread_time() < end:
        hashlib.sha256(data)


def together(*targets):
    threads = [threading.Thread(target=target, args=arguments) for target, *arguments in targets]
    [one.start() for one in threads], [one.join() for one in threads]


folder = tempfile.mkdtemp(prefix="everprof-")
everprof.start(dir=folder, rate_hz=500, kinds="cpu,wall,lock,mutex,block,gil", wall_rate_hz=200, period_s=600)
end = time.monotonic() + SECONDS
together(*[(computing, end)] * 3)
hashing(SECONDS / 3)
everprof.flush()
everprof.stop()


def sums(kind, value=-1):
    """By the function, and what is said of the lock."""
    found = {}
    for stack, values, labels in pprof.profiles(folder, kind):
        name = next((frame.name for frame in stack if frame.name in ("computing", "hashing")), None)
        key = name, labels.get("gil")
        found[key] = found.get(key, 0) + values[value] / 1e9
    return found


cpu, wall, block, gil = sums("cpu"), sums("wall"), sums("block"), sums("gil")
counts = sums("gil", 0).get(("computing", None), 0) * 1e9
contention = {kind: sum(sums(kind).values()) for kind in ("lock", "mutex")}
shutil.rmtree(folder)
for kind, found in (("cpu", cpu), ("wall", wall), ("block", block), ("gil", gil)):
    print(kind, {f"{name} {gil}": round(seconds, 2) for (name, gil), seconds in found.items() if name})
held, released = cpu.get(("computing", "held"), 0), cpu.get(("computing", "released"), 0)
# Between giving it up and having it again, a little is used.
assert released < 0.1 * held and cpu.get(("computing", None), 0) < 0.02 * held
assert cpu.get(("hashing", "released"), 0) > 0.9 * sum(seconds for (name, _), seconds in cpu.items() if name == "hashing")
waiting = wall.get(("computing", "waiting"), 0)
everything = sum(seconds for (name, _), seconds in wall.items() if name == "computing")
print(f"waits {waiting / everything:.3f} of the time, by block {block.get(('computing', 'waiting'), 0) / everything:.3f}")
told = gil.get(("computing", None), 0)
assert abs(block.get(("computing", "waiting"), 0) / told - 1) < 0.01
if times:
    elapsed, on_cpu, ready = (sum(column) for column in zip(*times))
    # Who has the lock and waits for a processor is ready as well, and so is who was just woken: that is between the two.
    least, most = elapsed - on_cpu - ready, elapsed - on_cpu
    print(f"gil {told:.3f} s in {counts:.0f} waits, of {least:.3f} to {most:.3f} s")
    assert 0.95 * least < told < 1.05 * most
    # Looks are fewer than waits.
    assert 0.8 * least < waiting < 1.05 * most
else:
    print("SKIPPED: the kernel has no schedstat")
# Who waits for two others looks up every 5 ms, which is not another wait; each turn has a short one of who gives the lock up.
assert told / counts > 0.0025, told / counts
# No lock of the program's.
assert all(seconds < 0.02 * told for seconds in contention.values()), contention
