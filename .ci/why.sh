#!/usr/bin/env bash
# The lines of a log that say what failed, each with those around it; at most 150: .ci/why.sh LOG
grep -a -n -B 3 -A 12 -E 'FAILED|panicked at|^error|!!! |: hung$|: signal: |: exit status: |not ok |Error: ' "$1" | tail -n 150
