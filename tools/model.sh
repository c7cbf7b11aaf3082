#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Checks native/src/base/ring.pml with spin: the protocol must hold, and each way of breaking it must
# be found. Usage: tools/model.sh [build folder]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
model="$PWD/native/src/base/ring.pml"
folder="${1:-build/model}"
if ! command -v spin >/dev/null; then
    echo "model: spin is not installed; skipped (Debian package: spin)"
    exit 0
fi
mkdir -p "$folder"
cd "$folder"

check() { # $@: macros; prints the number of errors that an exhaustive search finds, 0 or 1
    rm -f ./*.trail
    spin -a "$@" "$model" >spin.log
    "${CC:-cc}" -O2 -w -DSAFETY -DCOLLAPSE -o pan pan.c
    ./pan -m200000 >pan.log
    grep -q "max search depth too small" pan.log && { echo "depth"; return; }
    sed -n 's/.*errors: \([0-9]*\).*/\1/p' pan.log
}

failed=0
if [[ "$(check -DDEATHS=1)" == 0 ]]; then
    echo "model: the protocol holds ($(sed -n 's/ *\([0-9.e+]*\) states, stored.*/\1/p' pan.log) states)"
else
    echo "model: the protocol fails; replay it: cd $folder && spin -p -t $model" >&2
    exit 1
fi
for how in ORDER RELEASE PASS WORKER_FENCE RECEIVER_FENCE SECOND_LOOK; do
    if [[ "$(check -DDEATHS=0 "-DBREAK_$how")" == 1 ]]; then
        echo "model: BREAK_$how is found: $(sed -n 's/^pan:[0-9]*: \(.*\) (at depth.*/\1/p' pan.log)"
    else
        echo "model: BREAK_$how is not found" >&2
        failed=1
    fi
done
exit "$failed"
