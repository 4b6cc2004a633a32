#!/bin/sh
# Runs in a clean root: check-installed.sh PACKAGE.deb VERSION
# Installs the package, uses it, and removes it.

# nbdkit expands $uri:
# shellcheck disable=SC2016

set -eu
deb=./$1
version=$2
name='nbdkit-digest-filter'

say () { echo "    $*"; }
fail () { echo "check-installed: $*" >&2; exit 1; }

apt () {
    apt-get -q -y --no-install-recommends "$@" >apt.log 2>&1 || {
        cat apt.log >&2
        fail "apt-get $* failed"
    }
}

# Everything but what programs other than the package's change as they run.
files () {
    find / -xdev \( -path /proc -o -path /dev -o -path /run -o -path /tmp \
        -o -path /root -o -path /var/cache -o -path /var/log \
        -o -path /var/lib/apt \) -prune -o -print | sort
}

# with NBDKIT: whether apt would install the package beside a nbdkit of that
# version
with () {
    mkdir -p other/DEBIAN
    cat > other/DEBIAN/control <<END
Package: nbdkit
Version: $1
Architecture: $(dpkg --print-architecture)
Maintainer: nobody <nobody@localhost>
Description: stands for nbdkit $1
END
    dpkg-deb --build other other.deb >/dev/null
    apt-get -s --no-install-recommends install "$deb" ./other.deb >apt.log 2>&1
}

apt update

# 1.32.5 of 1.32.5-1+deb12u1
nbdkit=$(apt-cache show nbdkit | sed -n 's/^Version: \([0-9.]*\).*/\1/p' | head -n 1)
minor=${nbdkit%.*} micro=${nbdkit##*.}
for other in "$nbdkit-1" "$nbdkit-9+deb1u1"; do
    with "$other" || { cat apt.log >&2; fail "apt refuses nbdkit $other"; }
done
for other in "$nbdkit~rc1-1" "$minor.$((micro + 1))-1" "$minor.$((micro + 1))~rc1-1" \
             "1.$((${minor#1.} + 2)).$micro-1"; do
    ! with "$other" || fail "apt takes nbdkit $other"
    grep -q 'Depends: nbdkit (' apt.log ||
        { cat apt.log >&2; fail "apt does not say that it refuses nbdkit $other"; }
done
say "fits nbdkit $nbdkit, whatever the revision, and no other version"

apt-get -s --no-install-recommends install "$deb" | grep -q '^Inst nbdkit ' ||
    fail "the package does not bring nbdkit"

# What serves to test it is there before, so that the difference is its own.
apt install nbdkit libnbd-bin b3sum man-db
files > before
apt install "$deb"
nbdkit --filter=digest null --dump-plugin | grep -x "digest_version=$version" >/dev/null ||
    fail "nbdkit does not show version $version"
say "installed with nbdkit $(nbdkit --dump-config | sed -n 's/^version=//p')"

head -c 20000001 /dev/urandom > disk.img
nbdkit -r -U - --filter=digest file disk.img digest=sha256,blake3 \
    digest-file=disk.sum digest-name=disk.img --run 'nbdcopy "$uri" null:'
grep '^SHA256 ' disk.sum | sha256sum --check --strict >/dev/null ||
    fail "sha256sum finds another digest"
grep -qx "BLAKE3 (disk.img) = $(b3sum --no-names disk.img)" disk.sum ||
    fail "b3sum finds another digest"
say "sha256 and blake3 are those of sha256sum and b3sum"

nbdkit -r -U - --filter=digest file disk.img digest-file=disk.json \
    digest-expect="sha256:$(sha256sum disk.img | cut -d ' ' -f 1)" \
    --run 'nbdcopy "$uri" copy.img'
cmp disk.img copy.img
grep -q "\"filter\": \"digest $version\"" disk.json ||
    fail "the JSON does not show version $version"
printf 'another image' | dd of=disk.img conv=notrunc 2>/dev/null
! nbdkit -r -U - --filter=digest file disk.img \
    digest-expect="sha256:$(sha256sum copy.img | cut -d ' ' -f 1)" \
    --run 'nbdcopy "$uri" null:' 2>/dev/null || fail "a wrong image is copied"
say "an image with the expected digest is copied, another one is not"

man -w $name >/dev/null
man $name | grep -q 'compute digests of an image' || fail "man does not show the page"
for file in copyright changelog.gz changelog.Debian.gz README.md examples/nbdkit-digest; do
    [ -s /usr/share/doc/$name/$file ] || fail "/usr/share/doc/$name/$file is missing"
done
say "man page and documentation are there"

apt purge $name
files > after
diff before after || fail "the package leaves this behind"
! nbdkit --filter=digest null --dump-plugin >/dev/null 2>&1 || fail "the filter is still there"
say "nothing is left when it is removed"
