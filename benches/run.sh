#!/usr/bin/env bash
# Builds everprof and its peers, each by itself, and measures them side by side: benches/run.sh [--rounds N] [TOPIC…]
set -euo pipefail
cd "$(dirname "$0")/.."

# Built one by one: together, cargo would give a dependency that two of them share the features that both ask for.
# Without flags: the default has no frame pointers.
unset RUSTFLAGS
for package in peer-floor peer-everprof peer-pprof-default peer-pprof-frame-pointer peer-pprof-framehop peer-pyroscope compare; do
    cargo build --quiet --release --manifest-path benches/peers/Cargo.toml --target-dir target/peers -p "$package"
done
target/peers/release/compare --out target/bench "$@"
