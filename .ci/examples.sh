#!/usr/bin/env bash
# Runs the example programs as a reader would, and looks for what they promise in the profile they leave.
. "$(dirname "$0")/lib.sh"
out=$PWD/target/examples
rm -rf "$out"
mkdir -p "$out"

step "example quickstart"
EVERPROF_DIR=$out/quickstart cargo run --quiet -p everprof --example quickstart
step "example report"
cargo run --quiet -p everprof --example report -- "$out/quickstart" "$out" >"$out/report.txt"
cat "$out/report.txt"
for promised in count_primes sort_words; do
    grep -q "$promised" "$out/flamegraph.html" || { echo "$promised is not in the flame graph" >&2; exit 1; }
done
step "example labels"
cargo run --quiet -p everprof --example labels | tee "$out/labels.txt"
for tenant in small large; do
    grep -q "^$tenant " "$out/labels.txt" || { echo "tenant $tenant is not in the profile" >&2; exit 1; }
done
step "example coroutines"
cargo run --quiet -p everprof --example coroutines | tee "$out/coroutines.txt"
grep -q "^0 samples have their leaf only" "$out/coroutines.txt" || { echo "stacks of coroutines are not complete" >&2; exit 1; }
grep -q "^[1-9][0-9][0-9] of [0-9]* ms are in" "$out/coroutines.txt" || { echo "the coroutine's function is not in the profile" >&2; exit 1; }
