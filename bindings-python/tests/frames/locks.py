"""Locks: what threads waited for them, by who waited and by who held them, against the program's own clock; and that to wait for
something to do is no contention.
"""

import collections
import concurrent.futures
import io
import os
import queue
import shutil
import sys
import tempfile
import threading
import time

import everprof
import pprof

THREADS, ROUNDS = 4, 8
# Seconds that a thread without anything to do waits for it.
IDLE = 0.4

waited = collections.Counter()
mine = threading.Lock()
# What a thread was not waiting for its lock.
writing = threading.local()


def count(name, begin):
    seconds = time.perf_counter() - begin
    with mine:
        waited[name] += seconds


def by_acquire(lock, hold):
    begin = time.perf_counter()
    lock.acquire()  # waits: by_acquire
    count("by_acquire", begin)
    time.sleep(hold)
    lock.release()


def by_with(lock, hold):
    begin = time.perf_counter()
    with lock:  # waits: by_with
        count("by_with", begin)
        time.sleep(hold)


def by_timeout(lock, hold):
    begin = time.perf_counter()
    assert lock.acquire(timeout=60)  # waits: by_timeout
    count("by_timeout", begin)
    time.sleep(hold)
    lock.release()


def by_rlock(lock, hold):
    begin = time.perf_counter()
    with lock, lock:  # waits: by_rlock
        count("by_rlock", begin)
        time.sleep(hold)


def by_rlock_acquire(lock, hold):
    begin = time.perf_counter()
    lock.acquire()  # waits: by_rlock_acquire
    count("by_rlock_acquire", begin)
    time.sleep(hold)
    lock.release()


def by_condition(lock, hold):
    begin = time.perf_counter()
    with lock:  # waits: by_condition
        count("by_condition", begin)
        time.sleep(hold)


class Slow(io.RawIOBase):
    def writable(self):
        return True

    def write(self, data):
        begin = time.perf_counter()
        time.sleep(0.01)
        writing.seconds += time.perf_counter() - begin
        return len(data)


def by_buffer(file, hold):
    """The lock is one of C's, made by `io`."""
    writing.seconds = 0
    begin = time.perf_counter()
    file.write(bytes(100))  # waits: by_buffer
    count("by_buffer", begin + writing.seconds)


SITES = [
    (by_acquire, threading.Lock(), 0.005),
    (by_with, threading.Lock(), 0.006),
    (by_timeout, threading.Lock(), 0.007),
    (by_rlock, threading.RLock(), 0.008),
    (by_rlock_acquire, threading.RLock(), 0.009),
    (by_condition, threading.Condition(), 0.010),
    (by_buffer, io.BufferedWriter(Slow(), 10), 0),
]
NAMES = [site.__name__ for site, *_ in SITES]
with open(__file__) as source:
    LINES = {text.split("# waits: ")[1].strip(): line for line, text in enumerate(source, 1) if "# waits: by_" in text}


def together(*targets):
    threads = [threading.Thread(target=target, args=arguments) for target, *arguments in targets]
    [one.start() for one in threads], [one.join() for one in threads]


def contend():
    begin = threading.Barrier(THREADS)

    def work():
        for site, lock, hold in SITES:
            begin.wait()
            for _ in range(ROUNDS):
                site(lock, hold)

    together(*[(work,)] * THREADS)


condition, told = threading.Condition(), []


def restored():
    """The lock of a condition is waited for after the condition."""
    with condition:
        condition.wait()
        count("restored", told[0])


def notifying():
    with condition:
        told[:] = [time.perf_counter()]
        condition.notify()
        time.sleep(0.05)


def restore():
    for _ in range(ROUNDS):
        thread = threading.Thread(target=restored)
        thread.start()
        time.sleep(0.05)
        notifying()
        thread.join()


event, items, simple, places = threading.Event(), queue.Queue(), queue.SimpleQueue(), threading.Semaphore(0)
meeting, future = threading.Barrier(2), concurrent.futures.Future()
sleeping = threading.Thread(target=time.sleep, args=(IDLE,))
IDLERS = {
    "on_event": (event.wait, "condition"),
    "on_queue": (items.get, "channel"),
    "on_simple_queue": (simple.get, "channel"),
    "on_semaphore": (places.acquire, "semaphore"),
    "on_barrier": (meeting.wait, "barrier"),
    "on_future": (future.result, "condition"),
    "on_thread": (sleeping.join, "join"),
}


def idling(name, wait):
    scope = {"wait": wait, "count": count, "clock": time.perf_counter}
    exec(f"def {name}():\n begin = clock()\n wait()\n count({name!r}, begin)", scope)
    return scope[name]


def idle():
    threads = [threading.Thread(target=idling(name, wait)) for name, (wait, _) in IDLERS.items()]
    sleeping.start(), [one.start() for one in threads]
    time.sleep(IDLE)
    event.set(), items.put(1), simple.put(1), places.release(), meeting.wait(), future.set_result(1)
    [one.join() for one in threads]


folder = tempfile.mkdtemp(prefix="everprof-")
everprof.start(dir=folder, kinds="cpu,lock,mutex,block", period_s=600)
assert everprof.stats()["last_problem"] is None, everprof.stats()["last_problem"]
contend(), restore(), idle()
everprof.flush()
lost = everprof.stats()["lock_lost"]
everprof.stop()


def sums(kind, names):
    """Seconds by the innermost function that is one of these, and what the wait was for."""
    found = collections.Counter()
    for stack, values, labels in pprof.profiles(folder, kind):
        frame = next((frame for frame in stack if frame.name.split(".")[-1] in names), None)
        if frame and "gil" not in labels:
            name = frame.name.split(".")[-1]
            found[name, labels["wait"]] += values[-1] / 1e9
            if kind != "mutex" and labels["wait"] == "mutex" and name in LINES:
                assert frame.line == LINES[name], frame
    return found


everyone = [*NAMES, "restored", "notifying", *IDLERS]
lock, mutex, block = (sums(kind, everyone) for kind in ("lock", "mutex", "block"))
shutil.rmtree(folder)
assert lost == 0, lost
failed = []


# The program's clock stops when it has the interpreter's lock and a processor again, which it may have to wait for.
ROOM = 0.05 if os.getloadavg()[0] < os.cpu_count() else 0.15


def check(what, told, truth, room=ROOM):
    print(f"{what}: {told:.3f} of {truth:.3f} s")
    if not abs(told - truth) <= room * truth + 0.002:
        failed.append(what)


for name in NAMES:
    for kind, found in (("lock", lock), ("block", block), ("mutex", mutex)):
        check(f"{name} in {kind}", found[name, "mutex"], waited[name])
check("restored in lock", lock["restored", "mutex"], waited["restored"])
check("notifying in mutex", mutex["notifying", "mutex"], waited["restored"])
for name, (_, wait) in IDLERS.items():
    check(f"{name} as {wait} in block", block[name, wait], waited[name])
    for kind, found in (("lock", lock), ("mutex", mutex)):
        check(f"{name} in {kind}", sum(seconds for (found, _), seconds in found.items() if found == name), 0)
assert not failed, failed
