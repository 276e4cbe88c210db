"""Every sample has the labels of the code that ran: of the task, the greenlet or the context, however they take turns on a thread.

What burns or sleeps is named by the label that it has to have.
"""

import asyncio
import collections
import contextvars
import os
import shutil
import tempfile
import threading
import time

import everprof
import pprof

# Another ContextVar's maps are larger than those of one alone.
MANY = [contextvars.ContextVar(f"other{number}") for number in range(200)]


def spin(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def work_of(who):
    """Two functions of that name."""
    names = {}
    exec(f"def burn_{who}(seconds): spin(seconds)\ndef sleep_{who}(seconds): time.sleep(seconds)", {"spin": spin, "time": time}, names)
    return names[f"burn_{who}"], names[f"sleep_{who}"]


async def task(who):
    burn, _ = work_of(who)
    with everprof.labels(who=who):
        for _ in range(15):
            burn(0.004)
            await asyncio.sleep(0)
            with everprof.labels(who=who + "in"):
                await asyncio.sleep(0)
                work_of(who + "in")[0](0.002)


async def task_without():
    burn, _ = work_of("nobody")
    for _ in range(15):
        burn(0.004)
        await asyncio.sleep(0)


async def tasks():
    for number, other in enumerate(MANY):
        if number % 3:
            other.set(number)
    await asyncio.gather(*(task(f"t{number}") for number in range(10)), *(task_without() for _ in range(3)))


def thread(who):
    burn, sleep = work_of(who)
    with everprof.labels(who=who):
        burn(0.1), sleep(0.3)
        with everprof.labels(who=who + "in"):
            burn, sleep = work_of(who + "in")
            burn(0.1), sleep(0.3)
    work_of("nobody")[0](0.05)


def generator(who):
    burn, _ = work_of(who)
    while True:
        burn(0.005)
        yield


def contexts():
    with everprof.labels(who="copied"):
        copied = contextvars.copy_context()
    burn = work_of("copied")[0]
    for _ in range(10):
        work_of("nobody")[0](0.01)
        copied.run(burn, 0.03)
    # A generator runs in its caller's context.
    mine, others = generator("nobody"), generator("g")
    with everprof.labels(who="g"):
        next(others)
    for _ in range(60):
        next(mine)
        with everprof.labels(who="g"):
            next(others)
    # Without a label, in maps of every size: their nodes have places that are empty.
    empty = contextvars.Context()
    for other in MANY:
        empty.run(other.set, 1)
        empty.run(work_of("nobody")[0], 0.0005)
    for other in MANY:
        other.set(1)
    with everprof.labels(who="m"):
        work_of("m")[0](0.3)


def greenlets():
    try:
        import gevent
    except ImportError:
        print("NOT TESTED: gevent is not installed")
        return 0

    def greenlet(who):
        burn, _ = work_of(who)
        with everprof.labels(who=who):
            for _ in range(15):
                burn(0.004)
                gevent.sleep(0)

    gevent.joinall([gevent.spawn(greenlet, f"v{number}") for number in range(10)])
    return 10


folder = tempfile.mkdtemp(prefix="everprof-")
# What is entered before the start is found as well, and ends after it.
with everprof.labels(who="early"):
    everprof.start(dir=folder, rate_hz=997, kinds="cpu,wall", wall_rate_hz=200, period_s=600)
    off = everprof.stats()["labels_off"]
    assert off is None, off
    work_of("early")[0](0.3)
    # The thread's slot has it still, and this context does not.
    contextvars.Context().run(work_of("nobody")[0], 0.2)
    contextvars.Context().run(asyncio.run, task_without())
work_of("nobody")[0](0.1)
asyncio.run(tasks())
threads = [threading.Thread(target=thread, args=(f"h{number}",)) for number in range(4)]
[one.start() for one in threads], [one.join() for one in threads]
contexts()
expected = greenlets() + 10 + 4
everprof.flush()
everprof.stop()

right, wrong = collections.Counter(), collections.Counter()
for kind in ("cpu", "wall"):
    for stack, _, labels in pprof.profiles(folder, kind):
        names = (frame.name.rpartition(".")[2].partition("_") for frame in stack)
        verb, who = next(((verb, who) for verb, _, who in names if verb in ("burn", "sleep") and who), (None, None))
        if who is not None:
            (right if labels.get("who", "nobody") == who else wrong)[kind, verb, who, labels.get("who")] += 1
print(f"{sum(right.values())} right of {len(right)} kinds, wrong: {dict(wrong)}")
assert not wrong
assert sum(right.values()) > 200 and len({who for _, _, who, _ in right}) > expected
assert {"early", "copied", "g", "m", "nobody"} <= {who for _, _, who, _ in right}
# Threads that slept were looked at from outside.
assert {who for kind, verb, who, _ in right if (kind, verb) == ("wall", "sleep")} >= {f"h{number}{part}" for number in range(4) for part in ("", "in")}
shutil.rmtree(folder)
os._exit(0)
