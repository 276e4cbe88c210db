"""Always-on profiling of this process, by itself.

    import everprof
    everprof.start(service="shop")

From then on every thread is sampled 99 times a second of its CPU time, and once a minute a profile goes to the directory
``./everprof``, or where the option ``push`` says. The last one is written when the interpreter ends. Nothing of the program is
changed, stopped or traced; what everprof cannot do, it leaves out, counts (`stats`) and tells the logger ``everprof``.
"""

from . import _everprof, _life
from ._everprof import __version__
from ._labels import current_labels, labels
from ._profile import Profile, profile, snapshot

# `Error`, and a subclass of it for each thing that a caller can do.
globals().update({error.__name__: error for error in _everprof.ERRORS})

__all__ = [
    "Profile",
    "asgi",
    "current_labels",
    "flush",
    "labels",
    "profile",
    "set",
    "snapshot",
    "start",
    "stats",
    "stop",
    "wsgi",
    *(error.__name__ for error in _everprof.ERRORS),
]


def start(**options):
    """Starts the profiler.

    Every option goes by its name (``python -m everprof --help`` lists them), with a value of the type that is natural for it:
    numbers, text, ``True`` and ``False``, paths, ``timedelta`` for a duration, a list where there may be several, a dictionary
    for what has keys. They win over the environment (``EVERPROF_<NAME>``). Where the environment or ``python -m everprof run``
    has started a profiler already, this one takes its place.

    Raises `InvalidOptionError` for what is wrong about an option, `AlreadyRunningError` for a second start,
    `UnsupportedError` where the kernel offers no timers or threads, and `UnavailableError` while the interpreter ends.
    """
    _life.start(options)


def stop():
    """Stops the profiler, and waits up to two seconds for the last profile. Does nothing where none runs.

    Raises `UnavailableError` where the last profile took longer; it then goes on in the background.
    """
    _life.stop()


def flush():
    """Closes the profile at hand and waits up to two seconds until it is where it belongs. Does nothing where no profiler runs.

    Raises `UnavailableError` where that took longer; it then goes on in the background.
    """
    _life.flush()


def set(**options):
    """Changes options while the profiler runs: those that are live, such as ``rate_hz`` and ``kinds``.

    Raises `InvalidOptionError` for a wrong name or value and for options that need a new start, `UnavailableError` where no
    profiler runs.
    """
    _life.change(options)


def stats():
    """What the profiler says about itself, as a dictionary: samples taken and lost, what they cost, what went wrong last.

    Times are in seconds. ``running`` says whether a profiler runs; where none does, all else is empty.
    """
    return _life.stats()


def __getattr__(name):
    # Nobody but web services wants them.
    if name in ("asgi", "wsgi"):
        from . import _web

        return getattr(_web, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
