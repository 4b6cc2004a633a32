// SPDX-License-Identifier: BSD-3-Clause

package tests

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Programs that check what they read against what they wrote, as referees: they
// see to it that the filter passes everything through, and the digests at the
// end are of what they left.
func refereed(t *testing.T, size int64, referee func(t *testing.T, uri, dir string)) {
	t.Helper()
	dir := t.TempDir()
	target, sidecar := filepath.Join(dir, "disk.img"), filepath.Join(dir, "disk.sum")
	write(t, target, "")
	if err := os.Truncate(target, size); err != nil {
		t.Fatal(err)
	}
	digests := []string{"sha256", "blake3", "blkhash/sha256/64k", "merkle/sha256/4k", "fsverity/sha256/4k"}
	if size%4096 == 0 {
		digests = append(digests, "dmverity/sha256/4k")
	}
	s := serve(t, "--filter="+filter, "file", target, "digest="+strings.Join(digests, ","),
		"digest-memory=4M", "digest-file="+sidecar)
	referee(t, s.uri(), dir)
	said := s.stop()
	wantDigests(t, sidecar, target, digests...)
	if t.Failed() {
		t.Log(said)
	}
}

func TestPatternsOfQemuIo(t *testing.T) {
	const size = 24 * mib
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			refereed(t, size, func(t *testing.T, uri, dir string) {
				r := rand.New(rand.NewPCG(seed, 9))
				args := []string{"qemu-io", "-f", "raw"}
				for range 60 {
					at, n := r.Int64N(size/512-4096)*512, (1+r.Int64N(4096))*512
					pattern := 1 + r.IntN(255)
					switch r.IntN(4) {
					case 0:
						args = append(args, "-c", fmt.Sprintf("write -z %d %d", at, n), "-c", fmt.Sprintf("read -P 0 %d %d", at, n))
					case 1:
						// What discarded bytes read as is not promised.
						args = append(args, "-c", fmt.Sprintf("discard %d %d", at, n), "-c", fmt.Sprintf("write -P %d %d %d", pattern, at, n))
					case 2:
						args = append(args, "-c", fmt.Sprintf("aio_write -P %d %d %d", pattern, at, n), "-c", "aio_flush",
							"-c", fmt.Sprintf("read -P %d %d %d", pattern, at, n))
					default:
						args = append(args, "-c", fmt.Sprintf("write -f -P %d %d %d", pattern, at, n),
							"-c", fmt.Sprintf("read -P %d %d %d", pattern, at, n))
					}
				}
				// qemu-io tells of a pattern that is another one, and goes on.
				if out := run(t, "", append(args, "-c", "flush", uri)...); strings.Contains(out, "Pattern verification failed") {
					t.Error(out)
				}
			})
		})
	}
}

func TestVerificationOfFio(t *testing.T) {
	for _, mode := range []string{"randwrite", "write", "randrw"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			refereed(t, 32*mib, func(t *testing.T, uri, dir string) {
				run(t, dir, "fio", "--name=verified", "--ioengine=nbd", "--uri="+uri, "--rw="+mode, "--bsrange=512-256k",
					"--blockalign=512", "--iodepth=16", "--size=32M", "--verify=crc32c", "--verify_fatal=1", "--randseed=7", "--do_verify=1")
			})
		})
	}
}

// The script keeps its own idea of the image.
func TestRandomCommandsOfNbdsh(t *testing.T) {
	for seed := range 3 {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			refereed(t, 6*mib+12345, func(t *testing.T, uri, dir string) {
				nbdsh(t, uri, fmt.Sprintf(`
import random
random.seed(%d)
size = h.get_size()
image = bytearray(size)
for i in range(600):
    n = min(random.choice([1, 17, 512, 4096, 65536, 300000]), size)
    at = random.randrange(size - n + 1)
    what = random.randrange(6)
    if what == 0:
        image[at:at+n] = random.randbytes(n)
        h.pwrite(image[at:at+n], at, random.choice([0, nbd.CMD_FLAG_FUA]) if h.can_fua() else 0)
    elif what == 1:
        image[at:at+n] = bytes(n)
        h.zero(n, at, random.choice([0, nbd.CMD_FLAG_NO_HOLE]))
    elif what == 2 and h.can_trim():
        h.trim(n, at)
        image[at:at+n] = h.pread(n, at)
    elif what == 3:
        h.flush()
    elif what == 4 and h.can_cache():
        h.cache(n, at)
    assert h.pread(n, at) == image[at:at+n], (i, what, at, n)
assert h.pread(size, 0) == image
`, seed))
			})
		})
	}
}

// A filesystem that is made and filled through the filter is a sound one.
func TestFilesystemOverNbdfuse(t *testing.T) {
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("this machine has no FUSE")
	}
	refereed(t, 64*mib, func(t *testing.T, uri, dir string) {
		mount, files := filepath.Join(dir, "mount"), filepath.Join(dir, "files")
		for _, d := range []string{mount, files} {
			if err := os.Mkdir(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 40 {
			write(t, filepath.Join(files, fmt.Sprint(i)), strings.Repeat(fmt.Sprint(i), 1000*i))
		}
		fuse := background(t, "nbdfuse", mount, uri)
		ended := make(chan struct{})
		go func() {
			fuse.Wait()
			close(ended)
		}()
		disk := filepath.Join(mount, "nbd")
		waitFor(t, "nbdfuse", func() bool {
			select {
			case <-ended:
				t.Skip("this machine does not let nbdfuse mount anything")
			default:
			}
			info, err := os.Stat(disk)
			return err == nil && info.Size() == 64*mib
		})
		run(t, "", "mke2fs", "-q", "-F", "-t", "ext4", "-d", files, disk)
		run(t, "", "e2fsck", "-f", "-n", disk)
		run(t, "", "fusermount3", "-u", mount)
		<-ended
	})
}
