"""The stubs say what is there: mypy's own tool compares them with the package as it is imported."""

import subprocess
import sys

import pytest


def test_stubs_are_what_is_there(tmp_path):
    pytest.importorskip("mypy", reason="NOT TESTED: mypy is not installed (tests/run.sh has it for the newest Python)")
    (tmp_path / "mypy.ini").write_text("[mypy]\nignore_missing_imports = True\n")
    command = [sys.executable, "-m", "mypy.stubtest", "everprof", "--ignore-missing-stub", "--mypy-config-file", "mypy.ini"]
    done = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
