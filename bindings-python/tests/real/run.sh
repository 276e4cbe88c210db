#!/usr/bin/env bash
# Programs as others write them under everprof (programs.py), on one Python: the wheel as users install it, and what the programs
# need in versions that are pinned. All that it fetches goes into target/python-real.
. "$(dirname "$0")/../../../.ci/lib.sh"
out=${CARGO_TARGET_DIR:-$PWD/target}/python-real
mkdir -p "$out/wheels"
python=
for version in ${PYTHONS:-3.12 3.13 3.11}; do
    for one in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python; do
        [ -n "$python" ] || ! "$one" -c 'import venv, ensurepip, sqlite3' 2>/dev/null || python=$one
    done
done
[ -n "$python" ] || skip "programs under everprof for Python" "there is no Python of 3.11 to 3.13 that can make a venv"

step "wheel"
venv=$out/venv
# For the one Python that they were made for.
[ "$("$venv/bin/python" -c 'import sys; print(sys.version)' 2>/dev/null)" = "$("$python" -c 'import sys; print(sys.version)')" ] || rm -rf "$venv"
[ -x "$venv/bin/maturin" ] || {
    "$python" -m venv "$venv"
    retry "$venv/bin/pip" install -q --only-binary :all: -r bindings-python/tests/real/requirements.txt
}
rm -f "$out"/wheels/*
"$venv/bin/maturin" build -q ${RELEASE:+--release} -m bindings-python/Cargo.toml -o "$out/wheels"
"$venv/bin/pip" install -q --force-reinstall --no-deps "$out"/wheels/*.whl

# Its tests come with its source alone.
django=$out/django-5.1.4
[ -d "$django/tests" ] || {
    retry "$venv/bin/pip" download -q --no-deps --no-binary :all: -d "$out/sources" django==5.1.4
    mkdir -p "$django" && tar xzf "$out"/sources/[Dd]jango-5.1.4.tar.gz -C "$django" --strip-components 1
}

step "programs under $("$python" -V)"
cd bindings-python/tests
EVERPROF_TEST_DJANGO=$django env --default-signal=INT "$venv/bin/python" -m pytest -q -rs -s -o cache_dir="$out/tests" real/programs.py
