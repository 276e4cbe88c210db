#!/usr/bin/env bash
# Builds the servers that profiles are pushed to in tests, through the Go module proxy, into target/servers: Parca as it is
# published (five minutes on two cores when nothing is cached), the OpenTelemetry Collector of the parts that its builder would put
# together, and what stands in for Pyroscope. Each has its go.sum here.
set -euo pipefail
cd "$(dirname "$0")"
bin=$(cd ../../.. && mkdir -p "${CARGO_TARGET_DIR:-target}/servers" && cd "${CARGO_TARGET_DIR:-target}/servers" && pwd)
command -v go >/dev/null || {
    printf '\n!!! SKIPPED: the tests with real servers, because go is not here\n\n' >&2
    [ "${CI:-}" != true ] || exit 1
    exit 0
}
export GOTOOLCHAIN=local GOFLAGS=-mod=readonly CGO_ENABLED=0
build() { # folder, package
    local stamp
    stamp=$(find "$1" -type f -exec cat {} + | sha256sum)
    [ "$(cat "$bin/$1.stamp" 2>/dev/null || true)" != "$stamp" ] || return 0
    echo "building $1 into $bin"
    (cd "$1" && go build -o "$bin/$1" "$2")
    echo "$stamp" >"$bin/$1.stamp"
}
build parca github.com/parca-dev/parca/cmd/parca
build otelcol .
build pyroscope .
