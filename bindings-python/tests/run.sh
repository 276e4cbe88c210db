#!/usr/bin/env bash
# Builds the wheel once and tests it under every CPython from 3.9 on that is here (PYTHONS="3.11 3.13" for some, RELEASE=1 for the
# wheel as it is delivered). All that it fetches goes into target/python.
. "$(dirname "$0")/../../.ci/lib.sh"
out=${CARGO_TARGET_DIR:-$PWD/target}/python
servers=${EVERPROF_TEST_SERVERS:-${CARGO_TARGET_DIR:-$PWD/target}/servers}
mkdir -p "$out/wheels"

# What is newer than pyenv's versions, and than Debian's own. A user has those that are installed.
[ "${CI:-}" != true ] || .ci/pythons.sh "$out/debian"

# What pyenv has does not lie in the path.
python() {
    local version
    [ ! -x "$out/debian/python$1/usr/bin/python$1" ] || { echo "$out/debian/python$1/usr/bin/python$1"; return; }
    command -v "python$1" 2>/dev/null && "python$1" -c '' 2>/dev/null && return
    for version in "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
        [ -x "$version" ] && "$version" -c '' && echo "$version" && return
    done
    return 1
}

found=()
for version in ${PYTHONS:-3.9 3.10 3.11 3.12 3.13 3.14 3.15}; do
    ! interpreter=$(python "$version" | tail -1) || [ -z "$interpreter" ] || found+=("$version=$interpreter")
done
# Debian's bring no pip, so that another one's installs what they need; it also runs mypy and the examples.
complete=
for one in "${found[@]}"; do [[ $one == */debian/* ]] || complete=$one; done
[ -n "$complete" ] || skip "the Python package" "there is no Python from 3.9 on"

step "units"
# Without cargo, which would link an interpreter to them.
rustc --edition 2024 --test bindings-python/tests/frames_units.rs -o "$out/frames_units"
"$out/frames_units" -q

step "wheel"
tools=$out/tools
[ -x "$tools/bin/maturin" ] || { "${complete#*=}" -m venv "$tools" && retry "$tools/bin/pip" install -q -U pip 'maturin>=1.9,<2'; }
rm -f "$out"/wheels/*
profile=dev
[ -z "${RELEASE:-}" ] || profile=wheel
"$tools/bin/maturin" build -q --profile "$profile" -m bindings-python/Cargo.toml -o "$out/wheels"
ls -l "$out"/wheels/*.whl

# What rests on the interpreter's version is tested under each, all else under the oldest, the newest and the one that runs mypy.
is_whole() { [ "$1" = "${found[0]}" ] || [ "$1" = "${found[-1]}" ] || [ "$1" = "$complete" ]; }

# Two versions at once: their tests wait for most of their time. Each one's output is shown when it has ended.
tested() {
    local version=${1%%=*} python=${1#*=} venv=$out/${1%%=*}
    [ -x "$venv/bin/pytest" ] || {
        "$python" -m venv "$venv" 2>/dev/null || "$python" -m venv --clear --without-pip "$venv"
        # Frameworks whose newest versions have left an old Python behind are tried in those that it still gets, and what
        # wants a compiled part that a new one does not get yet (FastAPI's pydantic) is left out there.
        retry pip_of "$venv" install -q pytest flask django gunicorn
        pip_of "$venv" install -q --only-binary :all: fastapi || echo "no FastAPI for Python $version yet"
        pip_of "$venv" install -q --only-binary :all: gevent || echo "no gevent for Python $version"
        pip_of "$venv" install -q --only-binary :all: uvloop || echo "no uvloop for Python $version"
    }
    [ "$1" != "$complete" ] || "$venv/bin/python" -c 'import mypy' 2>/dev/null || retry pip_of "$venv" install -q mypy
    # Compiled for a minute: for one of them.
    [ "$1" != "$complete" ] || [ -x "$venv/bin/uwsgi" ] || pip_of "$venv" install -q 'uwsgi>=2.0.31,<3' || echo "no uWSGI"
    # What servers take and give back is the same of every version: one of them asks. In CI they are there.
    unset EVERPROF_TEST_SERVERS
    [ "$1" != "$complete" ] || { [ "${CI:-}" != true ] && [ ! -d "$servers" ]; } || export EVERPROF_TEST_SERVERS=$servers
    pip_of "$venv" install -q --force-reinstall --no-deps "$out"/wheels/*.whl
    cd bindings-python/tests
    is_whole "$1" || export EVERPROF_TEST_LESS=1
    tests "$venv" && return
    [ "${CI:-}" = true ] || return 1
    # CI's machine is shared: what failed once more, which is said loudly.
    printf '\n!!! FAILED AT THE FIRST TRY under Python %s, now the second\n' "$version"
    tests "$venv" --last-failed --last-failed-no-failures none
}

# Its own pip, which knows a Python that newer ones have left behind.
pip_of() {
    if [ -x "$1/bin/pip" ]; then "$1/bin/pip" "${@:2}"; else "$tools/bin/pip" --python "$1/bin/python" "${@:2}"; fi
}

# Ctrl-C is tested, which a shell's background takes away from what it starts.
tests() {
    local less=()
    [ -z "${EVERPROF_TEST_LESS:-}" ] || less=(--ignore test_{daemons,log,options,profile,web}.py)
    env --default-signal=INT "$1/bin/python" -m pytest -q -o cache_dir="$1/tests" -rs "${less[@]}" "${@:2}" ${TESTS:-}
}

failed=()
rm -f "$out"/*.passed
# The longest first.
order=()
for one in "${found[@]}"; do ! is_whole "$one" || order+=("$one"); done
for one in "${found[@]}"; do is_whole "$one" || order+=("$one"); done
for one in "${order[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge 2 ]; do wait -n || true; done
    (
        tested "$one"
        touch "$out/${one%%=*}.passed"
    ) >"$out/${one%%=*}.log" 2>&1 &
done
wait
for one in "${found[@]}"; do
    step "Python ${one%%=*}"
    cat "$out/${one%%=*}.log"
    [ -e "$out/${one%%=*}.passed" ] || failed+=("${one%%=*}")
done
# The example programs, as a reader would run them.
python=$out/${complete%%=*}/bin/python examples=$PWD/examples/python
(
    mkdir -p "$out/examples" && cd "$out/examples"
    for example in quickstart labels lock alloc; do
        step "example $example"
        EVERPROF_SYMBOLIZE=names "$python" "$examples/$example.py" | tee "$example.txt"
    done
    [ -s flamegraph.html ]
    grep -q "^large .* ms of CPU time" labels.txt
    grep -q "^sell  *waited  *[1-9]" lock.txt
    grep -q "MiB allocated, [12][0-9] MiB of them live" alloc.txt
) || failed+=("(an example)")
[ ${#failed[@]} -eq 0 ] || { echo "failed under Python ${failed[*]}" >&2; exit 1; }
