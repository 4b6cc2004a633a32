#!/bin/bash
# Runs end-to-end tests with a filter whose C, and what Go does with C's memory,
# is watched by AddressSanitizer. nbdkit itself is not built with it, so the
# library is loaded first, into nbdkit and into all clients.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

library=$(readlink -f "$(gcc -print-file-name=libasan.so)")
[ -e "$library" ] || { echo "asan: gcc has no libasan" >&2; exit 1; }

# What "make" builds with, but for what hides from the sanitizer.
export FILTER=$PWD/build/asan/nbdkit-digest-filter.so
CGO_ENABLED=1 CGO_CFLAGS='-O1 -g -fno-omit-frame-pointer' \
    go build -asan -trimpath -buildvcs=false -buildmode=c-shared \
    -ldflags "-extldflags \"-Wl,-T,$PWD/nbdkit/init.ld\"" -o "$FILTER" .
go test -c -o build/asan/tests.test ./tests

# Python and qemu leave behind what the search for leaks would find. When a
# client is killed, nbdkit 1.32 with the library, even without any filter of
# this project, waits at its end for a lock that nobody holds any more.
cd tests
LD_PRELOAD=$library ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 \
    ../build/asan/tests.test -test.skip Killed -test.run "${1:-Modes|EveryMode|Daemon|Parameter|Quer|Exports|Writes|Load|Dump|Client|Expect|Sidecar}"
