// SPDX-License-Identifier: BSD-3-Clause

package tests

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// blockSums computes what no tool of the distribution does, from its
// definition: blkhash and merkle.
const blockSums = `
import hashlib, sys
family, name, size, path = sys.argv[1:]
size = int(size)
H = lambda *parts: hashlib.new(name, b"".join(parts)).digest()
data = open(path, "rb").read()
blocks = [data[i:i+size] for i in range(0, len(data), size)]
def mth(d):
    if len(d) == 1: return d[0]
    k = 1 << (len(d) - 1).bit_length() - 1
    return H(b"\1", mth(d[:k]), mth(d[k:]))
if family == "blkhash":
    print(H(*[H(b) for b in blocks], len(data).to_bytes(8, "little")).hex())
else:
    print((mth([H(b"\0", b) for b in blocks]) if blocks else H()).hex())
`

// treeSum returns the digest of a file by its reference tool.
func treeSum(t *testing.T, algorithm, salt, path string) string {
	t.Helper()
	part := strings.Split(algorithm, "/")
	size, err := strconv.Atoi(strings.TrimSuffix(part[2], "k"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasSuffix(part[2], "k") {
		size *= kib
	}
	bytes := strconv.Itoa(size)
	switch part[0] {
	case "fsverity":
		args := []string{"fsverity", "digest", "--compact", "--hash-alg=" + part[1], "--block-size=" + bytes}
		if salt != "" {
			args = append(args, "--salt="+salt)
		}
		return strings.TrimSpace(run(t, "", append(args, path)...))
	case "dmverity":
		if salt == "" {
			salt = "-"
		}
		out := run(t, "", "veritysetup", "format", "--no-superblock", "--hash="+part[1], "--salt="+salt,
			"--data-block-size="+bytes, "--hash-block-size="+bytes, path, filepath.Join(t.TempDir(), "tree"))
		_, root, _ := strings.Cut(out, "Root hash:")
		return strings.Fields(root)[0]
	}
	return strings.TrimSpace(run(t, "", "/usr/bin/python3", "-c", blockSums, part[0], part[1], bytes, path))
}

var treeDigests = []string{
	"blkhash/sha256/64k", "blkhash/md5/4k", "blkhash/sha1/16k", "blkhash/sha512/1024k",
	"merkle/sha256/64k", "merkle/sha384/4k", "merkle/sha512/1k", "merkle/sha224/256k",
	"fsverity/sha256/4k", "fsverity/sha256/1k", "fsverity/sha512/4k", "fsverity/sha512/64k",
	"dmverity/sha256/4k", "dmverity/sha512/4k", "dmverity/sha256/512", "dmverity/sha512/512k",
}

func TestEveryTreeEqualsItsTool(t *testing.T) {
	image := randomImage(t, 9*512*kib)
	// A hole, and some zeros that are not one.
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, 300*kib), mib+777); err != nil {
		t.Fatal(err)
	}
	for _, salt := range []string{"", "00112233445566778899aabbccddeeff"} {
		for _, r := range linearReaders {
			t.Run(r.name+" salt "+salt, func(t *testing.T) {
				t.Parallel()
				sidecar := filepath.Join(t.TempDir(), "disk.sum")
				args := []string{"--filter=" + filter, "file", image, "digest-file=" + sidecar, "digest=blake3,sha256"}
				want := line("blake3", "-", sumOf(t, "blake3", image)) + line("sha256", "-", sumOf(t, "sha256", image))
				for _, d := range treeDigests {
					args = append(args, "digest="+d)
					if d == "blkhash/sha512/1024k" {
						want += line("blkhash/sha512/1m", "-", treeSum(t, d, salt, image))
						continue
					}
					want += line(d, "-", treeSum(t, d, salt, image))
				}
				if salt != "" {
					args = append(args, "digest-salt="+salt)
				}
				s := serve(t, args...)
				r.read(t, s)
				s.stop()
				if got := contents(t, sidecar); got != want {
					t.Errorf("the sidecar has\n%swhere the tools say\n%s", got, want)
				}
			})
		}
	}
}

// What the layer below says is zero is not read by anybody.
func TestHolesAreNotRead(t *testing.T) {
	image := filepath.Join(t.TempDir(), "disk.img")
	write(t, image, "")
	const size = 64 * mib
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	data := contents(t, randomImage(t, mib))
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, at := range []int64{0, 10*mib + 4096, 40 * mib} {
		if _, err := f.WriteAt([]byte(data), at); err != nil {
			t.Fatal(err)
		}
	}
	for _, client := range []string{"nbdcopy", "qemu-img"} {
		t.Run(client, func(t *testing.T) {
			dir := t.TempDir()
			sidecar, log := filepath.Join(dir, "disk.sum"), filepath.Join(dir, "log")
			s := serve(t, "-r", "--filter="+filter, "--filter=log", "file", image, "logfile="+log, "digest-file="+sidecar,
				"digest=sha256,blake3,blkhash,merkle/sha256/64k,fsverity,dmverity")
			if client == "nbdcopy" {
				run(t, "", "nbdcopy", s.uri(), filepath.Join(dir, "copy.img"))
			} else {
				run(t, "", "qemu-img", "convert", "-f", "raw", "-O", "raw", s.uri(), filepath.Join(dir, "copy.img"))
			}
			s.stop()
			wantDigests(t, sidecar, image, "sha256", "blake3", "blkhash/sha256/64k", "merkle/sha256/64k",
				"fsverity/sha256/4k", "dmverity/sha256/4k")
			if total, _ := bytesRead(t, log, size); total > 5*mib+8*kib {
				t.Errorf("%d bytes were read, of 3 MiB that are data and 1 MiB for each look", total)
			}
		})
	}
}

func TestDmverityWantsWholeBlocks(t *testing.T) {
	image := randomImage(t, 5000)
	s := serve(t, "--filter="+filter, "file", image, "digest=dmverity")
	if o := execute(t, "", "nbdcopy", s.uri(), "null:"); o.status == 0 {
		t.Error("an image of 5000 bytes was copied")
	}
	if log := s.stop(); !strings.Contains(log, "digest: export \"\" is refused: dmverity/sha256/4k is for images of whole blocks of 4096 bytes, and this one has 5000 bytes") {
		t.Errorf("nbdkit says\n%s", log)
	}
}
