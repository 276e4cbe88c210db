#!/usr/bin/env bash
# The Debian packages that the tests want, for a machine where we are root. `make test` itself never needs root.
. "$(dirname "$0")/lib.sh"
has apt-get || { echo "no apt-get here: install chromium, qemu-user and a cross compiler for aarch64 by hand"; exit 0; }
export DEBIAN_FRONTEND=noninteractive
missing=()
has chromium || has google-chrome || missing+=(chromium)
has make || missing+=(make)
[ ${#missing[@]} -gt 0 ] || exit 0
retry apt-get update -qq
retry apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null >/dev/null
