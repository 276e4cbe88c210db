"""The life of the profiler in this process: start and stop, and what happens around the ends of interpreters and forks."""

import atexit
import os
import sys

from . import _children, _everprof, _log, _options, _threads

# Options of the profiler that runs, as the core was told them, and whether the program's own code said so.
_told = None
_is_implicit = False
_is_over = False


def start(options, *, program=None, implicit=False):
    """Starts the profiler; one that the environment has started gives way to one that the program starts.

    `program` is what the service is called where nobody says.
    """
    start_with(_options.pairs(options), program or _program(), implicit)


def start_with(told, program, implicit=False):
    """The same with options as the core is told them."""
    global _told, _is_implicit
    if _is_over or sys.is_finalizing():
        raise _everprof.UnavailableError("the interpreter is about to end: start the profiler earlier")
    try:
        try:
            _everprof.start(told, program)
        except _everprof.AlreadyRunningError:
            if implicit or not _is_implicit:
                raise
            _everprof.stop()
            _everprof.start(told, program)
    finally:
        _log.deliver()
    _told, _is_implicit = told, implicit
    _children.follow((told, program))
    _threads.follow()
    _follow_tasks()


def stop():
    global _told
    _told = None
    _children.leave()
    _threads.leave()
    _follow_tasks(False)
    try:
        _everprof.stop()
    finally:
        _log.deliver()


def _follow_tasks(is_running=True):
    """Tasks of asyncio are told as the option says; who does not want it loads nothing for it."""
    wanted = is_running and _everprof.in_force("async_tasks") or "off"
    module = __package__ + "._tasks"
    if wanted != "off" or module in sys.modules:
        from . import _tasks

        _tasks.follow(wanted)


def flush():
    try:
        _everprof.flush()
    finally:
        _log.deliver()


def change(options):
    try:
        for name, text in _options.pairs(options):
            _everprof.set(name, text)
    finally:
        _log.deliver()


def stats():
    _log.deliver()
    return _everprof.stats()


def is_running():
    return _everprof.is_running()


def _program():
    """What the service is called where nobody says: the module or the script that runs, not the interpreter."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name:
        name = spec.name.removesuffix(".__main__")
        return None if name == "everprof" else name
    arguments = getattr(sys, "argv", None) or [""]
    if arguments[0] == "-m":
        # Before the module is looked for. Not known before 3.10.
        arguments = [*getattr(sys, "orig_argv", ()), "-m", ""]
        arguments = arguments[arguments.index("-m") + 1 :]
    return script(arguments[0])


def script(path):
    """What a service is called whose script this is; `None` where it is none."""
    name = os.path.basename(path)
    return None if name in ("", "-c") else name.removesuffix(".py")


def _at_exit():
    # The walk in the handler reads what the interpreter is about to take apart.
    global _is_over
    _is_over = True
    if _told is None and not _everprof.is_main_interpreter():
        # A sub-interpreter ends, and the profiler is another's, which goes on.
        return
    try:
        stop()
    except _everprof.Error as error:
        # Nobody is there to catch it.
        _log.say(f"the last profile: {error}")


def _after_fork():
    # The core goes on by itself. Children of multiprocessing end without atexit.
    if _told is not None:
        _threads.after_fork()
        _children.stop_at_end(_at_exit)


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork)
