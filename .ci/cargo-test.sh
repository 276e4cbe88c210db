#!/usr/bin/env bash
# cargo test, all of it whatever fails; in CI, whose machine others share, what failed runs once more by itself, which is said
# loudly and at the end again: .ci/cargo-test.sh ARGUMENTS...
. "$(dirname "$0")/lib.sh"
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# cargo names what failed in the form of its own options, between backquotes.
failed() { sed -n 's/^    `\(-p [^`]*\)`$/\1/p' "$log"; }

cargo test --no-fail-fast "$@" 2>&1 | tee "$log" && exit 0
[ "${CI:-}" = true ] && [ -n "$(failed)" ] || exit 1
mapfile -t targets < <(failed)
[ ${#targets[@]} -le 3 ] || { echo "${#targets[@]} of them failed: that is not chance" >&2; exit 1; }
# How it is built, and what follows the two dashes, is as before.
how=() rest=()
while [ $# -gt 0 ]; do
    case $1 in
        --all-features | --release) how+=("$1") ;;
        --target) how+=("$1" "$2") && shift ;;
        --) rest=("$@") && break ;;
    esac
    shift
done
for target in "${targets[@]}"; do
    step "FAILED AT THE FIRST TRY, now the second: $target"
    # Words of their own by intention.
    # shellcheck disable=SC2086
    cargo test "${how[@]}" $target "${rest[@]}"
done
printf '\n!!! passed at the second try only: %s\n' "${targets[@]}"
