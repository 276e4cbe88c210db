"""Imported by everprof.pth where EVERPROF_AUTOSTART is set: starts the profiler before the program, which is not changed.

Never fails: whoever set the variable for a whole machine must not have a program that does not start.
"""

import os
import sys

from . import _everprof, _life, _log


def _begin():
    # `python -E` and `-I` are there for whoever wants nothing of the environment.
    if sys.flags.ignore_environment:
        return
    # Each sub-interpreter comes by here, too.
    if not _everprof.is_main_interpreter():
        return
    try:
        if _everprof.canonical("autostart", os.environ.get("EVERPROF_AUTOSTART", "")) == "on":
            _life.start({}, implicit=True)
    except Exception as error:
        _log.say(f"not profiled: {error}")


_begin()
