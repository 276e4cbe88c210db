#!/usr/bin/env bash
# everprof in a program that nobody here wrote: ripgrep from the registry, with the two lines added to it.
# It searches a text for a regular expression that has no literal to look for, so the hot function has to be the search
# loop of its lazy DFA; anything else is a failure.
cd "$(dirname "$0")/../.."
. .ci/lib.sh
version=15.2.0
room=$PWD/target/registry
mkdir -p "$room/fetch/src"

step "ripgrep $version from the registry"
cat >"$room/fetch/Cargo.toml" <<TOML
[workspace]
[package]
name = "fetch"
version = "0.0.0"
edition = "2024"
[dependencies]
ripgrep = "=$version"
TOML
echo 'fn main() {}' >"$room/fetch/src/main.rs"
retry cargo fetch --quiet --manifest-path "$room/fetch/Cargo.toml"
source=$(ls -d "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/ripgrep-"$version" | head -1)
rm -rf "$room/ripgrep" "$room/profiles"
cp -r "$source" "$room/ripgrep"
cd "$room/ripgrep"

# Line one: the dependency. Line two: the guard, first thing in main.
sed -i "s|^\[dependencies\.anyhow\]|[dependencies.everprof]\npath = \"$OLDPWD/core\"\n\n&|" Cargo.toml
sed -i 's|^fn main() -> ExitCode {|&\n    let _profiler = everprof::Profiler::start();|' crates/core/main.rs
printf '\n[workspace]\n' >>Cargo.toml
(diff -u "$source/crates/core/main.rs" crates/core/main.rs || true) | grep '^[+-] ' || { echo "main.rs is not what it was" >&2; exit 1; }
CARGO_TARGET_DIR=$room/build cargo build --release --quiet
cd "$OLDPWD"

step "searching"
# 90 MB of made-up lines, the same every time, searched over and over.
[ -s "$room/text" ] || awk 'BEGIN { for (i = 0; i < 1000000; i++) print "line", i, "of", i * 7919 % 10007,
    "words and", i * 104729 % 1299709, "more words, none of them the one that is looked for" }' >"$room/text"
texts=()
for _ in $(seq 40); do texts+=("$room/text"); done
EVERPROF_SERVICE=ripgrep EVERPROF_DIR=$room/profiles "$room/build/release/rg" --no-config --count \
    '[a-z]{4}\d{3} [A-Z]\w+' "${texts[@]}" || [ $? -eq 1 ]

step "report"
cargo run --quiet --example report -- "$room/profiles" "$room" | tee "$room/report.txt"
# Of all CPU time, how much was in the search loop, with what is inlined into it? A function without time of its own may be
# beyond the rows that are printed.
share=$(awk '$7 ~ /^regex_automata::hybrid::/ { self += $3 } END { print self + 0 }' "$room/report.txt")
awk -v share="$share" 'BEGIN { exit share < 60 }' || { echo "the lazy DFA has $share % and should have most" >&2; exit 1; }
echo "the hot function is the lazy DFA's search loop: ${share} % of the CPU time"
