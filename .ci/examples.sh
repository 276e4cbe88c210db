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
step "example serve"
cargo build --quiet -p everprof --example serve
EVERPROF_DIR=$out/serve "${CARGO_TARGET_DIR:-target}/debug/examples/serve" 120 >"$out/serve.txt" &
serve=$!
trap 'kill "$serve" 2>/dev/null || true' EXIT
for _ in $(seq 600); do [ ! -s "$out/serve.txt" ] || break; sleep 0.1; done
# What is served at the address in a file must have the function that works. Without curl: what a shell can do by itself.
look() {
    local address
    address=$(sed 's|http://\([^/]*\)/.*|\1|' "$1")
    exec 3<>"/dev/tcp/${address%:*}/${address#*:}"
    printf 'GET /debug/pprof/profile?seconds=2&format=collapsed HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$address" >&3
    grep -aq compute_prices <&3 || { echo "compute_prices is not in what was served: $1" >&2; exit 1; }
    exec 3>&-
}
look "$out/serve.txt"
kill "$serve"
trap - EXIT
step "example routers"
# Those of the heavier frameworks in CI only: ROUTERS="actix warp" names others.
[ "${CI:-}" = true ] && routers="axum hyper tiny_http actix warp" || routers=${ROUTERS:-axum hyper tiny_http}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
cargo build --quiet --manifest-path examples/rust/routers/Cargo.toml --features "$routers"
for router in $routers; do
    EVERPROF_DIR=$out/$router "$CARGO_TARGET_DIR/debug/$router" >"$out/$router.txt" &
    serve=$!
    trap 'kill "$serve" 2>/dev/null || true' EXIT
    for _ in $(seq 100); do [ ! -s "$out/$router.txt" ] || break; sleep 0.1; done
    look "$out/$router.txt"
    kill "$serve"
    trap - EXIT
done
step "example tracing"
cargo test --quiet --manifest-path examples/rust/tracing/Cargo.toml
EVERPROF_DIR=$out/tracing cargo run --quiet --manifest-path examples/rust/tracing/Cargo.toml | tee "$out/tracing.txt"
[ "$(grep -c "^request .* used [1-9][0-9]* ms" "$out/tracing.txt")" = 2 ] || { echo "not both requests have a profile" >&2; exit 1; }
step "example labels"
cargo run --quiet -p everprof --example labels | tee "$out/labels.txt"
for tenant in small large; do
    grep -q "^$tenant " "$out/labels.txt" || { echo "tenant $tenant is not in the profile" >&2; exit 1; }
done
step "example alloc"
cargo run --quiet -p everprof --example alloc | tee "$out/alloc.txt"
grep -q "^fill_cache .* [12][0-9] MB live" "$out/alloc.txt" || { echo "what stays is not in the live heap" >&2; exit 1; }
grep -q "^render_page .* 0 MB live" "$out/alloc.txt" || { echo "what does not stay is in the live heap" >&2; exit 1; }
step "example lock"
cargo run --quiet -p everprof --example lock | tee "$out/lock.txt"
grep -q "^sell waited [1-9][0-9]* ms for the lock, [1-9]" "$out/lock.txt" || { echo "nobody waited for the lock" >&2; exit 1; }
step "example coroutines"
cargo run --quiet -p everprof --example coroutines | tee "$out/coroutines.txt"
grep -q "^0 samples have their leaf only" "$out/coroutines.txt" || { echo "stacks of coroutines are not complete" >&2; exit 1; }
grep -q "^[1-9][0-9][0-9] of [0-9]* ms are in" "$out/coroutines.txt" || { echo "the coroutine's function is not in the profile" >&2; exit 1; }
