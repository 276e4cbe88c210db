"""The interpreter's lock: whether who used the processor held it, and that who waits for it is told, by stack.

Three threads that compute take turns at it, so each waits for two thirds of its time; hashing and compressing go on without it.
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


def computing(end):
    total = 0
    while time.monotonic() < end:
        for i in range(1000):
            total += i * i


def hashing(seconds):
    data, end = bytes(50_000_000), time.thread_time() + seconds
    while time.thread_time() < end:
        hashlib.sha256(data)


def together(*targets):
    threads = [threading.Thread(target=target, args=arguments) for target, *arguments in targets]
    [one.start() for one in threads], [one.join() for one in threads]


folder = tempfile.mkdtemp(prefix="everprof-")
everprof.start(dir=folder, rate_hz=500, kinds="cpu,wall,block", wall_rate_hz=200, period_s=600)
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


cpu, wall, block = sums("cpu"), sums("wall"), sums("block")
shutil.rmtree(folder)
for kind, found in (("cpu", cpu), ("wall", wall), ("block", block)):
    print(kind, {f"{name} {gil}": round(seconds, 2) for (name, gil), seconds in found.items() if name})
held, released = cpu.get(("computing", "held"), 0), cpu.get(("computing", "released"), 0)
# Between giving it up and having it again, a little is used.
assert released < 0.1 * held and cpu.get(("computing", None), 0) < 0.02 * held
assert cpu.get(("hashing", "released"), 0) > 0.9 * sum(seconds for (name, _), seconds in cpu.items() if name == "hashing")
waiting = wall.get(("computing", "waiting"), 0)
everything = sum(seconds for (name, _), seconds in wall.items() if name == "computing")
print(f"waits {waiting / everything:.3f} of the time, by block {block.get(('computing', 'waiting'), 0) / everything:.3f}")
# On a crowded machine all three also wait for a processor: of that nobody knows whether it was with the lock or for it.
ready = wall.get(("computing", None), 0)
assert waiting < 0.8 * everything and waiting + ready > 0.5 * everything
assert wall.get(("computing", "held"), 0) < 0.5 * everything, "one at a time"
assert 0.85 * waiting < block.get(("computing", "waiting"), 0) < 1.15 * (waiting + ready)
