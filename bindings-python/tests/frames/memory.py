"""Allocations by line: what a line asks for is known, and is found within what samples allow; what is given back lives no more.

Small blocks come from the interpreter's own arenas (the domains `obj` and `mem`), large ones by way of `malloc`.
"""

import collections
import math
import os
import shutil
import sys
import tempfile
import threading

import everprof
import pprof

INTERVAL = 64 * 1024
ROUNDS = int(os.environ.get("EVERPROF_TEST_ROUNDS", "8"))
# Of each function and round.
BYTES = 4_000_000


class Slots:
    __slots__ = tuple(f"s{number}" for number in range(20))


# Each allocates on a line of its own, into a list that is there. The numbers of the loop are on the line before.


def small_bytes(into):
    for i in range(len(into)):
        into[i] = bytes(100)


def middle_bytes(into):
    for i in range(len(into)):
        into[i] = bytes(450)


def large_bytes(into):
    for i in range(len(into)):
        into[i] = bytes(5000)


def huge_bytes(into):
    for i in range(len(into)):
        into[i] = bytes(1 << 20)


def strings(into):
    text = "0123456789" * 20
    for i in range(len(into)):
        into[i] = text + "."


def objects(into):
    for i in range(len(into)):
        into[i] = Slots()


def floats(into):
    for i in range(len(into)):
        into[i] = i * 0.5


def tuples(into):
    # Longer than those that the interpreter keeps for the next.
    thirty = (None,) * 30
    for i in range(len(into)):
        into[i] = thirty + thirty


def dropped(into):
    for i in range(len(into)):
        bytes(300)


def shrunk(into):
    # A buffer of 5000 bytes that has got 100 is made small: both are asked for.
    for i in range(len(into)):
        into[i] = os.pread(ZEROS, 5000, OFFSET)


def in_a_thread(into):
    thread = threading.Thread(target=middle_bytes_too, args=(into,))
    thread.start()
    thread.join()


def middle_bytes_too(into):
    for i in range(len(into)):
        into[i] = bytes(450)


ZEROS = os.memfd_create("zeros")
OFFSET = 9_900
os.ftruncate(ZEROS, OFFSET + 100)
FUNCTIONS = {
    small_bytes: bytes(100),
    middle_bytes: bytes(450),
    large_bytes: bytes(5000),
    huge_bytes: bytes(1 << 20),
    strings: "x" * 201,
    objects: Slots(),
    floats: 0.5,
    tuples: (None,) * 60,
    dropped: bytes(300),
    in_a_thread: bytes(450),
}


folder = tempfile.mkdtemp(prefix="everprof-")
# What lived before the start may go after it.
before = [bytes(200) for _ in range(100_000)]
everprof.start(dir=folder, kinds="alloc,heap", interval_bytes=INTERVAL, period_s=600)
asked, made, alive = collections.Counter(), collections.Counter(), collections.Counter()
kept = []
del before
for round in range(ROUNDS):
    for function, one in FUNCTIONS.items():
        into = [None] * (BYTES // sys.getsizeof(one))
        function(into)
        name = "middle_bytes_too" if function is in_a_thread else function.__name__
        asked[name] += len(into) * sys.getsizeof(one)
        made[name] += len(into)
        if round % 2 and into[0] is not None:
            kept.append(into)
            alive[name] += len(into) * sys.getsizeof(one)
        into = None
for _ in range(10):
    into = [None] * 6000
    shrunk(into)
stats = everprof.stats()
everprof.stop()

found, live, objects_found = collections.Counter(), collections.Counter(), collections.Counter()
own_lines = {name: function.__code__.co_firstlineno for name, function in globals().items() if callable(function) and hasattr(function, "__code__")}


def name_of(stack):
    """The function whose last line this is."""
    own = next((frame for frame in stack if frame.file == __file__), None)
    if own is None or own.name not in own_lines:
        return "others"
    length = {"strings": 3, "tuples": 4, "shrunk": 3}.get(own.name, 2)
    return own.name if own.line == own_lines[own.name] + length else "others"


for stack, values, _ in pprof.profiles(folder, "alloc"):
    found[name_of(stack)] += values[1]
    objects_found[name_of(stack)] += values[0]
for stack, values, _ in pprof.profiles(folder, "heap"):
    live[name_of(stack)] += values[-1]
shutil.rmtree(folder)

print(f"sources {stats['alloc_sources']}, others {found['others'] / 1e6:.2f} MB")
# Two objects a call, of which the small one is known by some 120 samples.
per_call = objects_found["shrunk"] / 60_000
print(f"shrunk: {per_call:.2f} objects a call")
assert abs(per_call - 2) < 0.5
total = 0
for name, truth in asked.items():
    # Of a Poisson process: each sample of a block of `size` bytes stands for 1 / (1 - exp(-size / INTERVAL)) of them.
    size = truth / made[name]
    probability = 1 - math.exp(-size / INTERVAL)
    sigma = lambda bytes: math.sqrt(bytes / size * (1 - probability) / probability) * size + 1
    off, off_live = (found[name] - truth) / sigma(truth), (live[name] - alive[name]) / sigma(alive[name])
    total += off
    print(f"{name}: {found[name] / truth:.3f} of {truth / 1e6:.1f} MB, {off:.1f} sigma; {objects_found[name] / made[name]:.3f} of the objects; "
          f"live {live[name] / 1e6:.1f} of {alive[name] / 1e6:.1f} MB, {off_live:.1f} sigma")
    assert abs(off) < 4, name
    assert abs(off_live) < 4, name
assert abs(total) < 4 * math.sqrt(len(asked)), total
