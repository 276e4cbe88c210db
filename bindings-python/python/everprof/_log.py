"""everprof's own messages, to the logger ``everprof``.

They wait in a bounded queue until a call of the program's takes them along: everprof's threads never ask for the interpreter (the
reason stands in ``src/logger.rs``). What went wrong last is in ``stats()["last_problem"]`` at any time.
"""

import sys

from . import _everprof

_WARNING = 30


def deliver():
    """Hands over what has come since the last call. Never raises: what the host's handlers do wrong is not the caller's."""
    for level, text in _everprof.messages():
        logging = sys.modules.get("logging")
        if logging is None:
            # Who has not even imported it has said nothing about lesser messages.
            if level < _WARNING:
                continue
            import logging
        try:
            logging.getLogger("everprof").log(level, "%s", text)
        except Exception:
            pass


def say(text):
    """A warning of the package's own."""
    import logging

    logging.getLogger("everprof").warning("%s", text)
