"""What the tasks of asyncio wait for that do not run (option `async_tasks=waits`): samples of the wall profile, `state=awaiting`.

In each loop a callback looks at its tasks now and then: at some, chosen at random, which stand for all; what it finds stands for the
time since the look before. A task's stack goes from its coroutine along what that awaits to the innermost one that is written in
Python, and where that waits for another task, through that one's. Nothing is asked of tasks that a debugger would not ask.

A look is bounded in tasks and time, and looks are a hundredth of a loop's time at most; where nothing moves they become rare. The loop is not
kept alive or at work by it: it ends when the program says so. While a task computes nobody can look; what has passed then counts as a wait of all
tasks, that one too.
"""

import gc
import sys
import weakref
from contextvars import Context
from time import perf_counter_ns, thread_time_ns
from types import AsyncGeneratorType, CoroutineType, GeneratorType

from . import _everprof, _tasks
from ._labels import _IN_FORCE, _NONE

# Seconds between two looks; where nothing moves; and where nobody wants to know.
_INTERVAL, _QUIET, _SELDOM = 0.1, 0.5, 2.0
# A look may take this part of the time to the next.
_SHARE = 100
# Tasks of one look, and nanoseconds.
_MOST_TASKS, _MOST_NANOS = 50, 1_000_000
_MOST_FRAMES = 100

# What stands between a coroutine and what it awaits, and shows neither.
_WRAPPERS = frozenset({"async_generator_asend", "async_generator_athrow", "anext_awaitable", "coroutine_wrapper"})

# By the file of the innermost function, and by its name: what it waits for.
_WAITS = {
    "asyncio/tasks.py": ("task", {"sleep": "timer"}),
    "asyncio/locks.py": ("task", {"acquire": "lock"}),
    "asyncio/queues.py": ("task", {}),
    "asyncio/taskgroups.py": ("task", {}),
    "asyncio/streams.py": ("network", {}),
    "asyncio/base_events.py": ("network", {}),
    "asyncio/selector_events.py": ("network", {}),
    "asyncio/subprocess.py": ("process", {}),
    "asyncio/base_subprocess.py": ("process", {}),
}
# Packages that speak to other services: who waits for something else in there waits for those.
_CLIENTS = frozenset(
    {"aiohttp", "aiokafka", "aiomysql", "aiopg", "asyncmy", "asyncpg", "grpc", "httpcore", "motor", "nats", "psycopg", "pymongo", "redis", "websockets"}
)
_NEAR_LEAF = 8

_looks: dict = {}
_known: dict = {}


def watch(loop):
    """Looks at that loop's tasks from now on. In the loop's thread, or before it runs."""
    look = _looks.get(id(loop))
    if look is not None and look.loop() is loop:
        if not loop.is_running():
            # What passes while nothing runs is no wait.
            look.last = perf_counter_ns()
        return
    if not loop.is_running() or sys.modules["asyncio.events"]._get_running_loop() is loop:
        _looks[id(loop)] = look = _Look(loop)
        look.begin(loop)


