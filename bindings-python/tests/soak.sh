#!/usr/bin/env bash
# The storm's long form under every CPython that tests/run.sh has prepared (PYTHONS="3.11 3.13" for some), in turn: until each has
# taken EVERPROF_SOAK_SAMPLES samples (ten million), for EVERPROF_SOAK_SECONDS (3600) at most. Lines go to target/bench/soak-python.jsonl.
. "$(dirname "$0")/../../.ci/lib.sh"
out=${CARGO_TARGET_DIR:-$PWD/target}
lines=$out/bench/soak-python.jsonl failed=()
mkdir -p "$out/bench"
: >"$lines"
for version in ${PYTHONS:-3.9 3.10 3.11 3.12 3.13 3.14 3.15}; do
    python=$out/python/$version/bin/python
    "$python" -c 'import everprof' 2>/dev/null || { printf "\n!!! SKIPPED: the soak under Python %s\n!!! because: make test-python has prepared none\n" "$version" >&2; continue; }
    "$python" -c 'import greenlet' 2>/dev/null || echo "no greenlets under Python $version"
    step "soak under Python $version"
    env --default-signal=INT "$python" bindings-python/tests/soak.py "${EVERPROF_SOAK_SECONDS:-3600}" "${EVERPROF_SOAK_HZ:-20000}" \
        "${EVERPROF_SOAK_SAMPLES:-10000000}" | tee "$out/python/soak-$version.log" || failed+=("$version")
    tail -1 "$out/python/soak-$version.log" >>"$lines"
done
echo; cat "$lines"
[ ${#failed[@]} -eq 0 ] || { echo "failed under Python ${failed[*]}" >&2; exit 1; }
