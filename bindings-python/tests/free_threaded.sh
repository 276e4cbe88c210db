#!/usr/bin/env bash
# The package under a CPython without its lock: free_threaded.sh PYTHON. The wheel of all others is not for it, so the package is
# built for it, as pip does from the sdist. One can be had from Debian's source package python3.13 (apt-get source python3.13, then
# ./configure --disable-gil && make), or from pyenv (3.13t), and is not among what CI has.
. "$(dirname "$0")/../../.ci/lib.sh"
python=${1:-$(command -v python3.14t || command -v python3.13t || true)}
[ -n "$python" ] || skip "the package under a Python without its lock" "none is here: name one"
out=${CARGO_TARGET_DIR:-$PWD/target}/python-free-threaded
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
rm -rf "$out" && mkdir -p "$out"
python3 -m venv "$out/tools" && retry "$out/tools/bin/pip" install -q -U pip
"$python" -m venv --without-pip "$out/venv"
MATURIN_PEP517_ARGS="--profile dev" retry "$out/tools/bin/pip" --python "$out/venv/bin/python" install -q ./bindings-python pytest
cd bindings-python/tests
env --default-signal=INT "$out/venv/bin/python" -m pytest -q -rs -o cache_dir="$out/tests" \
    test_free_threaded.py test_labels.py test_log.py test_options.py test_run.py test_start.py test_fork.py
