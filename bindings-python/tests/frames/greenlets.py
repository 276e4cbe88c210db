"""Greenlets take turns on one stack of the system's, which is copied away and back: each sample has the frames of the greenlet that ran,
all of them, and no other's; and each greenlet has its share of the time.

`gevent` as argument: with gevent's hub, its labels and its pool of threads beside greenlet's own switches.
"""

import collections
import math
import os
import random
import shutil
import sys
import tempfile
import time

WHICH = sys.argv[1] if len(sys.argv) > 1 else "greenlet"
SECONDS = float(sys.argv[2]) if len(sys.argv) > 2 else 3
try:
    import greenlet

    if WHICH == "gevent":
        import gevent
        import gevent.threadpool
except ImportError as error:
    print(f"NOT TESTED: {error}")
    sys.exit()

import everprof
import pprof

RATE = 997
# Names and their shares of the time.
SHARES = {f"g{number}": 1 + number % 4 for number in range(8)}
CALLS = 12

names = {}
for who in SHARES:
    # Each greenlet has functions of its own: calls of calls, by way of C and a generator, and at the end work and a switch.
    exec(
        f"""
def deep_{who}(left, seconds):
    if left % 4 == 1:
        return sorted([left], key=lambda _: deep_{who}(left - 1, seconds))
    if left % 4 == 2:
        return list(between_{who}(left, seconds))
    return deep_{who}(left - 1, seconds) if left else leaf_{who}(seconds)

def between_{who}(left, seconds):
    yield deep_{who}(left - 1, seconds)

def leaf_{who}(seconds):
    burn_{who}(seconds)
    switch()
    burn_{who}(seconds)

def burn_{who}(seconds):
    end = clock() + seconds
    while clock() < end:
        pass

def root_{who}(share):
    with labels(who="{who}"):
        while clock() < over[0]:
            deep_{who}(CALLS, share * 0.001 * (0.5 + random()))
            if not share:
                break
""",
        names,
    )

over = [0.0]
names.update(clock=time.thread_time, labels=everprof.labels, CALLS=CALLS, over=over, random=random.random)


def greenlets():
    """Round and round, by greenlet's own switches: in the middle of calls."""
    ring = [greenlet.greenlet(names[f"root_{who}"]) for who in SHARES]
    following = {id(one): other for one, other in zip(ring, ring[1:] + ring[:1])}

    def switch():
        target = following[id(greenlet.getcurrent())]
        while target.dead:
            target = following[id(target)]
        if target is not greenlet.getcurrent():
            target.switch(SHARES_OF[id(target)])

    names["switch"] = switch
    SHARES_OF = {id(one): share for one, share in zip(ring, SHARES.values())}
    for one in ring:
        if not one.dead:
            one.switch(SHARES_OF[id(one)])
    while any(not one.dead for one in ring):
        for one in ring:
            if not one.dead:
                one.switch(SHARES_OF[id(one)])


def hub():
    names["switch"] = lambda: gevent.sleep(0)
    tasks = [gevent.spawn(names[f"root_{who}"], share) for who, share in SHARES.items()]
    # Threads of its own, where greenlets take turns as well.
    pool = gevent.threadpool.ThreadPool(2)
    others = [pool.spawn(sum, range(10**6)) for _ in range(20)]
    gevent.joinall(tasks)
    gevent.joinall(others)
    pool.kill()


folder = tempfile.mkdtemp(prefix="everprof-")
everprof.start(dir=folder, rate_hz=RATE, kinds="cpu", period_s=600)
assert everprof.stats()["frames_off"] is None, everprof.stats()["frames_off"]
over[0] = time.thread_time() + SECONDS
(hub if WHICH == "gevent" else greenlets)()
stats = everprof.stats()
everprof.stop()

nanos, samples, torn, switching, wrong = collections.Counter(), 0, 0, 0, collections.Counter()
for stack, values, labels in pprof.profiles(folder, "cpu"):
    if any(frame.name.startswith("[incomplete") for frame in stack):
        torn += values[0]
    python = [frame.name.rpartition(".")[2] for frame in stack if frame.file.startswith("<") and not frame.file.startswith("<frozen")]
    owners = {name.partition("_")[2] for name in python if "_" in name}
    if not owners:
        continue
    samples += values[0]
    if len(owners) > 1:
        wrong["frames of " + " and ".join(sorted(owners))] += values[0]
        continue
    (who,) = owners
    if python[-1] != f"root_{who}":
        wrong[f"{who} begins with {python[-1]}"] += values[0]
    if labels.get("who", who) != who and stack[0].name.startswith("greenlet::"):
        # In the middle of a switch, the context is that of the next one already.
        switching += values[0]
    elif labels.get("who", who) != who:
        wrong[f"{who} has the label of {labels['who']}"] += values[0]
    if f"burn_{who}" in python:
        below = python[python.index(f"burn_{who}") + 1 :]
        # Every call of it is there: the leaf, a function for each depth and those between them, and the root.
        if below[0] != f"leaf_{who}" or below.count(f"deep_{who}") != CALLS + 1 or below.count(f"between_{who}") != CALLS // 4 or below.count("<lambda>") != CALLS // 4:
            wrong[f"{who} has calls {collections.Counter(below)}"] += values[0]
        nanos[who] += values[-1]

total = sum(nanos.values())
print(f"{WHICH}: {samples} samples, {total / 1e9:.2f} s, {torn} torn, {switching} in a switch, wrong: {dict(wrong)}")
assert not wrong
assert total > 0.85 * SECONDS * 1e9, total
# One signal comes at a tick, whatever was asked: that is what there is of samples.
independent = min(RATE, 250) * SECONDS
for who, share in SHARES.items():
    expected = share / sum(SHARES.values())
    sigma = math.sqrt(expected * (1 - expected) / independent)
    print(f"{who}: {nanos[who] / total:.3f}, expected {expected:.3f} ± {sigma:.3f}")
    assert abs(nanos[who] / total - expected) < 3 * sigma + 0.01, who
assert switching <= samples * 0.02
# What is torn is the native stack, where it ends: below the function that began the greenlet lies what another one has put there
# since. It has a mark, and above that all the greenlet's frames of Python, as was asserted.
shutil.rmtree(folder)
os._exit(0)
