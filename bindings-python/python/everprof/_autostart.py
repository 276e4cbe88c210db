"""Imported by everprof.pth where EVERPROF_AUTOSTART is set: starts the profiler before the program, which is not changed.

Never fails: whoever set the variable for a whole machine must not have a program that does not start.
"""

import os
import sys

_NO = ("", "0", "off", "false", "no")


def _begin():
    if os.environ.get("EVERPROF_AUTOSTART", "").strip().lower() in _NO:
        return
    if sys.flags.isolated or sys.flags.ignore_environment:
        return
    from . import _life, _log

    try:
        _life.start({}, implicit=True)
    except Exception as error:
        _log.say(f"not profiled: {error}")


_begin()
