#!/usr/bin/env bash
# Writes the pages, installs the driver, and runs the browser tests. Pictures of the pages land in target/browser.
# `run.sh servers` looks at the pages that the tests of servers wrote instead: those of what was given back beside the local ones.
# Without node or Chromium it says so and passes, except in CI, where a skipped test is a failed one.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../../.. && pwd)
export CHROMIUM=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}

skip() {
    echo "test-browser: SKIPPED: $1" >&2
    [ "${CI:-}" != true ] || exit 1
    exit 0
}
command -v node >/dev/null && command -v npm >/dev/null || skip "node and npm are not here (Debian: apt-get install nodejs npm)"
[ -n "$CHROMIUM" ] || skip "Chromium is not here (Debian: apt-get install --no-install-recommends chromium)"

if [ ! -d node_modules/playwright-core ]; then
    PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 npm install --silent || skip "npm could not install playwright-core"
fi
if [ "${1:-}" = servers ]; then
    export BROWSER_PAGES=${CARGO_TARGET_DIR:-$root/target}/servers/pages
    exec node --test served.mjs
fi
export BROWSER_PAGES=${BROWSER_PAGES:-${CARGO_TARGET_DIR:-$root/target}/browser}
cargo run --quiet --manifest-path "$root/Cargo.toml" -p everprof --example browser_pages -- "$BROWSER_PAGES"
# The program whose pull side is looked at.
cargo build --quiet --manifest-path "$root/Cargo.toml" -p everprof --example serve
export SERVE_PROGRAM=${CARGO_TARGET_DIR:-$root/target}/debug/examples/serve
node --test --test-concurrency=1 .
