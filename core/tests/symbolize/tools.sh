#!/usr/bin/env bash
# Gets Debian's dwz into target/dwz, where the machine has none: downloaded with apt's own checks of signatures and
# unpacked, so that no root is needed. What cannot be had is said loudly; its test then skips, and fails in CI.
set -euo pipefail
cd "$(dirname "$0")/../../.."
folder=${CARGO_TARGET_DIR:-target}/dwz
if command -v dwz >/dev/null || [ -x "$folder/usr/bin/dwz" ]; then exit 0; fi
rm -rf "$folder" && mkdir -p "$folder"
if ! (cd "$folder" && apt-get download -qq dwz && dpkg -x dwz_*.deb .) 2>/dev/null; then
    printf '\n!!! no dwz: the test of debug information that files share will be SKIPPED\n\n' >&2
    [ "${CI:-}" != true ] || exit 1
fi
