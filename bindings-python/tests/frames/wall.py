"""Threads that wait in ways of every form: wall-clock profiles have their Python frames, line by line, and nobody is interrupted."""

import collections
import socket
import sys
import threading
import time

import profiler

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 3
ways = collections.Counter()
stop = threading.Event()
ends = socket.socketpair()


def told(level):
    frame, way = sys._getframe(level), []
    while frame:
        way.append((profiler.name_of(frame.f_code), frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return tuple(way)


def asleep():
    begin = time.monotonic()
    while time.monotonic() - begin < SECONDS:
        time.sleep(0.02)


def locked():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire(timeout=SECONDS)


def received():
    ends[0].settimeout(None)
    ends[0].recv(1)


def generator():
    yield received()


def by_way_of_c(depth):
    return sorted([1], key=lambda _: by_way_of_c(depth - 1) if depth else locked())


def by_generators():
    return list(generator())


def start(target, *arguments):
    def named():
        # What comes below it is the same in all samples.
        ways[told(0)[1:]] += 1
        target(*arguments)
    thread = threading.Thread(target=named, name=target.__name__)
    thread.start()
    return thread


def check(samples):
    seen, marked, total = collections.defaultdict(collections.Counter), 0, 0
    for stack, values, labels in samples:
        python = [frame for frame in stack if profiler.is_python(frame)]
        names = tuple(frame.name.split(".")[-1] for frame in python)
        owner = labels.get("thread_name", "")
        if owner not in wanted:
            continue
        total += values[-1]
        if not python or any(frame.name.startswith("[incomplete") for frame in stack):
            marked += values[-1]
            continue
        seen[owner][names] += values[-1]
    for owner, stacks in seen.items():
        print(owner, {" ".join(names[:-3]): round(nanos / 1e9, 2) for names, nanos in stacks.most_common(3)})
    print(f"{total / 1e9:.2f} s, {marked / 1e9:.2f} s without")
    assert total > 3e9 * SECONDS * 0.8
    assert marked < total * 0.05
    for owner, names in wanted.items():
        if (stacks := seen[owner]):
            best, nanos = stacks.most_common(1)[0]
            assert best[:len(names)] == names, (owner, best, names)
            # One that wakes every 20 ms may go on while it is looked at: then its leaf alone is told.
            assert nanos > (0.75 if owner == "asleep" else 0.9) * SECONDS * 1e9, (owner, nanos)


# Linux keeps fifteen characters of a name; only newer interpreters tell it their names.
wanted = {
    "asleep": ("asleep", "named"),
    "by_generators": ("received", "generator", "by_generators", "named"),
    "by_way_of_c": ("locked",) + ("<lambda>", "by_way_of_c") * 4 + ("named",),
}


def name_thread():
    """As interpreters before 3.14 do not."""
    with open(f"/proc/self/task/{threading.get_native_id()}/comm", "w") as comm:
        comm.write(threading.current_thread().name)


threading.setprofile(None)
with profiler.Run(99, "wall") as profile:
    begun = threading.Thread.run
    threading.Thread.run = lambda self: (name_thread(), begun(self))[1]
    threads = [start(asleep), start(by_generators), start(by_way_of_c, 3)]
    time.sleep(SECONDS)
    ends[1].send(b"x")
    for thread in threads:
        thread.join()
check(profile.samples)
