#!/usr/bin/env bash
# The flame graph pages, driven in a headless Chromium: zoom, search, switch, filter, diff, and 100,000 stacks.
. "$(dirname "$0")/lib.sh"
step "browser"
has npm || skip "the browser tests" "Node.js with npm is not installed"
chromium=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}
[ -n "$chromium" ] || skip "the browser tests" "there is no Chromium; CHROMIUM=/path/to/it names one"
pages=$PWD/target/browser
cargo run --quiet -p everprof --example browser_pages -- "$pages"
cd core/tests/browser
[ -d node_modules ] || retry npm ci --no-audit --no-fund --silent
CHROMIUM=$chromium BROWSER_PAGES=$pages npm test --silent
