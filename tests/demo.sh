#!/bin/bash
# The filter's main job from end to end, told as a story: a disk image, made of
# this machine's own files, is published over HTTP as raw, qcow2 and xz; then
# qemu-img copies it through nbdkit, which computes the digests on the way.

set -euo pipefail

# /usr/sbin for mke2fs, sfdisk and nginx, which need no root here.
PATH=/usr/bin:/usr/sbin:/bin:/sbin:$PATH
filter=$(realpath "$(dirname "$0")/../nbdkit-digest-filter.so")
[ -e "$filter" ] || { echo "demo: $filter is missing: run 'make'" >&2; exit 1; }

dir=$(mktemp -d "${TMPDIR:-/tmp}/digest-demo.XXXXXX")
nginx=
finish () {
    status=$?
    [ ! "$nginx" ] || kill "$nginx" 2>/dev/null || :
    [ "$status" = 0 ] || { cat "$dir/error.log" 2>/dev/null || :
                           echo "demo: failed" >&2; }
    rm -rf "$dir"
}
trap finish EXIT
trap 'exit 1' INT TERM
cd "$dir"
ln -s "$filter" .

title () { echo; echo "== $*"; }
run () { echo "\$ $*"; eval "$*"; }

# About 250 MiB of files: whole directories, as long as they fit.
gather () {
    local left=256000 size from
    mkdir files
    while read -r size from; do
        [ "$size" -le "$left" ] || continue
        # Some are for root's eyes only, and not missed.
        cp -R --no-dereference --preserve=mode,timestamps "$from" files/ \
            2>/dev/null || :
        left=$((left - size))
    done < <(du -sk /usr/share/* /usr/lib/* /usr/lib/*-linux-gnu/* /usr/bin \
                2>/dev/null)
}

make_disk () {
    gather
    truncate -s 512M disk.img
    sfdisk --quiet disk.img <<< $'label: gpt\nstart=1MiB, size=510MiB, type=linux'
    truncate -s 510M root.img
    mke2fs -q -t ext4 -d files root.img
    dd if=root.img of=disk.img bs=1M seek=1 conv=sparse,notrunc status=none
    rm -rf files root.img
}

serve () {
    port=$(python3 -c 'import socket
s = socket.socket()
s.bind(("127.0.0.1", 0))
print(s.getsockname()[1])')
    # One process, so that it reads the files as whoever runs this script.
    cat > nginx.conf <<END
daemon off;
master_process off;
pid $dir/nginx.pid;
error_log $dir/error.log;
events { }
http {
    access_log $dir/access.log;
    client_body_temp_path $dir/nginx-body;
    proxy_temp_path $dir/nginx-proxy;
    fastcgi_temp_path $dir/nginx-fastcgi;
    uwsgi_temp_path $dir/nginx-uwsgi;
    scgi_temp_path $dir/nginx-scgi;
    sendfile on;
    server { listen 127.0.0.1:$port; root $dir; }
}
END
    nginx -e "$dir/error.log" -c "$dir/nginx.conf" &
    nginx=$!
    for _ in {1..100}; do
        if (: < "/dev/tcp/127.0.0.1/$port") 2>/dev/null; then return; fi
        sleep 0.1
    done
    echo "demo: nginx does not answer on port $port" >&2
    exit 1
}

# verify NAME: the sidecar NAME.sum against the tools' own reading of NAME.
verify () {
    run "cat $1.sum"
    run "grep SHA256 $1.sum | sha256sum --check"
    run "b3sum --no-names $1 | grep -F -f - $1.sum"
}

echo "Making a disk image of this machine's files: GPT, one ext4 partition ..."
make_disk
echo "... and what a publisher would make of it ..."
qemu-img convert -c -W -m 8 -f raw -O qcow2 disk.img disk.qcow2
xz -0 --threads=0 --block-size=16MiB --keep disk.img
serve
url=http://127.0.0.1:$port
echo "... which nginx serves on $url:"
for file in disk.img disk.qcow2 disk.img.xz; do
    printf '  %-12s %5d MiB\n' $file $(($(stat -c %s $file) >> 20))
done

title "A raw image: the digests that sha256sum and b3sum would give, in no extra pass"
run "nbdkit -r -U - --filter=./nbdkit-digest-filter.so curl url=$url/disk.img \\
    digest=sha256,blake3 digest-file=disk.img.sum digest-name=disk.img \\
    --run 'qemu-img convert -f raw -O raw \"\$uri\" copy.img'"
verify disk.img
run "cmp disk.img copy.img && rm copy.img"

title "A compressed qcow2, of which qemu-img reads only parts: the whole file's digests"
run "nbdkit -r -U - --filter=./nbdkit-digest-filter.so curl url=$url/disk.qcow2 \\
    digest=sha256,blake3 digest-file=disk.qcow2.sum digest-name=disk.qcow2 \\
    --run 'qemu-img convert -f qcow2 -O raw \"\$uri\" copy.img'"
verify disk.qcow2
run "qemu-img compare -f raw -F qcow2 copy.img disk.qcow2 && rm copy.img"

title "An .xz, with the filter behind nbdkit's xz filter: again the published file"
run "nbdkit -r -U - --filter=xz --filter=./nbdkit-digest-filter.so curl \\
    url=$url/disk.img.xz \\
    digest=sha256,blake3 digest-file=disk.img.xz.sum digest-name=disk.img.xz \\
    --run 'qemu-img convert -f raw -O raw \"\$uri\" copy.img'"
verify disk.img.xz
run "cmp disk.img copy.img && rm copy.img disk.img.sum"

title "The same .xz, with the filter in front: now the disk inside"
run "nbdkit -r -U - --filter=./nbdkit-digest-filter.so --filter=xz curl \\
    url=$url/disk.img.xz \\
    digest=sha256,blake3 digest-file=disk.img.sum digest-name=disk.img \\
    --run 'qemu-img convert -f raw -O raw \"\$uri\" copy.img'"
verify disk.img
run "cmp disk.img copy.img"

title "Every copy is equal to its source, and every digest is right."
