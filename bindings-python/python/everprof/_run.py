"""The command line: ``python -m everprof run [options] script.py | -m module [arguments]``.

What runs is as if ``python`` alone had started it: its module is ``__main__`` for good, its arguments, its path, its exit code and
its tracebacks are its own.
"""

import io
import os
import sys
import types

from . import _everprof, _life, _log, _options

_USAGE = """usage: python -m everprof run [--OPTION VALUE ...] script.py [ARGUMENT ...]
       python -m everprof run [--OPTION VALUE ...] -m module [ARGUMENT ...]
       python -m everprof --help | --version
"""


def main(arguments):
    """Does what the arguments say; the exit code, where the program that is run does not end by itself."""
    command = arguments[0] if arguments else "--help"
    if command == "--version":
        print(f"everprof {_everprof.__version__}")
        return 0
    if command in ("--help", "-h", "help"):
        print(_help())
        return 0
    if command != "run":
        return _wrong(f"there is no command {command!r}")
    try:
        told, program = _parse(arguments[1:])
    except ValueError as error:
        return _wrong(str(error))
    if not program or program == ["-m"]:
        return _wrong("name a script, or -m and a module")
    return _run(told, program)


def _parse(arguments):
    """The options, and the program with its arguments."""
    told, rest = {}, list(arguments)
    while rest and rest[0].startswith("--"):
        option = rest.pop(0)
        if option == "--":
            break
        if option == "--help":
            raise SystemExit(print(_help()))
        name, equals, value = option[2:].partition("=")
        name = name.replace("-", "_")
        # Before its value is looked for, which of an unknown one nobody knows.
        row = _options.table().get(name)
        if row is None:
            raise ValueError(str(_options.unknown(name)))
        if not equals:
            if not rest:
                raise ValueError(f"--{name} lacks its value: give {row['accepts']}")
            value = rest.pop(0)
        told[name] = value
    return told, rest


def _run(told, program):
    try:
        _prepare(program)
        name = program[1].removesuffix(".__main__") if program[0] == "-m" else _life.script(program[0])
        _life.start(told, program=name, implicit=True)
    except _everprof.InvalidOptionError as error:
        return _wrong(str(error))
    except OSError as error:
        print(f"python -m everprof: can't open {program[0]!r}: {error.strerror}", file=sys.stderr)
        return 2
    except _everprof.Error as error:
        # The program is what counts.
        _log.say(f"not profiled: {error}")
    return _begin(program)


def _prepare(program):
    """Arguments and path as the program is to find them, before the profiler asks for its name."""
    is_safe = getattr(sys.flags, "safe_path", False)
    if program[0] == "-m":
        sys.argv[:] = ["-m", *program[2:]]
        return
    if not os.path.exists(program[0]):
        open(program[0], "rb").close()
    sys.argv[:] = program
    if not is_safe:
        # Where ours was: that of `python -m`.
        sys.path[0] = program[0] if _is_archive(program[0]) else os.path.dirname(os.path.realpath(program[0]))


def _begin(program):
    main, ours = types.ModuleType("__main__"), vars(sys.modules["__main__"])
    main.__builtins__ = sys.modules["builtins"]
    # What a main module has from its birth depends on the version.
    if "__annotations__" in ours:
        main.__annotations__ = {}
    if "__cached__" in ours:
        main.__cached__ = None
    sys.modules["__main__"] = main
    try:
        if program[0] == "-m":
            import runpy

            sys.argv[:] = ["-m", *program[2:]]
            runpy._run_module_as_main(program[1])
        elif _is_archive(program[0]):
            import runpy

            runpy._run_module_as_main("__main__", alter_argv=False)
        else:
            _script(program[0], main)
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        # As if our frames were not below the program's.
        error = error.with_traceback(_theirs(error.__traceback__))
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    return 0


def _script(path, main):
    from importlib.machinery import SourceFileLoader

    path = os.path.abspath(path)
    with io.open_code(path) as file:
        source = file.read()
    main.__file__, main.__loader__ = path, SourceFileLoader("__main__", path)
    code = compile(source, path, "exec", dont_inherit=True)
    exec(code, main.__dict__)


def _is_archive(path):
    """A folder or a zip file with a ``__main__.py``, which the import system runs."""
    import zipfile

    return os.path.isdir(path) or (not path.endswith(".py") and zipfile.is_zipfile(path))


def _theirs(traceback):
    ours = (__file__, "<frozen runpy>", getattr(sys.modules.get("runpy"), "__file__", __file__))
    while traceback is not None and traceback.tb_frame.f_code.co_filename in ours:
        traceback = traceback.tb_next
    return traceback


def _wrong(message):
    print(f"{_USAGE}\npython -m everprof: {message}", file=sys.stderr)
    return 2


def _help():
    import textwrap

    lines = [_USAGE, "runs a program of Python, which is not changed, with the profiler on. EVERPROF_AUTOSTART=1 does it for every", "one that is started with it. Options, here and as keyword arguments of everprof.start():", ""]
    for name, row in _options.table().items():
        unit = f" {row['unit']}" if row["unit"] and row["unit"] not in row["accepts"] else ""
        default = f", default {row['default']}" if row["default"] else ""
        lines.append(f"  --{name} ({row['environment']})")
        lines += textwrap.wrap(row["doc"], 96, initial_indent=" " * 6, subsequent_indent=" " * 6)
        lines += textwrap.wrap(f"{row['accepts']}{unit}{default}", 96, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)
