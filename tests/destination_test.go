// SPDX-License-Identifier: BSD-3-Clause

package tests

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The filter on the destination side: what qemu-img writes is what a guest
// would see, whatever the format of the source.

// sources makes images of one content in formats that qemu-img reads.
func sources(t *testing.T, raw string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	made := make(map[string]string)
	convert := func(name, format string, options ...string) {
		made[name] = filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
		run(t, "", append(append([]string{"qemu-img", "convert", "-f", "raw", "-O", format}, options...), raw, made[name])...)
	}
	convert("qcow2", "qcow2")
	convert("qcow2 zlib", "qcow2", "-c")
	convert("qcow2 zstd", "qcow2", "-c", "-o", "compression_type=zstd")
	convert("vmdk", "vmdk")
	convert("vdi", "vdi")
	convert("vhdx", "vhdx")
	made["qcow2 chain"] = filepath.Join(dir, "chain.qcow2")
	run(t, "", "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", made["qcow2"], made["qcow2 chain"])
	return made
}

func TestContentOfAnyFormat(t *testing.T) {
	raw := filesystemImage(t)
	size := fileSize(t, raw)
	for name, source := range sources(t, raw) {
		for _, order := range [][]string{nil, {"-W"}} {
			t.Run(name+strings.Join(order, ""), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				target, sidecar, log := filepath.Join(dir, "disk.img"), filepath.Join(dir, "disk.sum"), filepath.Join(dir, "log")
				write(t, target, "")
				if err := os.Truncate(target, size); err != nil {
					t.Fatal(err)
				}
				// With room for all of the image, a client that stalls for a
				// moment does not make sha256 drop what comes out of order.
				s := serve(t, "--filter="+filter, "--filter=log", "file", target, "logfile="+log, "digest-file="+sidecar,
					"digest=sha256,blake3,blkhash,fsverity,dmverity", "digest-memory=256M")
				format := strings.Fields(name)[0]
				run(t, "", append(append([]string{"qemu-img", "convert", "-n", "-f", format, "-O", "raw"}, order...), source, s.uri())...)
				waitFor(t, "the result", func() bool { return exists(sidecar) })
				wantDigests(t, sidecar, raw, "sha256", "blake3", "blkhash/sha256/64k", "fsverity/sha256/4k", "dmverity/sha256/4k")
				s.stop()
				for _, r := range requests(t, log) {
					// but for the look at the target's start and end
					if r.action == "Read" && r.offset > 0 && r.count > 4096 {
						t.Fatalf("%d bytes were read back at %d", r.count, r.offset)
					}
				}
			})
		}
	}
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// One pass tells the digest of the file that was published, and that of the
// disk in it.
func TestSourceAndContentInOnePass(t *testing.T) {
	raw := filesystemImage(t)
	dir := t.TempDir()
	qcow2, target := filepath.Join(dir, "disk.qcow2"), filepath.Join(dir, "copy.img")
	run(t, "", "qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", raw, qcow2)
	write(t, target, "")
	if err := os.Truncate(target, fileSize(t, raw)); err != nil {
		t.Fatal(err)
	}
	from := serve(t, "-r", "--filter="+filter, "file", qcow2, "digest=sha256", "digest-file="+dir+"/source.sum")
	to := serve(t, "--filter="+filter, "file", target, "digest=blkhash", "digest-file="+dir+"/content.sum")
	run(t, "", "qemu-img", "convert", "-n", "-W", "-f", "qcow2", "-O", "raw", from.uri(), to.uri())
	from.stop()
	to.stop()
	wantDigests(t, dir+"/source.sum", qcow2, "sha256")
	wantDigests(t, dir+"/content.sum", raw, "blkhash/sha256/64k")
	if !same(t, raw, target) {
		t.Error("the copy is not equal to its source")
	}
}
