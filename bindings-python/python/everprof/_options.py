"""Options as Python has them, made into the text that the core reads. Names, values and defaults are the core's table's alone."""

import operator
import os
import sys

from . import _everprof

_SECONDS = {"seconds": 1, "nanoseconds": 1e-9, "days": 86_400}
# What ends a value in a list, or an item of a value.
_MARKS = '%,;"'


def pairs(options):
    """Name and text of each option that says something; `None` is what was not said."""
    return [(name, _text(name, value)) for name, value in options.items() if value is not None]


def table():
    """The core's table: a dictionary for each option, by its name."""
    return {row["name"]: row for row in _everprof.options()}


def _text(name, value):
    try:
        name.encode()
    except UnicodeEncodeError:
        raise _everprof.InvalidOptionError(f"there is no option {name!r}: names of options are of letters and _") from None
    text = _spelled(value)
    # Who has a duration has imported what it is of; everprof's import is to be quick.
    datetime = sys.modules.get("datetime")
    if text is None and datetime is not None and isinstance(value, datetime.timedelta):
        text = _duration(name, value)
    if text is None and isinstance(value, dict):
        text = ",".join(f"{key}={_escaped(_item(name, item))}" for key, item in value.items() if item is not None)
    if text is None and isinstance(value, (list, tuple, set, frozenset)):
        text = ",".join(_item(name, item) for item in (sorted(value, key=str) if isinstance(value, (set, frozenset)) else value))
    if text is None:
        raise _wrong(name, value)
    return _unicode(name, text)


def _item(name, value):
    text = _spelled(value)
    if text is None:
        raise _wrong(name, value)
    return text


def _spelled(value):
    """The text of a plain value; `None` for others."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(float(value))
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    try:
        number = operator.index(value)
    except TypeError:
        return None
    try:
        return str(number)
    except ValueError:
        # The interpreter writes out no number of so many digits.
        return None


def _duration(name, value):
    """A duration in the option's unit; `None` where it has none of time."""
    row = table().get(name)
    if row is None or row["unit"] not in _SECONDS:
        return None
    return _spelled(round(value.total_seconds() / _SECONDS[row["unit"]], 9))


def _escaped(text):
    edges = {0, len(text) - 1}
    return "".join(
        "".join(f"%{byte:02X}" for byte in letter.encode("utf-8", "surrogatepass"))
        if letter in _MARKS or (at in edges and letter.isspace())
        else letter
        for at, letter in enumerate(text)
    )


def _unicode(name, text):
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _everprof.InvalidOptionError(f"{name} is not text: give Unicode without surrogates") from None
    return text


def unknown(name):
    """What the core says about a name that there is not."""
    try:
        _everprof.canonical(name, "")
    except _everprof.Error as error:
        return error


def _wrong(name, value):
    row = table().get(name)
    if row is None:
        return unknown(name)
    unit = f" {row['unit']}" if row["unit"] and row["unit"] not in row["accepts"] else ""
    # The type alone: the value may be a secret.
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    return _everprof.InvalidOptionError(f"{name} is of type {kind}: give {row['accepts']}{unit}")
