#!/bin/sh
# Installs what building, testing and the demonstration need. When nothing is
# missing it does nothing, without root and without a network.
#
# Each thing is looked for by trying it, not by the name of its package: an
# nbdkit built from source is as good as the distribution's.
#
# With an argument, what the goal of that name needs besides: bench, matrix or
# arm64.

set -eu
PATH=/usr/bin:/usr/sbin:/bin:/sbin:$PATH

fail () { echo "deps: $*" >&2; exit 1; }

extra=${1:-}

# need DEBIAN-PACKAGE[|ANOTHER] FEDORA-PACKAGE COMMAND...
need () {
    debian_package=$1 fedora_package=$2
    shift 2
    "$@" >/dev/null 2>&1 </dev/null && return
    debian="$debian $debian_package"
    fedora="$fedora $fedora_package"
}

header () { echo "#include <$1>" | gcc -E - ; }
any_of () { for file; do test -e "$file" && return; done; return 1; }

look () {
    debian='' fedora=''

    # to build
    need gcc               gcc                command -v gcc
    need libc6-dev         glibc-devel        header stdlib.h
    need pkg-config        pkgconf-pkg-config command -v pkg-config
    need nbdkit            nbdkit             command -v nbdkit
    need nbdkit-plugin-dev nbdkit-devel       pkg-config nbdkit
    need perl              perl-podlators     command -v pod2man
    # Go fetches its modules over HTTPS.
    need ca-certificates   ca-certificates    any_of \
         /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt

    # to test
    need nbdkit            nbdkit-curl-plugin nbdkit --dump-plugin curl
    need nbdkit            nbdkit-xz-filter \
         nbdkit --filter=xz --dump-plugin null
    need nbdkit            nbdkit-stats-filter \
         nbdkit --filter=stats --dump-plugin null
    need libsimde-dev      simde-devel        header simde/x86/avx512.h
    need libnbd-bin        libnbd             command -v nbdcopy
    need python3           python3            command -v python3
    need python3-libnbd    python3-libnbd     python3 -c 'import nbd'
    # nbdinfo without it tells garbage about the content
    need file              file               command -v file
    need qemu-utils        qemu-img           command -v qemu-img
    need b3sum             b3sum              command -v b3sum
    need fsverity          fsverity-utils     command -v fsverity
    need cryptsetup-bin    veritysetup        command -v veritysetup
    need gnutls-bin        gnutls-utils       command -v certtool
    need e2fsprogs         e2fsprogs          command -v mke2fs
    need fdisk             util-linux         command -v sfdisk
    need xz-utils          xz                 command -v xz
    need curl              curl               command -v curl
    need gpg               gnupg2             command -v gpg
    need gpg-agent         gnupg2             command -v gpg-agent
    need jq                jq                 command -v jq
    # to make images of all kinds
    need util-linux        util-linux         command -v mkswap
    need gdisk             gdisk              command -v sgdisk
    need xfsprogs          xfsprogs           command -v mkfs.xfs
    need btrfs-progs       btrfs-progs        command -v mkfs.btrfs
    need dosfstools        dosfstools         command -v mkfs.vfat
    need exfatprogs        exfatprogs         command -v mkfs.exfat
    need ntfs-3g           ntfsprogs          command -v mkntfs
    need squashfs-tools    squashfs-tools     command -v mksquashfs
    need erofs-utils       erofs-utils        command -v mkfs.erofs
    need f2fs-tools        f2fs-tools         command -v mkfs.f2fs
    need udftools          udftools           command -v mkudffs
    need genisoimage       genisoimage        command -v genisoimage
    need xorriso           xorriso            command -v xorriso
    need cryptsetup-bin    cryptsetup         command -v cryptsetup
    need gzip              gzip               command -v gzip
    need bzip2             bzip2              command -v bzip2
    need zstd              zstd               command -v zstd
    need lz4               lz4                command -v lz4
    need lzip              lzip               command -v lzip
    need tar               tar                command -v tar
    need cpio              cpio               command -v cpio
    need zip               zip                command -v zip
    need 'p7zip-full|7zip' /usr/bin/7z        command -v 7z
    need nginx-light       nginx              command -v nginx
    need openssl           openssl            command -v openssl
    need systemd           systemd            command -v systemd-socket-activate
    need perl              perl-Pod-Checker   command -v podchecker
    need shellcheck        ShellCheck         command -v shellcheck
    need fio               fio                command -v fio
    need fuse3             fuse3              command -v fusermount3

    case $extra in
    '') ;;
    bench)
        need gnuplot-nox   gnuplot            command -v gnuplot ;;
    matrix)
        need debootstrap   debootstrap        command -v debootstrap ;;
    arm64)
        need gcc-aarch64-linux-gnu gcc-aarch64-linux-gnu \
             command -v aarch64-linux-gnu-gcc
        need libc6-dev-arm64-cross glibc-devel any_of \
             /usr/aarch64-linux-gnu/include/stdlib.h
        need qemu-user-static qemu-user-static command -v qemu-aarch64-static ;;
    *)
        fail "nothing is known of $extra: use bench, matrix or arm64" ;;
    esac
}

# known PACKAGE[|ANOTHER]...: of each, the first that this Debian has.
known () {
    for package; do
        first=${package%%|*}
        if [ "$first" != "$package" ] &&
           [ -z "$(apt-cache madison "$first" 2>/dev/null)" ]; then
            first=${package#*|}
        fi
        echo "$first"
    done
}

install_debian () {
    # nginx is wanted as a program, not as this machine's web server.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        trap 'rm -f $policy' EXIT
        printf '#!/bin/sh\nexit 101\n' > $policy
        chmod 755 $policy
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update </dev/null ||
        fail "apt-get update failed: is there a network?"
    # shellcheck disable=SC2046,SC2086
    apt-get install -y --no-install-recommends $(known $debian) </dev/null ||
        fail "could not install:$debian"
}

install_fedora () {
    # shellcheck disable=SC2086
    dnf install -y $fedora </dev/null || fail "could not install:$fedora"
}

look
[ "$debian" ] || exit 0

if command -v apt-get >/dev/null; then
    install=install_debian missing=$debian
elif command -v dnf >/dev/null; then
    install=install_fedora missing=$fedora
else
    fail "neither apt-get nor dnf is here; Debian's names of what is missing are:$debian"
fi

if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null ||
        fail "as root or with sudo, install:$missing"
    # shellcheck disable=SC2086
    sudo sh "$0" $extra || fail "could not install with sudo:$missing"
    exit 0
fi

echo "deps: installing:$missing"
$install
look
[ ! "$debian" ] || fail "still missing after the installation:$debian"
