# Sourced by the scripts beside it: where we are, and how to say that something cannot run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() { printf '\n== %s (%s)\n' "$*" "$(date +%T)"; }

# A missing tool is a loud skip for a user, and a failure in CI: skip "what does not run" "what is missing".
skip() {
    printf '\n!!! SKIPPED: %s\n!!! because: %s\n\n' "$1" "$2" >&2
    [ "${CI:-}" != true ] || exit 1
    exit 0
}

has() { command -v "$1" >/dev/null 2>&1; }

# Mirrors fail now and then: three tries.
retry() {
    local try
    for try in 1 2 3; do
        "$@" && return 0
        echo "try $try failed: $*" >&2
        sleep $((try * 5))
    done
    return 1
}
