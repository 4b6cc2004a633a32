#!/bin/bash
# Makes the source tarball: of HEAD, or of the tree where there is no git, as
# in a tarball that was unpacked. Both are the same to the last byte.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. packaging/release.sh

name=nbdkit-digest-filter-$version
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir -p build "$tmp/$name"

# Not "git rev-parse": a tarball may be unpacked inside of another repository.
if [ -e .git ]; then
    git archive HEAD | tar -x -C "$tmp/$name"
    [ ! "$(git status --porcelain)" ] ||
        echo "dist: what is not committed is left out" >&2
else
    sed 's|^/|./|' .gitignore > "$tmp/built"
    tar -c --exclude-from="$tmp/built" . | tar -x -C "$tmp/$name"
fi

tar -c -C "$tmp" --format=gnu --sort=name --mtime="@$SOURCE_DATE_EPOCH" \
    --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX "$name" |
    gzip -9n > "$tmp/tar.gz"
mv "$tmp/tar.gz" "build/$name.tar.gz"
echo "build/$name.tar.gz"
