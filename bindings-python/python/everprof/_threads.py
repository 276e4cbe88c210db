"""Names of threads as `threading` has them: the system is not told them before 3.14, and keeps fifteen bytes.

A thread says its name itself when it begins and when it is renamed, which costs a look-up; those that live when the profiler starts
are said then. Nothing of it is on a thread's stack while it works, and no lock of `threading` is taken: the program may start the
profiler where it holds one, as in a handler of a signal.
"""

import os
import sys

from . import _everprof, _imports

# Names, so many; of more, which seem to count something, the numbers are left out.
_MOST_NAMES = 1000

_is_on = False
_names: set = set()


def follow():
    global _is_on
    _is_on = True
    if "threading" not in sys.modules:
        # The name that it would get; the first thread has the number of the process.
        _everprof.name_thread(os.getpid(), "MainThread")
    _imports.after("threading", _begin)


def leave():
    global _is_on
    _is_on = False
    _imports.forget("threading")


def after_fork():
    """In a fork's child: one thread is left, and has another number."""
    threading = sys.modules.get("threading")
    if not _is_on or threading is None:
        return
    thread = threading._active.get(threading.get_ident())
    if thread is not None:
        _tell(threading, thread, 0)


def _begin(threading):
    thread = threading.Thread
    number, name = getattr(thread, "_set_native_id", None), vars(thread).get("name")
    if number is None or not isinstance(name, property) or name.fset is None:
        return
    if not hasattr(number, "_everprof"):

        def _set_native_id(self):
            number(self)
            if _is_on:
                _tell(threading, self, 0)

        def set_name(self, value):
            name.fset(self, value)
            if _is_on and threading._active.get(self._ident) is self:
                _tell(threading, self, self._native_id)

        _set_native_id._everprof = True
        thread._set_native_id = _set_native_id
        thread.name = property(name.fget, set_name, name.fdel, name.__doc__)
    own = threading._active.get(threading.get_ident())
    for living in list(threading._active.values()):
        # In a fork's child, the caller's number is that of the parent's thread before 3.13.
        _tell(threading, living, 0 if living is own else getattr(living, "_native_id", None))


def _tell(threading, thread, number):
    # Of greenlets that are called threads, many have one thread of the system's; and threads that others have made have names that
    # `threading` makes up.
    if number is None or type(threading.get_ident) is not type(len) or isinstance(thread, threading._DummyThread):
        return
    try:
        _everprof.name_thread(number, _bounded(thread._name))
    except Exception:
        # No name of ours is worth an error of the program's.
        pass


def _bounded(name):
    if name not in _names:
        if len(_names) >= _MOST_NAMES:
            import re

            name = re.sub(r"\d+", "N", name)
        else:
            _names.add(name)
    try:
        name.encode()
    except UnicodeEncodeError:
        name = name.encode("utf-8", "replace").decode()
    return name
