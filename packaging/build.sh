#!/bin/bash
# Makes a package of the filter that is built: build.sh deb|rpm
#
# nbdkit loads a filter only if its version string is that of the headers that
# the filter was built with. The string is upstream's version (1.32.5), so the
# package depends on all of the distribution's revisions of that (1.32.5-1,
# 1.32.5-1+deb12u1) and on nothing else. It is also at the end of the package's
# own version: that for a newer nbdkit is an upgrade.
#
# There is no bash completion: nbdkit's completes --filter from the directory
# of filters, and so this one. It completes parameters of plugins only; those
# of a filter would need a change there, as a command has one completion file.
#
# An rpm is for the system that it is made on: filters are in /usr/lib64/nbdkit
# on Fedora, and elsewhere on Debian, where it is made only to look at it.
#
# MAINTAINER='NAME <ADDRESS>' is who answers for the package.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. packaging/release.sh

fail () { echo "packaging: $*" >&2; exit 1; }

kind=${1:?deb or rpm}
filter=nbdkit-digest-filter.so
name=nbdkit-digest-filter
work=build/package

[ -e $name.1 ] || fail "$name.1 is missing: install pod2man (make deps) and run make"

# What the filter was built for is known best by an nbdkit that loads it.
nbdkit --filter="$PWD/$filter" null --dump-plugin |
    grep -qx "digest_version=$version" ||
    fail "nbdkit does not load $filter $version: run 'make clean' and then make"

NBDKIT=$(pkg-config --modversion nbdkit)
[[ $NBDKIT =~ ^([0-9]+\.[0-9]+)\.([0-9]+)$ ]] ||
    fail "nbdkit's version is '$NBDKIT', which is not of the form 1.2.3"
NBDKIT_NEXT=${BASH_REMATCH[1]}.$((BASH_REMATCH[2] + 1))
FILTERDIR=$(pkg-config --variable=filterdir nbdkit)
GLIBC=$(objdump -T $filter | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -n 1)
GLIBC=${GLIBC#GLIBC_}
ARCH=$(go env GOARCH)
VERSION=$version
RELEASE=1+nbdkit$NBDKIT
MAINTAINER=${MAINTAINER:-nbdkit-digest-filter authors <nbdkit-digest-filter@localhost>}
export NBDKIT NBDKIT_NEXT FILTERDIR GLIBC ARCH VERSION RELEASE MAINTAINER

# The licences of all that the filter is linked from. Go's own is that of its
# module golang.org/x/sys, the same text by the same authors.
copyright () {
    printf 'nbdkit-digest-filter\n\n'
    cat LICENSE
    go version -m $filter | awk '$1 == "dep" { print $2, $3 }' |
        while read -r module number; do
            printf '\n\nThe filter contains %s %s' "$module" "$number"
            [ "$module" != golang.org/x/sys ] ||
                printf ", and Go's runtime and standard library"
            printf ':\n\n'
            cat "$(go list -m -f '{{.Dir}}' "$module")/LICENSE"
        done
}

rm -rf "$work"
mkdir -p "$work"
gzip -9n < $name.1 > $work/$name.1.gz
gzip -9n < CHANGELOG.md > $work/changelog.gz
copyright > $work/copyright
gzip -9n > $work/changelog.Debian.gz <<END
$name ($VERSION-$RELEASE) unstable; urgency=medium

  * Version $VERSION for nbdkit $NBDKIT: changelog.gz tells what is new.

 -- $MAINTAINER  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
END

CGO_ENABLED=0 GOFLAGS='' go tool -modfile=packaging/go.mod nfpm package \
    --config packaging/nfpm.yaml --packager "$kind" --target build/
