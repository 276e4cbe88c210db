"""What somebody who has just installed everprof may do first; run by packaging.sh in a folder of its own."""

import importlib.metadata
import os
import pathlib
import subprocess
import sys
import time

import everprof


def work(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(10_000))


assert pathlib.Path(sys.prefix) in pathlib.Path(everprof.__file__).parents, everprof.__file__
about = importlib.metadata.distribution("everprof")
assert about.version == everprof.__version__
names = {file.name for file in about.files}
assert {"LICENSE-MIT", "LICENSE-APACHE", "py.typed", "_everprof.pyi", "everprof.pth"} <= names, names

with everprof.profile() as block:
    work(0.5)
assert "work" in block.html and "packaged.py" in block.html, block.top()

# Without a word of the program, by the variable alone.
environment = {**os.environ, "EVERPROF_AUTOSTART": "1", "EVERPROF_SYMBOLIZE": "names"}
subprocess.run([sys.executable, "-c", "sum(range(20_000_000))"], env=environment, check=True)
assert list(pathlib.Path("everprof").rglob("*.cpu.pb.gz")), "no profile of a program that was not changed"
told = subprocess.run([sys.executable, "-m", "everprof", "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout
assert told.split() == ["everprof", everprof.__version__], told
print(f"everprof {everprof.__version__} is installed, with {len(names)} files, and works")
