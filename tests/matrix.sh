#!/bin/bash
# Builds and tests the filter with the nbdkit of every Debian that it is made
# for, each in a root of its own:
#
#   tests/matrix.sh [SUITE...]
#
# MIRROR is where packages come from, else where this machine's apt takes them
# from. KEYRING holds the key of the first suite, else debootstrap knows it;
# each root has the key of the next one. Roots are kept in build/matrix: remove
# one to have it made anew.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
roots=$PWD/build/matrix

fail () { echo "matrix: $*" >&2; exit 1; }

# make_root ROOT SUITE
make_root () {
    [ -e "$1/.complete" ] && return
    rm -rf "$1"
    debootstrap --variant=minbase --include=ca-certificates,make \
        ${KEYRING:+"--keyring=$KEYRING"} "$2" "$1" "$MIRROR" ||
        fail "debootstrap of $2 failed: if it is for the key, set KEYRING"
    touch "$1/.complete"
}

# furnish ROOT: what the tests need besides packages. The mounts are this
# process's own, and go when it ends.
furnish () {
    mkdir -p "$1/usr/local/go" "$1/go/mod"
    mount -t proc proc "$1/proc"
    mount --rbind /dev "$1/dev"
    mount --bind -o ro "$(go env GOROOT)" "$1/usr/local/go"
    mount --bind -o ro "$(go env GOMODCACHE)" "$1/go/mod"
    cp -L /etc/resolv.conf "$1/etc/resolv.conf"
    [ -e "$1/etc/hosts" ] || echo 127.0.0.1 localhost > "$1/etc/hosts"
    # Proxies and the like.
    apt-config dump | grep '^Acquire::' > "$1/etc/apt/apt.conf.d/90host" || true
    rm -rf "$1/src"
    mkdir "$1/src"
    tar --exclude=./build --exclude=./.git --exclude='./*.so' --exclude='./*.1' -cf - . | tar -C "$1/src" -xf -
}

# in_root ROOT COMMAND... The cache of builds is the root's own: Go does not
# notice that headers differ.
in_root () {
    env -i HOME=/root TMPDIR=/tmp LC_ALL=C.UTF-8 \
        PATH=/usr/local/go/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        GOMODCACHE=/go/mod GOPROXY=off GOFLAGS=-buildvcs=false GOTOOLCHAIN=local \
        ${PATIENCE:+"PATIENCE=$PATIENCE"} \
        ${http_proxy:+"http_proxy=$http_proxy"} chroot "$@"
}

if [ "${1:-}" = --one ]; then
    root=$roots/$2
    make_root "$root" "$2"
    furnish "$root"
    in_root "$root" make -C /src check-here
    exit
fi

[ "$(id -u)" = 0 ] || fail "only root can make roots: use sudo make check-matrix"
sh tests/deps.sh matrix
for dir in . tests/deploy; do
    (cd $dir && go mod download)
done
export MIRROR="${MIRROR:-$(apt-get indextargets --format "\$(REPO_URI)" \
    'Identifier: Packages' 'Origin: Debian' 'Label: Debian' | head -n 1)}"
[ "$MIRROR" ] || fail "apt has no source of Debian's packages here: set MIRROR"

mkdir -p "$roots"
# What Go finds below here is not the project's.
echo 'module build' > build/go.mod

[ $# -gt 0 ] || set -- bookworm trixie sid
outcomes=() status=0
for suite; do
    echo "== $suite"
    outcome=passed
    unshare --mount --propagation private tests/matrix.sh --one "$suite" ||
        outcome=FAILED status=1
    version=$(in_root "$roots/$suite" nbdkit --version || echo nbdkit is missing)
    outcomes+=("$suite: $version: $outcome")
    key=$roots/$suite/usr/share/keyrings/debian-archive-keyring.gpg
    [ ! -e "$key" ] || export KEYRING="$key"
done
printf '%s\n' '' "${outcomes[@]}"
exit $status
