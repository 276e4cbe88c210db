"""Labels: whose work a sample was, for as long as a ``with`` lasts.

What is in force lies in a ContextVar, so it follows tasks, ``asyncio.to_thread`` and copied contexts as the language has it. Its
values are the core's (``src/labels.rs``): one is made for each scope that is entered, and kept alive by the contexts that have it.
"""

import sys
from contextvars import ContextVar

from . import _everprof

_NONE = _everprof.Scope()
# What has tasks, and no way to say quickly whether here is one.
_OTHERS = frozenset({"trio", "curio", "gevent", "eventlet"})
_IN_FORCE = ContextVar("everprof.labels", default=_NONE)
# Whether handlers find the variable's value themselves, which is so once the profiler was started (``src/frames/context.rs``).
_in_handler = False


class labels:
    """Labels for the samples of a block, a function or a coroutine::

        with everprof.labels(tenant="a"):
            ...

        @everprof.labels(endpoint="/checkout")
        async def checkout(): ...

    Inside of others they add up, and the inner ones win. Values are made text by ``str``; keys that are no names of Python go into a
    dictionary: ``labels({"k8s.pod": "x"}, tenant="a")``; of a value that cannot be made text, the type is told. One object may be entered many times, by many threads and tasks at once.

    Keys and values are made to fit (128 and 256 bytes, no control characters, ``?`` for a surrogate); of more than 32 labels the last by key are left
    out. Threads begin without labels.
    """

    __slots__ = ("_set",)

    def __init__(self, mapping=(), /, **more):
        self._set = _everprof.LabelSet([(_text(key), _text(value)) for key, value in {**dict(mapping), **more}.items()])

    def __enter__(self):
        scope = _IN_FORCE.get().enter(self._set)
        _IN_FORCE.set(scope)
        if not _in_handler and not _has_tasks():
            scope.put()
        return self

    def __exit__(self, *exception):
        outer = _IN_FORCE.get().leave(self._set)
        _IN_FORCE.set(outer)
        if not _in_handler and not _has_tasks():
            outer.put()

    async def __aenter__(self):
        return self.__enter__()

    async def __aexit__(self, *exception):
        self.__exit__()

    def __call__(self, function):
        import inspect
        from functools import wraps

        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            # A generator hands control to others in the middle: they would have its labels.
            raise TypeError("everprof.labels does not wrap generators: write `with everprof.labels(...)` between their yields")
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def labelled(*args, **kwargs):
                with self:
                    return await function(*args, **kwargs)

        else:

            @wraps(function)
            def labelled(*args, **kwargs):
                with self:
                    return function(*args, **kwargs)

        return labelled

    def __repr__(self):
        return f"everprof.labels({_NONE.enter(self._set).items()})"


def current_labels():
    """The labels in force here, as a dictionary."""
    return _IN_FORCE.get().items()


def _text(value):
    try:
        text = str(value)
    except Exception:
        # A number of more digits than the interpreter writes out, or a value in the middle of being made.
        return f"<{type(value).__qualname__}>"
    try:
        text.encode()
    except UnicodeEncodeError:
        # What came from outside of the program may be no Unicode (`surrogateescape`): no reason for a request to fail.
        text = text.encode("utf-8", "replace").decode()
    return text


def _has_tasks():
    """Whether this thread may turn to another task before the scope ends, which must not have its labels."""
    loaded = sys.modules
    asyncio = loaded.get("_asyncio") or loaded.get("asyncio.events")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        return True
    greenlet = loaded.get("greenlet")
    if greenlet is not None and greenlet.getcurrent().parent is not None:
        return True
    return not _OTHERS.isdisjoint(loaded)
