#!/usr/bin/env bash
# Builds the servers that profiles are pushed to in tests into target/servers: through the Go module proxy Parca as it is
# published (five minutes on two cores when nothing is cached), the OpenTelemetry Collector of the parts that its builder would put
# together, and what stands in for Pyroscope, which have their go.sum here; from PyPI Datadog's test agent, its profiler
# for Python as a second opinion, and a proxy.
set -euo pipefail
cd "$(dirname "$0")"
bin=$(cd ../../.. && mkdir -p "${CARGO_TARGET_DIR:-target}/servers" && cd "${CARGO_TARGET_DIR:-target}/servers" && pwd)
packages=(ddapm-test-agent==1.69.1 ddtrace==4.16.0 zstandard==0.25.0 proxy.py==2.4.10)
if [ "$(cat "$bin/datadog.stamp" 2>/dev/null || true)" != "${packages[*]}" ]; then
    rm -rf "$bin/datadog"
    if python3 -m venv "$bin/datadog" && "$bin/datadog/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}"; then
        echo "${packages[*]}" >"$bin/datadog.stamp"
    else
        rm -rf "$bin/datadog"
        printf '\n!!! SKIPPED: the test with Datadog'"'"'s agent, because PyPI did not give %s\n\n' "${packages[*]}" >&2
        [ "${CI:-}" != true ] || exit 1
    fi
fi
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
