#!/usr/bin/env bash
# Builds the wheel as it is delivered, into the folder that is named: for every Linux whose C library is glibc 2.17 (2012) or newer.
# Where it is built, libraries are newer; zig's linker has the old ones' tables of symbols. What it fetches goes into target/.
. "$(dirname "$0")/../.ci/lib.sh"
out=${1:-target/wheels}
tools=${CARGO_TARGET_DIR:-$PWD/target}/python-package/zig
[ -x "$tools/bin/maturin" ] || { python3 -m venv "$tools" && retry "$tools/bin/pip" install -q -U pip 'maturin>=1.9,<2' 'ziglang>=0.15,<0.18'; }
PATH=$tools/bin:$PATH maturin build -q --release --locked --zig --compatibility manylinux2014 -m bindings-python/Cargo.toml -o "$out"
