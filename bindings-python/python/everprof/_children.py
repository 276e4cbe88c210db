"""Children of multiprocessing: they profile themselves with the options of their parent.

A fork's child goes on by itself, in the core. One that is spawned is a new interpreter; it is told by something that lies in the
configuration which each `multiprocessing.Process` takes along through the pipe to its child, and which starts the profiler when it
is unpickled there: neither environment nor arguments, where secrets would be seen, and no other programs that the host starts.
"""

import sys

_KEY = "everprof"
_ARRIVE = (
    "__import__('importlib').import_module('everprof._children')._arrive(told) "
    "if __import__('importlib.util', fromlist=['find_spec']).find_spec('everprof') else None"
)


class _Stowaway:
    """Starts the profiler in the child that unpickles it."""

    def __init__(self, told):
        self.told = told

    def __reduce__(self):
        # By what every interpreter has: one that lacks everprof must not fail for it.
        return eval, (_ARRIVE, {"told": self.told})


def _arrive(told):
    from . import _everprof, _life, _log

    try:
        _life.start_with(*told, implicit=True)
        stop_at_end(_life._at_exit)
    except _everprof.AlreadyRunningError:
        # The program has started one itself when it was imported.
        pass
    except Exception as error:
        _log.say(f"this child is not profiled: {error}")
    return _Stowaway(told)


def follow(told):
    """From now on children of multiprocessing are told these options; also where it is imported later."""
    if "multiprocessing.process" in sys.modules:
        _stow(told)
    elif not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch(told))


def leave():
    """Children of multiprocessing are told nothing any more."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Watch)]
    process = sys.modules.get("multiprocessing.process")
    if process is not None:
        getattr(process.current_process(), "_config", {}).pop(_KEY, None)


def stop_at_end(end):
    """In a child of multiprocessing, which ends without atexit: `end` is called when its work is done."""
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        # What is registered to be done at the end is forgotten when the child begins; what is to be done after a fork is not.
        util.register_after_fork(end, lambda end: util.Finalize(None, end, exitpriority=-1000))


def _stow(told):
    config = getattr(sys.modules["multiprocessing.process"].current_process(), "_config", None)
    if isinstance(config, dict):
        config[_KEY] = _Stowaway(told)


class _Watch:
    """Finds nothing: waits until multiprocessing is imported, so that the profiler need not import it."""

    def __init__(self, told):
        self.told = told

    def find_spec(self, name, path=None, target=None):
        # The next module that multiprocessing imports after the one that is wanted.
        if name == "multiprocessing.reduction":
            sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not self]
            if "multiprocessing.process" in sys.modules:
                _stow(self.told)
        return None
