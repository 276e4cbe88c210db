#!/usr/bin/env bash
# Builds everprof and its peers, each by itself, and measures them side by side: benches/run.sh [--rounds N] [TOPIC…]
set -euo pipefail
cd "$(dirname "$0")/.."

# Built one by one: together, cargo would give a dependency that two of them share the features that both ask for.
# Without flags: the default has no frame pointers.
unset RUSTFLAGS
for package in peer-floor peer-everprof peer-everyone peer-pprof-default peer-pprof-frame-pointer peer-pprof-framehop peer-pyroscope \
    alloc-system-bare alloc-system-everprof alloc-system-dhat alloc-jemalloc-bare alloc-jemalloc-everprof alloc-jemalloc-pprof \
    malloc-bare malloc-everprof locks-bare locks-everprof compare; do
    cargo build --quiet --release --manifest-path benches/peers/Cargo.toml --target-dir target/peers -p "$package"
done
cargo build --quiet --release --manifest-path core/preload/Cargo.toml --target-dir target/peers
# The same program without a profiler, with one that is preloaded: its name says which.
for peer in everprof nothing jemalloc jemalloc-prof heaptrack; do
    install benches/peers/malloc/preload.sh "target/peers/release/malloc-preload-$peer"
done
# What names addresses is measured on its own code, with full debug information.
cargo build --quiet --profile full --manifest-path benches/peers/Cargo.toml --target-dir target/peers -p tools
target/peers/release/compare --out target/bench "$@"

echo; echo "crates in the tree of a program's dependencies, itself included"
for name in everprof pprof pyroscope; do
    package=peer-$name && [ "$name" != pprof ] || package=peer-pprof-default
    cargo tree --quiet --manifest-path benches/peers/Cargo.toml -p "$package" -e normal --no-dedupe --prefix depth |
        awk -v name="$name" '/^1/ { inside = ($1 == "1" name) } inside { sub(/^[0-9]+/, ""); print $1 }' |
        sort -u | wc -l | sed "s/^/$name /"
done
