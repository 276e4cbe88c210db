#!/usr/bin/env bash
# Builds the servers that profiles are pushed to in tests into target/servers: through the Go module proxy Parca as it is
# published, but for the clouds that it would look for targets in (install.go), the OpenTelemetry Collector of the parts that
# its builder would put together, and what stands in for Pyroscope, which have their go.sum here; from PyPI Datadog's test
# agent, its profiler for Python as a second opinion, and a proxy.
set -euo pipefail
cd "$(dirname "$0")"
bin=$(cd ../../.. && mkdir -p "${CARGO_TARGET_DIR:-target}/servers" && cd "${CARGO_TARGET_DIR:-target}/servers" && pwd)
packages=(ddapm-test-agent==1.69.1 ddtrace==4.16.0 zstandard==0.25.0 proxy.py==2.4.10)
datadog() {
    [ "$(cat "$bin/datadog.stamp" 2>/dev/null || true)" != "${packages[*]}" ] || return 0
    rm -rf "$bin/datadog"
    if python3 -m venv "$bin/datadog" && "$bin/datadog/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}"; then
        echo "${packages[*]}" >"$bin/datadog.stamp"
    else
        rm -rf "$bin/datadog"
        printf '\n!!! SKIPPED: the test with Datadog'"'"'s agent, because PyPI did not give %s\n\n' "${packages[*]}" >&2
        [ "${CI:-}" != true ]
    fi
}
# It waits for the network mostly.
datadog &
datadog=$!
command -v go >/dev/null || {
    printf '\n!!! SKIPPED: the tests with real servers, because go is not here\n\n' >&2
    wait "$datadog"
    [ "${CI:-}" != true ] || exit 1
    exit 0
}
export GOTOOLCHAIN=local GOFLAGS='-mod=readonly -buildvcs=false' CGO_ENABLED=0
stamp() { { find "$1" -type f -exec cat {} + && cat build.sh; } | sha256sum; }
is_old() { [ "$(cat "$bin/$1.stamp" 2>/dev/null || true)" != "$(stamp "$1")" ]; }
build() { # folder, package, flags of the compiler
    is_old "$1" || return 0
    echo "building $1 into $bin ($(date +%T))"
    # Of some hundred modules one now and then does not come at once.
    local try
    for try in 1 2 3; do
        (cd "$1" && go build -ldflags="-s -w" "${@:3}" -o "$bin/$1" "$2") && break
        [ "$try" -lt 3 ] || return 1
        sleep 5
    done
    stamp "$1" >"$bin/$1.stamp"
}
build pyroscope .
build otelcol .
# More than half of what Parca would be compiled of knows the clouds and schedulers where targets could be found.
if is_old parca; then
    module=$(cd parca && go mod download -json github.com/prometheus/prometheus | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
    rm -rf "$bin/prometheus"
    cp -r --no-preserve=mode "$module" "$bin/prometheus"
    cp parca/install.go "$bin/prometheus/discovery/install/"
    cp parca/go.mod "$bin/parca.mod"
    cp parca/go.sum "$bin/parca.sum"
    go mod edit -replace "github.com/prometheus/prometheus=$bin/prometheus" "$bin/parca.mod"
    build parca github.com/parca-dev/parca/cmd/parca -modfile="$bin/parca.mod"
    rm -rf "$bin/prometheus"
fi
wait "$datadog"
