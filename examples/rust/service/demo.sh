#!/usr/bin/env bash
# The demo: the shop under load as version 1.0 and again as 1.1, both profiled by everprof's defaults, then the report
# on what changed. Everything it leaves is in target/demo/. DEMO_SECONDS and DEMO_RATE say how long and how hard.
cd "$(dirname "$0")/../../.."
. .ci/lib.sh
seconds=${DEMO_SECONDS:-15} rate=${DEMO_RATE:-80}
demo=$PWD/target/demo
export CARGO_TARGET_DIR=$PWD/target
rm -rf "$demo"
mkdir -p "$demo/bin"

build() { cargo build --release --quiet --manifest-path examples/rust/service/Cargo.toml "$@"; }

# run VERSION: serves until the load generator is done, and stops as a deployment would, by SIGTERM.
run() {
    step "shop $1 under load, $seconds s at $rate requests/s"
    EVERPROF_SERVICE=shop EVERPROF_VERSION=$1 EVERPROF_KINDS=cpu,wall,alloc,heap,lock EVERPROF_DIR=$demo/profiles "$demo/bin/shop-$1" >"$demo/shop-$1.log" &
    local shop=$! address=
    trap 'kill "$shop" 2>/dev/null || true' EXIT
    for _ in $(seq 100); do
        address=$(sed -n 's/^listening on //p' "$demo/shop-$1.log")
        [ -z "$address" ] || break
        kill -0 "$shop" || exit 1
        sleep 0.1
    done
    echo "its profiles of the moment: http://$address/debug/pprof/"
    "$demo/bin/load" "$address" "$seconds" "$rate"
    kill -TERM "$shop"
    wait "$shop"
    trap - EXIT
}

step "building shop 1.0 and 1.1 (release, no frame pointers): some 80 crates, two to five minutes the first time"
build
cp target/release/shop "$demo/bin/shop-1.0"
cp target/release/load "$demo/bin/load"
build --bin shop --features v1_1
cp target/release/shop "$demo/bin/shop-1.1"
cargo build --quiet --example report
run 1.0
run 1.1
step "report"
cargo run --quiet --example report -- "$demo/profiles" "$demo" 1.0 1.1
cargo run --quiet --example report -- timeline "$demo/profiles" >"$demo/timeline.html" 2>"$demo/timeline.log"
echo "timeline of all periods:   $demo/timeline.html"
echo "open the pages in a browser: they are files of their own and need no network"
