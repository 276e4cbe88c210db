#!/usr/bin/env bash
# Formatting, clippy, the number of crates, and the licences and sources of dependencies.
. "$(dirname "$0")/lib.sh"

step "fmt and clippy"
cargo fmt --all --check
cargo clippy --workspace --exclude everprof-python --all-targets --quiet -- -D warnings
cargo clippy -p everprof-python --all-targets --quiet -- -D warnings
cargo clippy -p everprof --all-features --all-targets --quiet -- -D warnings
# Not among all targets, since it is built for release only.
cargo clippy -p everprof --test storm --quiet -- -D warnings
# Workspaces of their own share nothing but the folder for what is built.
for manifest in examples/rust/service/Cargo.toml examples/rust/tracing/Cargo.toml core/fuzz/Cargo.toml; do
    cargo fmt --check --manifest-path "$manifest"
    CARGO_TARGET_DIR=target cargo clippy --all-targets --quiet --manifest-path "$manifest" -- -D warnings
done
# With all of its frameworks it would take minutes to build; its programs are built where they are run.
cargo fmt --check --manifest-path examples/rust/routers/Cargo.toml

# The peers one by one: together they would ask one crate for features that exclude each other.
cargo fmt --all --check --manifest-path benches/peers/Cargo.toml
for manifest in benches/peers/{*,pprof/*}/Cargo.toml; do
    CARGO_TARGET_DIR=target cargo clippy --all-targets --quiet --manifest-path "$manifest" -- -D warnings
done

crates=$(cargo tree -p everprof -e normal --prefix none | sed 's/ .*//' | sort -u | wc -l)
echo "everprof's default build: $crates crates (at most 40)"
[ "$crates" -le 40 ]

step "cargo deny"
# Built once into target/tools where it is missing; a quick build is enough for it.
export PATH=$PWD/target/tools/bin:$PATH
if ! has cargo-deny; then
    echo "building cargo-deny into target/tools, once: two to five minutes"
    CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        retry cargo install --quiet --locked cargo-deny@0.20.2 --no-default-features \
        --root target/tools --target-dir target/tools/build
    rm -rf target/tools/build
fi
cargo deny --log-level error check bans licenses sources
# The list of known vulnerabilities lives on GitHub, which not every machine reaches.
if timeout 10 git ls-remote -q https://github.com/rustsec/advisory-db HEAD >/dev/null 2>&1; then
    cargo deny --log-level error check advisories
else
    echo "!!! NOT CHECKED: known vulnerabilities (the advisory database on GitHub cannot be reached from here)" >&2
fi
