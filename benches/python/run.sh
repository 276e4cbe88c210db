#!/usr/bin/env bash
# everprof for Python and its peers side by side: BENCH_ROUNDS (3) rounds. WHEEL is measured where it is given, else one is built.
. "$(dirname "$0")/../../.ci/lib.sh"
out=${CARGO_TARGET_DIR:-$PWD/target} venv=${CARGO_TARGET_DIR:-$PWD/target}/python/bench
python=${PYTHON:-python3}
has "$python" || skip "the benches of the Python package" "there is no $python"
mkdir -p "$out/bench"

step "profilers"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
for one in py-spy==0.4.3 pyroscope-io==1.4.0 ddtrace==4.16.0 memray==1.20.0 zstandard==0.25.0 'maturin>=1.9,<2'; do
    "$venv/bin/pip" install -q --only-binary :all: "$one" || echo "no $one for this Python" >&2
done
if [ -z "${WHEEL:-}" ]; then
    rm -f "$out"/python/bench-wheel/*
    "$venv/bin/maturin" build -q --profile wheel -m bindings-python/Cargo.toml -o "$out/python/bench-wheel"
    WHEEL=$(ls "$out"/python/bench-wheel/*.whl)
fi
"$venv/bin/pip" install -q --force-reinstall --no-deps "$WHEEL"

step "rounds"
env --default-signal=INT "$venv/bin/python" benches/python/compare.py "$out/bench"
