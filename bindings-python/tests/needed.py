"""Whether the library in a wheel needs nothing that glibc 2.17 lacks: needed.py WHEEL.

Where it was linked, symbols have the versions of that machine's library. Each that is newer must be there under an old version,
too, which the linker of wheel.sh takes then; weak ones are asked for at run time.
"""

import re
import subprocess
import sys
import tempfile
import zipfile

LATEST = (2, 17)
# Not in any library before 2.33: a part of each program then, which zig brings.
IN_EVERY_PROGRAM = {"stat", "fstat", "lstat", "fstatat", "stat64", "fstat64", "lstat64", "fstatat64", "mknod", "atexit"}


def symbols(path, *options):
    """Kind, name and version of each symbol of the dynamic table."""
    told = subprocess.run(["nm", "-D", "--with-symbol-versions", *options, path], stdout=subprocess.PIPE, text=True, check=True).stdout
    found = re.findall(r"^[0-9a-f ]* (\w) ([^@\s]+)@+GLIBC_([0-9.]+)", told, re.MULTILINE)
    return [(kind, name, tuple(map(int, version.split(".")))) for kind, name, version in found]


def library():
    """Where this process has the C library from."""
    with open("/proc/self/maps") as maps:
        return next(line.split()[-1] for line in maps if re.search(r"/libc[.-]", line))


def main(wheel):
    old = {name for _, name, version in symbols(library(), "--defined-only") if version <= LATEST}
    with tempfile.TemporaryDirectory() as room, zipfile.ZipFile(wheel) as files:
        path = files.extract("everprof/_everprof.abi3.so", room)
        needed = symbols(path, "--undefined-only")
    assert any(name == "malloc" for _, name, _ in needed), "nothing was read"
    new = {name: version for kind, name, version in needed if kind == "U" and version > LATEST}
    lacking = {name: version for name, version in new.items() if name not in old | IN_EVERY_PROGRAM}
    assert not lacking, f"glibc 2.17 has none of {lacking}: ask for them at run time, or do without"
    print(f"{len(needed)} symbols of the C library are needed, and glibc 2.17 has all of them ({len(new)} under an older version)")


main(*sys.argv[1:])
