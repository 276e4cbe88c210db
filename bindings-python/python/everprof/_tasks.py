"""The label `task`: of which task of asyncio a sample is (option `async_tasks`).

A task runs in a context that it copies when it is made, and what handlers read of labels is in that context. So it is enough to
have the label in force for the moment in which the task is made. That is done around `create_task` of the loops, which all ways
to make a task go through; whatever makes it inside, such as the program's own task factory, is none the wiser, and tasks are what
they were. An eager task, which begins at once, begins in its own context.

A context that the program passes is not the task's alone. It gets the label while one task at a time has it; of several, samples
have no label `task`, rather than that of another.
"""

import functools
import sys
import weakref
from collections import Counter

from . import _everprof, _imports, _log
from ._labels import _IN_FORCE, _NONE

# Names that programs give, so many: of more, which count something, tasks go by their coroutines.
_MOST_NAMES = 1000
# What sets are kept of coroutines; of more they are made each time.
_MOST_FUNCTIONS = 10_000

_is_on = False
# What is told of a loop in which a task is made, where that is wanted.
_watch = None
_by_name: dict = {}
_by_function: dict = {}
# What is in force where nothing but a label `task` is, and nothing at all.
_labels = {_NONE}
# Of contexts that were passed: the context and its tasks, by address.
_passed: dict = {}
# Code of functions that make a task first, and name it then (3.9 to 3.12): they have the name in a variable.
_namers = ()


def follow(wanted):
    """Begins, or ends: from then on tasks that are made take no label over from the one that makes them."""
    global _is_on, _watch
    was_on, _is_on, _watch = _is_on, wanted != "off", None
    if was_on or not _is_on:
        return
    off = _everprof.stats()["labels_off"]
    if off is not None:
        _is_on = False
        _log.say(f"samples do not say which task of asyncio they are of: {off}")
        return
    if wanted == "waits":
        from ._waits import watch as _watch
    _imports.after("asyncio.base_events", _begin)
    _imports.after("uvloop", lambda module: _change(module.Loop))


def _begin(module):
    global _namers
    tasks, groups = sys.modules["asyncio.tasks"], sys.modules.get("asyncio.taskgroups")
    if hasattr(tasks, "_set_task_name"):
        _namers = (tasks.create_task.__code__,)
        if sys.version_info >= (3, 11):
            _imports.after("asyncio.taskgroups", _begin_groups)
    _change(module.BaseEventLoop)
    if _is_on:
        _label_living(tasks)


def _begin_groups(module):
    global _namers
    _namers += (module.TaskGroup.create_task.__code__,)


def _change(loop):
    if hasattr(loop.create_task, "_everprof"):
        return
    try:
        loop.create_task = _labelled(loop.create_task)
    except (AttributeError, TypeError) as error:
        _log.say(f"samples do not say which task they are of: {error}")


def _labelled(create):
    @functools.wraps(create)
    def create_task(self, coro, *args, **kwargs):
        context, token, in_force = kwargs.get("context"), None, _IN_FORCE.get()
        try:
            if not _is_on:
                # One that is started again would find others' labels.
                if in_force is not _NONE and context is None:
                    token = _IN_FORCE.set(in_force.without("task"))
            elif context is None:
                token = _IN_FORCE.set(_within(in_force, _label(coro, kwargs["name"] if "name" in kwargs else _name_above())))
            else:
                _pass(context, _label(coro, kwargs["name"] if "name" in kwargs else _name_above()))
            if _watch is not None:
                _watch(self)
        except Exception as error:
            _say(error)
        try:
            task = create(self, coro, *args, **kwargs)
        finally:
            if token is not None:
                _IN_FORCE.reset(token)
        try:
            if context is not None and id(context) in _passed:
                _passed[id(context)][1].append(weakref.ref(task))
            made_at = getattr(task, "_source_traceback", None)
            if made_at and made_at[-1].filename == __file__:
                # In the mode for debugging: where the task was made.
                del made_at[-1]
        except Exception as error:
            _say(error)
        try:
            return task
        finally:
            # As in asyncio: an exception of the task's that holds this frame would hold the task.
            del task

    create_task._everprof = True
    return create_task


def _name_above():
    """The name that the caller of `create_task` is about to give."""
    caller = sys._getframe(1).f_back
    return caller.f_locals.get("name") if caller is not None and caller.f_code in _namers else None


def _label(coro, name):
    """What is in force in a task with no other labels."""
    if name is not None:
        name = str(name)
        known = _by_name.get(name)
        if known is not None:
            return known
        if len(_by_name) < _MOST_NAMES and not (name.startswith("Task-") and name[5:].isdecimal()):
            known = _by_name[name] = _made(name)
            _labels.add(known)
            return known
    function = getattr(coro, "__qualname__", None) or type(coro).__qualname__
    known = _by_function.get(function)
    if known is None:
        known = _made(function)
        if len(_by_function) < _MOST_FUNCTIONS:
            _by_function[function] = known
            _labels.add(known)
    return known


def _within(in_force, label):
    # Most tasks are made where nothing else is in force: nothing new is made for them.
    return label if in_force in _labels else in_force.begin(label)


def _made(name):
    try:
        name.encode()
    except UnicodeEncodeError:
        name = name.encode("utf-8", "replace").decode()
    return _NONE.enter(_everprof.LabelSet([("task", name)])).begin(_NONE)


def _pass(context, label):
    """Puts a label in force in a context that somebody else has too."""
    key = id(context)
    known = _passed.get(key)
    if known is None or known[0]() is not context:
        known = _passed[key] = (weakref.ref(context, lambda _: _passed.pop(key, None)), [])
    _, tasks = known
    tasks[:] = [task for task in tasks if (alive := task()) is not None and not alive.done()]
    inner = context.get(_IN_FORCE, _NONE)
    context.run(_IN_FORCE.set, inner.without("task") if tasks else _within(inner, label))


def _label_living(tasks):
    """Tasks that are older than the profiler: the one that runs, and on 3.12 and newer the others of its loop."""
    try:
        running = tasks.current_task()
    except RuntimeError:
        return
    if _watch is not None:
        _watch(sys.modules["asyncio.events"].get_running_loop())
    if running is not None:
        # A scope inside of those that it has entered, which it will leave.
        _IN_FORCE.set(_inside(_IN_FORCE.get(), running))
    if not hasattr(tasks.Task, "get_context"):
        return
    living = [(task, task.get_context()) for task in tasks.all_tasks()]
    times = Counter(id(context) for _, context in living)
    for task, context in living:
        try:
            if task is not running and times[id(context)] == 1:
                context.run(_IN_FORCE.set, _inside(context.get(_IN_FORCE, _NONE), task))
        except Exception as error:
            _say(error)


def _inside(scope, task):
    return scope.enter(_everprof.LabelSet(list(_label(task.get_coro(), task.get_name()).items().items())))


_said: set = set()


def _say(error):
    """Once of each kind."""
    kind = type(error)
    if kind not in _said:
        _said.add(kind)
        _log.say(f"a task has no label: {kind.__name__}: {error}")
