"""The leak view: what lives is told by how many ends of periods it has seen, by Python's lines. A leak has blocks of every age, and the
oldest are its own; a cache that is filled anew and what is dropped at once have none that are old."""

import collections
import math
import os
import shutil
import tempfile
import threading
import time

import everprof
import pprof

PERIODS = 9
leaked = []


class Session:
    def __init__(self, number):
        self.number = number
        self.payload = bytes(2000)


def leak(number):
    session = Session(number)
    leaked.append(session)


def cache(into, number):
    # Numbers as small as this one are always there.
    into[number & 127] = [number] * 300


def drop(number):
    return not str(number) * 200


def serve(until, entries=[None] * 128):
    number = 0
    while time.monotonic() < until:
        for _ in range(40):
            number += 1
            leak(number), cache(entries, number), drop(number)
        time.sleep(0.01)


folder = tempfile.mkdtemp(prefix="everprof-")
everprof.start(dir=folder, kinds="cpu,heap", interval_bytes=65536, period_s=1)
thread = threading.Thread(target=serve, args=(time.monotonic() + PERIODS + 0.5,))
thread.start()
thread.join()
truth = len(leaked) * 2033
everprof.stop()
files = sorted(os.path.join(path, name) for path, _, names in os.walk(folder) for name in names if name.endswith(".heap.pb.gz"))
ages = collections.defaultdict(collections.Counter)
for stack, values, labels in pprof.Profile(files[-1]).samples:
    own = next((frame for frame in stack if frame.file == __file__), None)
    if own is not None and values[-1]:
        ages[own.name.rpartition(".")[2], own.line - own.start][labels.get("age", 0)] += values[-1]
shutil.rmtree(folder)
for line, of in ages.items():
    print(line, {age: f"{amount / 1e6:.2f} MB" for age, amount in sorted(of.items())})
leak_of = ages["__init__", 2]
# 2 KB of each session, in samples of 64 KiB.
lives = sum(leak_of.values())
print(f"{len(files)} periods; {lives / truth:.3f} of {truth / 1e6:.1f} MB that leaked lives")
assert len(files) >= PERIODS and abs(lives / truth - 1) < 4 * math.sqrt(65536 / truth), (len(files), lives, truth)
# It grows evenly. Ages come in classes: 4 is 4 to 7 periods.
assert {1, 2, 4} <= set(leak_of) and 0.25 < leak_of[4] / lives < 0.65, leak_of
# What is old leaks: nearly all of it by that line, the rest by those that it leans on, the object and its number.
old = collections.Counter({line: sum(amount for age, amount in of.items() if age >= 2) for line, of in ages.items()})
assert old["__init__", 1] + old["__init__", 2] > 0.9 * sum(old.values()), old
# And what is young only is there as well; the interpreter keeps some lists for the next.
assert old["cache", 2] < 0.01 * sum(old.values()) and not old["drop", 1], ages
