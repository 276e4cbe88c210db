#!/usr/bin/env bash
# The Debian packages that the tests want, for a machine where we are root. `make test` itself never needs root.
. "$(dirname "$0")/lib.sh"
has apt-get || { echo "no apt-get here: install chromium, node, npm, python3, go and a C++ compiler by hand"; exit 0; }
export DEBIAN_FRONTEND=noninteractive
missing=()
has chromium || has google-chrome || missing+=(chromium)
has make || missing+=(make)
has c++ || missing+=(g++)
has python3 || missing+=(python3 python3-venv)
has node || missing+=(nodejs)
has npm || missing+=(npm)
# Programs that the preloaded library is tried with, and allocators of others.
has sqlite3 || missing+=(sqlite3)
has redis-server || missing+=(redis-server redis-tools)
# Its loader is the C library.
has musl-gcc || missing+=(musl-tools)
if [ ${#missing[@]} -gt 0 ]; then
    retry apt-get update -qq
    retry apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null >/dev/null
fi
# Allocators of others, as far as this release of Debian has them: tests try those that are there.
for allocator in libjemalloc2 libtcmalloc-minimal4 libmimalloc2.0; do
    dpkg -s "$allocator" >/dev/null 2>&1 && continue
    apt-get install -y -qq --no-install-recommends "$allocator" </dev/null >/dev/null || echo "no $allocator here"
done
# Better to hear of it here than in the middle of a test. Go and Rust are not Debian's: theirs are too old.
for tool in make c++ python3 node npm go cargo; do
    has "$tool" || { echo "$tool is missing, and no package of Debian that is installed here brings it" >&2; exit 1; }
done
