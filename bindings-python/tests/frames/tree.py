"""A tree of calls of every form. Each branch spins for a while in `spin`, and says before it by what way it came there, as the
interpreter sees it: then every sample in `spin` has to have just such a stack, line by line, and each way its share of time."""

import collections
import ctypes
import functools
import math
import sys
import threading
import time

import profiler

# Ways into `spin`: names, files and lines of all callers, innermost first; and the seconds spent there.
ways = collections.Counter()
SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 0.25


def spin():
    frame, way = sys._getframe(1), []
    while frame:
        way.append((profiler.name_of(frame.f_code), frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    begin = now = time.thread_time()
    while now - begin < SECONDS:
        for _ in range(500):
            pass
        now = time.thread_time()
    ways[tuple(way)] += now - begin
    return 1


def recursion(depth):
    return recursion(
        depth - 1
    ) if depth else spin()


def deep():
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(5000)
    # As deep as a stack may be, which has 512 frames.
    recursion(200)
    sys.setrecursionlimit(limit)


def generator():
    yield 0
    yield spin()


def outer_generator():
    yield from generator()


def generators():
    for _ in outer_generator():
        pass
    return list(found for found in generator())


def comprehension():
    return [spin() for _ in range(1)] + list({spin(): 1}.values())


class Thing:
    """All that calls without being called."""

    class Inner:
        def method(self):
            return spin()

    def __init__(self):
        spin()

    @property
    def attribute(self):
        return spin()

    @staticmethod
    def static():
        return spin()

    @classmethod
    def of_class(cls):
        return spin()

    def __lt__(self, other):
        spin()
        return True

    def __del__(self):
        spin()


def things():
    thing = Thing()
    thing.Inner().method()
    thing.attribute
    thing.static()
    thing.of_class()
    sorted([thing, thing])
    del thing


def by_way_of_c():
    sorted([1], key=lambda _: spin())
    functools.reduce(lambda a, b: spin(), [1, 2])
    list(map(lambda _: sorted([1], key=lambda _: spin()), [1]))
    callback = ctypes.CFUNCTYPE(ctypes.c_int)(spin)
    callback()


def exécuté():
    source = "def 名𠀀():\n\n    return spin()\n名𠀀()"
    exec(compile(source, "<日本 écrit>", "exec"), {"spin": spin})
    eval("(lambda: spin())()", {"spin": spin})


def exceptions():
    try:
        raise ValueError
    except ValueError:
        spin()
    finally:
        spin()


def decorated(function):
    @functools.wraps(function)
    def wrapper(*arguments, **named):
        return function(*arguments, **named)
    return wrapper


@decorated
@functools.lru_cache
def cached(*, named):
    return spin()


async def awaited():
    return spin()


async def coroutine():
    return await awaited()


async def asynchronous():
    async for _ in numbers():
        pass


async def numbers():
    yield spin()


def run(coroutine):
    try:
        while True:
            coroutine.send(None)
    except StopIteration:
        pass


class body_of_class_is_code:
    def call(self):
        class Local:
            spin()


def closures():
    a = b = 1

    def inner():
        return (a, b, spin())
    return inner()


def all_of_it():
    recursion(5)
    deep()
    generators()
    comprehension()
    things()
    by_way_of_c()
    exécuté()
    exceptions()
    cached(named=1)
    run(coroutine())
    run(asynchronous())
    body_of_class_is_code().call()
    closures()
    thread = threading.Thread(target=recursion, args=(3,))
    thread.start()
    thread.join()


def placed(stack):
    """Whether C's frames are between the Python frames where C called, and, since one loop runs several, only there."""
    python = [at for at, frame in enumerate(stack) if profiler.is_python(frame)]
    for inner, outer in zip(python, python[1:]):
        names = stack[inner].name.split(".")[-1], stack[outer].name.split(".")[-1]
        if names == ("<lambda>", "by_way_of_c"):
            yield "placed" if outer - inner > 1 else "displaced"
        elif names == ("recursion", "recursion") and sys.version_info >= (3, 11):
            yield "placed" if outer - inner == 1 else "displaced"


def check(samples, counts):
    seen, strangers, others, places = collections.Counter(), [], collections.Counter(), collections.Counter()
    for stack, values, _ in samples:
        python = [frame for frame in stack if profiler.is_python(frame)]
        if not python or python[0].name != "spin":
            others[repr(python[:2]) + repr(stack[:3])] += values[-1]
            continue
        way = tuple((frame.name, frame.file, frame.line) for frame in python[1:])
        if way in ways:
            seen[way] += values[-1]
            places.update(placed(stack))
        else:
            strangers.append(way)
    # The loop of the interpreter's that calls `spin` may be at work still, or again, with the line before or after.
    total = sum(values[-1] for _, values, _ in samples) / 1e9
    spun = sum(ways.values())
    found = sum(seen.values()) / 1e9
    print(f"{len(ways)} ways, {spun:.2f} s in them, {found:.2f} s found, {total:.2f} s in all, "
          f"{len(strangers)} strangers, counts {counts}")
    for way in strangers[:3]:
        print("stranger:", [(name, profiler.short(file), line) for name, file, line in way][:8])
        near = min(ways, key=lambda known: sum(a != b for a, b in zip(known, way)) + abs(len(known) - len(way)))
        print("    near:", [(name, profiler.short(file), line) for name, file, line in near][:8])
    print(dict(places), [(round(nanos / 1e9, 3), what) for what, nanos in others.most_common(2)])
    assert not strangers
    # Python's frames stand where the interpreter's loop ran them: those of a call by way of C have C's frames between them.
    good, bad = places["placed"], places["displaced"]
    assert good > 20 and bad <= good * 0.005, (good, bad)
    assert counts[0] == 0 and counts[2] == 0, counts
    # On a crowded machine no signal may reach a thread before its end, which is said so.
    unsampled = sum(values[-1] for stack, values, _ in samples if "unsampled" in stack[-1].name) / 1e9
    assert abs(found + unsampled - spun) < 0.05 * spun + 0.05, (found, unsampled, spun)
    for way, seconds in ways.items():
        # At 250 samples a second, five sigmas; and a virtual machine that is crowded delivers its ticks tens of milliseconds late,
        # which is told of where they come. Of a way that is missing, all would be off.
        off = abs(seen[way] / 1e9 - seconds)
        assert off < 5 * math.sqrt(seconds / 250) + 0.03 + unsampled, (way[:3], seconds, seen[way] / 1e9)


with profiler.Run(997) as profile:
    all_of_it()
check(profile.samples, profile.counts)
