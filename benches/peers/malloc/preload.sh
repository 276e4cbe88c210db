#!/usr/bin/env bash
# Runs the program that calls C's malloc with what its own name says preloaded: malloc-preload-PEER allocations MODE. One that is
# not installed has no figures.
set -euo pipefail
here=$(dirname "$0")
peer=$(basename "$0") && peer=${peer#malloc-preload-}
mode=$2

# The path of a library that the loader knows by this name.
library() {
    ldconfig -p | awk -v name="$1" '$1 == name { print $NF; exit }'
}

jemalloc=$(library libjemalloc.so.2)
heaptrack=/usr/lib/heaptrack/libheaptrack_preload.so
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

case $peer in
everprof)
    kinds=cpu
    [ "$mode" = off ] || kinds=cpu,$mode
    set -- env LD_PRELOAD="$here/libeverprof_preload.so" EVERPROF_KINDS="$kinds" EVERPROF_DIR="$dir" EVERPROF_PERIOD_S=3600 \
        "$here/malloc-bare" "$@"
    ;;
nothing) set -- "$here/malloc-bare" "$@" ;;
jemalloc)
    [ -n "$jemalloc" ] || exit 0
    set -- env LD_PRELOAD="$jemalloc" "$here/malloc-bare" "$@"
    ;;
jemalloc-prof)
    [ -n "$jemalloc" ] && [ "$mode" != off ] || exit 0
    set -- env LD_PRELOAD="$jemalloc" MALLOC_CONF=prof:true,lg_prof_sample:19 "$here/malloc-bare" "$@"
    ;;
heaptrack)
    [ -e "$heaptrack" ] && [ "$mode" = heap ] || exit 0
    # Each allocation with its stack; what it writes is thrown away.
    set -- env LD_PRELOAD="$heaptrack" DUMP_HEAPTRACK_OUTPUT=/dev/null "$here/malloc-bare" "$@"
    ;;
esac
"$@"
