#!/usr/bin/env bash
# A test's long form under every CPython that tests/run.sh has prepared (PYTHONS="3.11 3.13" for some), in turn: SCRIPT with its arguments.
. "$(dirname "$0")/../../.ci/lib.sh"
out=${CARGO_TARGET_DIR:-$PWD/target} failed=()
for version in ${PYTHONS:-3.9 3.10 3.11 3.12 3.13 3.14 3.15}; do
    python=$out/python/$version/bin/python
    "$python" -c 'import everprof' 2>/dev/null || { printf "\n!!! SKIPPED: Python %s\n!!! because: make test-python has prepared none\n" "$version" >&2; continue; }
    step "$SCRIPT under Python $version"
    TEST_PYTHON=$python EVERPROF_WALL_RATE_HZ=500 EVERPROF_CPU_BUDGET_PERCENT=100 EVERPROF_SYMBOLIZE=names \
        env --default-signal=INT "$python" -X faulthandler bindings-python/tests/$SCRIPT || failed+=("$version")
done
[ ${#failed[@]} -eq 0 ] || { echo "failed under Python ${failed[*]}" >&2; exit 1; }
