#!/usr/bin/env bash
# everprof in a service that nobody here wrote, for SOAK_SECONDS (600): static-web-server from the registry, on mimalloc with
# everprof around it, with every kind of profile, under load all the time. Fails where it hangs, where a request fails, where
# resident memory grows, or where the allocator or the server's tasks are not in the profiles.
cd "$(dirname "$0")/../.."
. .ci/lib.sh
has wrk || skip "a service from the registry under load" "wrk, which makes the load, is not here (Debian has it)"
version=3.0.0-beta.2
seconds=${SOAK_SECONDS:-600}
room=$PWD/target/soak
mkdir -p "$room/fetch/src"

step "static-web-server $version from the registry"
cat >"$room/fetch/Cargo.toml" <<TOML
[workspace]
[package]
name = "fetch"
version = "0.0.0"
edition = "2024"
[dependencies]
static-web-server = "=$version"
TOML
touch "$room/fetch/src/lib.rs"
retry cargo fetch --quiet --manifest-path "$room/fetch/Cargo.toml"
source=$(ls -d "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/static-web-server-"$version" | head -1)
rm -rf "$room/server" "$room/profiles"
cp -r "$source" "$room/server"
cd "$room/server"
# Manifest and source have mimalloc for one target only.
sed -i "s|^\[target.'cfg(all(target_env = \"musl\".*mimalloc\]|[dependencies.mimalloc]|" Cargo.toml
cat >>Cargo.toml <<TOML

[dependencies.everprof]
path = "$OLDPWD/core"

[workspace]
TOML
sed -i -e '/^#\[cfg(all(target_env = "musl"/d' \
    -e 's|^static GLOBAL: .*|static GLOBAL: everprof::Allocator<mimalloc::MiMalloc> = everprof::Allocator::with(mimalloc::MiMalloc);|' \
    -e 's|^fn main() -> Result {|&\n    let _profiler = everprof::Profiler::start();|' src/bin/server.rs
diff -u "$source/src/bin/server.rs" src/bin/server.rs | grep '^[+-] *[a-z#]' || true
# Its release build is stripped, which leaves places in place of names.
CARGO_PROFILE_RELEASE_STRIP=false CARGO_PROFILE_RELEASE_DEBUG=line-tables-only \
    CARGO_TARGET_DIR=$room/build cargo build --release --quiet --bin static-web-server
cd "$OLDPWD"

step "$seconds seconds under load"
mkdir -p "$room/public"
for number in $(seq 200); do head -c $((number * 600)) /dev/urandom | base64 >"$room/public/$number.html"; done
port=$((20000 + RANDOM % 20000))
EVERPROF_DIR=$room/profiles EVERPROF_KINDS=cpu,wall,offcpu,alloc,heap,lock,mutex,block EVERPROF_PERIOD_S=10 EVERPROF_MAX_BYTES=64MiB \
    EVERPROF_SERVICE=static-web-server "$room/build/release/static-web-server" --host 127.0.0.1 --port "$port" --root "$room/public" \
    --log-level error --grace-period 1 &
server=$!
trap 'kill "$server" 2>/dev/null || true' EXIT
cat >"$room/load.lua" <<'LUA'
-- Pages of all sizes, compressed or not, some that are not there; a connection ends after a while.
local number = 0
request = function()
    number = number + 1
    local headers = { ["Accept-Encoding"] = number % 3 == 0 and "gzip" or "identity" }
    if number % 50 == 0 then headers["Connection"] = "close" end
    return wrk.format("GET", "/" .. number % 210 + 1 .. ".html", headers)
end
LUA
for _ in $(seq 50); do curl -so /dev/null "http://127.0.0.1:$port/1.html" && break || sleep 0.2; done
wrk -t 2 -c 32 -d "${seconds}s" --timeout 10s -s "$room/load.lua" "http://127.0.0.1:$port" >"$room/load.txt" &
load=$!
: >"$room/resident.txt"
while kill -0 "$load" 2>/dev/null; do
    awk '/^VmRSS/ { print $2 }' "/proc/$server/status" >>"$room/resident.txt" || { echo "the server is gone" >&2; exit 1; }
    sleep 2
done
wait "$load"
cat "$room/load.txt"
# Some of the pages are not there: wrk counts those answers. Sockets that fail are another matter.
if grep 'Socket errors' "$room/load.txt" | grep -vE 'connect 0, read [0-9]+, write 0, timeout 0'; then exit 1; fi
kill -TERM "$server"
wait "$server" || { echo "the server ended with $?" >&2; exit 1; }
trap - EXIT

step "memory"
# The mean of the last fifth beside that of the second: the first is that of caches which fill.
awk '{ all[NR] = $1 } END {
    fifth = int(NR / 5)
    for (i = fifth + 1; i <= 2 * fifth; i++) early += all[i] / fifth
    for (i = NR - fifth + 1; i <= NR; i++) late += all[i] / fifth
    printf "resident: %.1f MiB in the second fifth, %.1f MiB in the last\n", early / 1024, late / 1024
    exit late > early * 1.05 + 2048
}' "$room/resident.txt" || { echo "resident memory grows" >&2; exit 1; }

step "report"
cargo run --quiet --example report -- "$room/profiles" "$room" | head -40
for kind in cpu wall offcpu alloc heap lock mutex block; do
    count=$(find "$room/profiles" -name "*.$kind.pb.gz" | wc -l)
    echo "$count profiles of $kind"
    [ "$count" -ge $((seconds / 20)) ] || { echo "too few" >&2; exit 1; }
done