class _Look:
    def __init__(self, loop):
        key = id(loop)
        self.loop = weakref.ref(loop, lambda _: _looks.pop(key, None))
        # Its own: it is nobody's task.
        self.context = Context()
        self.last = perf_counter_ns()
        self.interval = _INTERVAL
        self.before = None
        self.seed = self.last | 1

    def begin(self, loop, least=0.0):
        # Not in step with anything that comes regularly.
        delay = self.interval * (0.5 + self.random(1 << 16) / (1 << 16))
        loop.call_later(max(delay, least), self.look, context=self.context)

    def look(self):
        loop, began, used = self.loop(), perf_counter_ns(), thread_time_ns()
        if loop is None or _tasks._watch is not watch:
            _looks.pop(id(loop), None)
            return
        passed, self.last = began - self.last, began
        try:
            if _everprof.wants_waits():
                self.tell(loop, passed, began + _MOST_NANOS)
            else:
                self.interval = _SELDOM
        except Exception as error:
            _tasks._say(error)
        # By the thread's own time: that it had to wait for a processor is no cost of ours.
        self.begin(loop, min((thread_time_ns() - used) * _SHARE / 1e9, _SELDOM))

    def tell(self, loop, passed, until):
        # Those that run are not among them: this runs.
        tasks = list(sys.modules["asyncio.tasks"].all_tasks(loop))
        number, groups, places = 0, {}, []
        while number < min(len(tasks), _MOST_TASKS) and (number % 8 or not number or perf_counter_ns() < until):
            chosen = number + self.random(len(tasks) - number)
            task, tasks[chosen] = tasks[chosen], tasks[number]
            number += 1
            waiter = getattr(task, "_fut_waiter", None)
            places.append((id(task), id(waiter)))
            frames, wait = _stack(task, waiter)
            scope = _scope(task)
            key = (id(scope), wait, *((id(code), line) for code, line in frames))
            groups.setdefault(key, [0, scope, frames, wait])[0] += 1
        for times, scope, frames, wait in groups.values():
            named = [(getattr(code, "co_qualname", code.co_name), code.co_filename, line, code.co_firstlineno) for code, line in frames]
            _everprof.record_wait(scope, named, wait, times * passed * len(tasks) // number)
        places.sort()
        moved = places != self.before or number < len(tasks)
        self.interval = _INTERVAL if moved else min(self.interval * 1.5, _QUIET)
        self.before = places

    def random(self, below):
        # xorshift64: to choose tasks by, no more.
        seed = self.seed
        seed ^= seed << 13 & 0xFFFF_FFFF_FFFF_FFFF
        seed ^= seed >> 7
        seed ^= seed << 17 & 0xFFFF_FFFF_FFFF_FFFF
        self.seed = seed
        return (seed >> 16) % below


def _scope(task):
    """The labels in force in the task; before 3.12, where nobody can ask for its context, the label `task` alone."""
    if hasattr(task, "get_context"):
        scope = task.get_context().get(_IN_FORCE, _NONE)
        if scope is not _NONE:
            return scope
    return _tasks._label(task.get_coro(), task.get_name())


def _stack(task, waiter):
    """Code and line of each frame, from the root on, and what it waits for."""
    frames = []
    _walk(task.get_coro(), frames)
    wait = "turn" if waiter is None else _wait(frames)
    if _is_task(waiter):
        wait = "task"
    for _ in range(_MOST_FRAMES):
        # Of those that are gathered, one of those that are not done.
        if not _is_task(waiter):
            waiter = next((child for child in getattr(waiter, "_children", ()) if not child.done()), None)
            if not _is_task(waiter):
                break
            wait = "task"
        if len(frames) >= _MOST_FRAMES:
            break
        _walk(waiter.get_coro(), frames)
        waiter = getattr(waiter, "_fut_waiter", None)
    return frames, wait


def _is_task(waiter):
    return isinstance(waiter, sys.modules["asyncio.tasks"].Task)


def _walk(awaited, frames):
    while awaited is not None and len(frames) < _MOST_FRAMES:
        kind = type(awaited)
        if kind is CoroutineType:
            frame, code, awaited = awaited.cr_frame, awaited.cr_code, awaited.cr_await
        elif kind is GeneratorType:
            frame, code, awaited = awaited.gi_frame, awaited.gi_code, awaited.gi_yieldfrom
        elif kind is AsyncGeneratorType:
            frame, code, awaited = awaited.ag_frame, awaited.ag_code, awaited.ag_await
        elif kind.__name__ in _WRAPPERS:
            inside = (CoroutineType, GeneratorType, AsyncGeneratorType)
            awaited = next((object for object in gc.get_referents(awaited) if isinstance(object, inside)), None)
            continue
        elif hasattr(awaited, "cr_await"):
            # Compiled by Cython, which shows no frame.
            awaited = awaited.cr_await
            continue
        else:
            break
        if frame is not None:
            frames.append((code, frame.f_lineno or 0))


def _wait(frames):
    if not frames:
        return "other"
    key = tuple(code for code, _ in frames[-_NEAR_LEAF:])
    place = tuple(map(id, key))
    known = _known.get(place)
    if known is None:
        if len(_known) > 10_000:
            _known.clear()
        # With the code, so that no other one gets its address.
        known = _known[place] = (_wait_of(key), key)
    return known[0]


def _wait_of(codes):
    path = codes[-1].co_filename.replace("\\", "/")
    of_file, by_name = _WAITS.get("/".join(path.rsplit("/", 2)[-2:]), ("other", {}))
    wait = by_name.get(codes[-1].co_name, of_file)
    if wait in ("task", "other") and any(not _CLIENTS.isdisjoint(code.co_filename.split("/")) for code in codes):
        return "network"
    return wait
