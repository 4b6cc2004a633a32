#!/bin/bash
# Builds the .deb in a clean Debian of each suite, from the source tarball and
# for that Debian's nbdkit, installs it in another one that has no compiler,
# and uses it there. Needs root, debootstrap and a Debian mirror; rpm and
# lintian have a look as well where they are installed.
#
#   SUITES  default bookworm trixie
#   MIRROR  default the one that this machine's apt uses
#   ROOTS   where the roots are kept for the next time; default build/roots

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. packaging/release.sh

fail () { echo "check-packages: $*" >&2; exit 1; }
say () { echo "check-packages: $*"; }

[ "$(id -u)" = 0 ] || fail "chroot needs root: run it as root"
command -v debootstrap >/dev/null || fail "debootstrap is missing: apt-get install debootstrap"

SUITES=${SUITES:-bookworm trixie}
ROOTS=$(realpath -m "${ROOTS:-build/roots}")
# shellcheck disable=SC2016
MIRROR=${MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' \
    'Created-By: Packages' 'Label: Debian' | sed -n 1p)}
[ "$MIRROR" ] || fail "apt knows no Debian mirror: set MIRROR"
tarball=$PWD/build/nbdkit-digest-filter-$version.tar.gz
[ -e "$tarball" ] || fail "$tarball is missing: run 'make dist'"

# The roots have the Go of this machine and its modules, and no other network
# than Debian's. Go's build cache is not shared: it would hand out objects that
# were compiled with another root's headers.
go=$(go env GOROOT)
modules=$(go env GOMODCACHE)
go mod download
CGO_ENABLED=0 go tool -modfile=packaging/go.mod nfpm --version >/dev/null

# in_root ROOT COMMAND... The mounts and all processes end with it.
in_root () {
    mkdir -p "$1$go" "$1$modules" "$ROOTS/archives"
    # shellcheck disable=SC2016
    unshare --mount --pid --fork --kill-child sh -euc '
        root=$1 go=$2 modules=$3 archives=$4
        shift 4
        mount -t proc proc "$root/proc"
        mount --bind "$go" "$root$go"
        mount --bind "$modules" "$root$modules"
        mount --bind "$archives" "$root/var/cache/apt/archives"
        cp -L /etc/resolv.conf "$root/etc/resolv.conf"
        exec chroot "$root" env -i HOME=/root LC_ALL=C.UTF-8 \
            DEBIAN_FRONTEND=noninteractive GOPROXY=off GOTOOLCHAIN=local \
            GOMODCACHE="$modules" ${MAINTAINER+"MAINTAINER=$MAINTAINER"} \
            PATH="$go/bin:/usr/sbin:/usr/bin:/sbin:/bin" "$@"
        ' sh "$1" "$go" "$modules" "$ROOTS/archives/$suite" "${@:2}" </dev/null
}

apt () {
    in_root "$1" apt-get -q -y --no-install-recommends "${@:2}" > "$log" 2>&1 || {
        cat "$log" >&2
        fail "apt-get ${*:2} failed in $1"
    }
}

# The roots are made under another name first: one that exists is complete.
make_base () {
    [ ! -e "$base" ] || return 0
    rm -rf "$base.part"
    say "$suite: debootstrap"
    debootstrap --variant=minbase "$suite" "$base.part" "$MIRROR" > "$log" 2>&1 || {
        cat "$log" >&2
        fail "debootstrap failed for $suite"
    }
    mv "$base.part" "$base"
}

# Each time with what the mirror has now, as the clean root will get that.
make_builder () {
    [ -e "$builder" ] || {
        rm -rf "$builder.part"
        cp -a "$base" "$builder.part"
        mv "$builder.part" "$builder"
    }
    apt "$builder" update
    apt "$builder" install ca-certificates gcc libc6-dev make nbdkit \
        nbdkit-plugin-dev perl pkg-config
}

build () {
    rm -rf "$builder/src"
    mkdir "$builder/src"
    tar -xzf "$tarball" -C "$builder/src" --strip-components=1
    say "$suite: make deb rpm"
    in_root "$builder" make -C /src deb rpm > "$log" 2>&1 || {
        cat "$log" >&2
        fail "the packages could not be built in $suite"
    }
    rm -rf "build/$suite"
    mkdir -p "build/$suite"
    cp "$builder"/src/build/*.deb "$builder"/src/build/*.rpm "build/$suite/"
}

use () {
    rm -rf "$clean"
    cp -a "$base" "$clean"
    cp "build/$suite"/*.deb packaging/check-installed.sh "$clean/root/"
    in_root "$clean" sh -c "cd /root && sh check-installed.sh *.deb $version" ||
        fail "the package is not as it should be in $suite"
    rm -rf "$clean"
}

# An rpm can be looked at here, not installed: it has Debian's directories.
look_at_rpm () {
    local nbdkit
    nbdkit=$(in_root "$builder" pkg-config --modversion nbdkit)
    rpm -qp --requires "build/$suite"/*.rpm | grep -qxF "nbdkit-server = $nbdkit" ||
        fail "the rpm does not want nbdkit-server $nbdkit"
    rpm -qp --list "build/$suite"/*.rpm | grep -q '/nbdkit/filters/nbdkit-digest-filter.so$' ||
        fail "the rpm does not have the filter"
}

for suite in $SUITES; do
    mkdir -p "$ROOTS/$suite" "$ROOTS/archives/$suite"
    base=$ROOTS/$suite/base builder=$ROOTS/$suite/builder clean=$ROOTS/$suite/clean
    log=$ROOTS/$suite/log
    make_base
    make_builder
    build
    use
    if command -v rpm >/dev/null; then
        look_at_rpm
    else
        say "$suite: no rpm is here, so the .rpm is not looked at"
    fi
    if command -v lintian >/dev/null; then
        lintian --allow-root --fail-on error,warning "build/$suite"/*.deb
    else
        say "$suite: no lintian is here, so the .deb is not checked by it"
    fi
    say "$suite: ok, $(ls "build/$suite"/*.deb)"
done
