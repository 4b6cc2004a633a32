// SPDX-License-Identifier: BSD-3-Clause

package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// orders are scripts that read all of an image, each in its own way.
var orders = []struct {
	name   string
	script string
	small  bool // too slow for larger images
}{
	{"in order", "for at in range(0, size, 65536): read(h, at, 65536)", false},
	{"in unaligned pieces", "for at in range(0, size, 77777): read(h, at, 77777)", false},
	{"backwards", "for at in reversed(range(0, size, 50000)): read(h, at, 50000)", false},
	{"shuffled", `
places = list(range(0, size, 4321))
random.shuffle(places)
for at in places: read(h, at, 4321)`, false},
	{"overlapping", `
places = list(range(0, size, 1000))
random.shuffle(places)
for at in places: read(h, max(0, at - 700), 2900)`, false},
	{"twice", "for at in list(range(0, size, 65536)) * 2: read(h, at, 65536)", false},
	{"byte by byte", "for at in range(size): read(h, at, 1)", true},
	{"byte by byte, backwards", "for at in reversed(range(size)): read(h, at, 1)", true},
	{"over four connections", `
def reader(i):
    c = nbd.NBD()
    c.connect_uri(h.get_uri())
    places = list(range(0, size, 3000))
    random.Random(i).shuffle(places)
    for at in places: read(c, at, 3000 + i)
    c.shutdown()
readers = [threading.Thread(target=reader, args=(i,)) for i in range(4)]
for r in readers: r.start()
for r in readers: r.join()`, false},
	{"with many requests in flight", `
places = list(range(0, size, 1500))
random.shuffle(places)
for at in places:
    h.aio_pread(nbd.Buffer(min(1500, size - at)), at, lambda err: 1)
while h.aio_in_flight() > 0: h.poll(-1)`, false},
	{"not at all but for the first byte", "if size: read(h, 0, 1)", false},
}

const readPrelude = `
import random, threading
random.seed(1)
size = h.get_size()
def read(handle, at, count):
    handle.pread(min(count, size - at), at)
`

func TestDigestDoesNotDependOnHowAnImageIsRead(t *testing.T) {
	for _, size := range []int64{1, 511, 1024, 1025, 65537, 3*mib + 5} {
		image := randomImage(t, size)
		for _, o := range orders {
			if o.small && size > 70000 {
				continue
			}
			t.Run(fmt.Sprintf("%d bytes %s", size, o.name), func(t *testing.T) {
				t.Parallel()
				sidecar := filepath.Join(t.TempDir(), "disk.sum")
				// One byte may look like text.
				s := serve(t, "--filter="+filter, "file", image, "signature=any", "digest=sha256,blake3", "digest-file="+sidecar)
				nbdsh(t, s.uri(), readPrelude+o.script)
				s.stop()
				wantDigests(t, sidecar, image, "sha256", "blake3")
			})
		}
	}
}

func TestEmptyImageHasADigest(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	image, sidecar := filepath.Join(dir, "empty.img"), filepath.Join(dir, "disk.sum")
	write(t, image, "")
	s := serve(t, "--filter="+filter, "file", image, "signature=any", "digest=sha256,blake3", "digest-file="+sidecar)
	copyAll(t, s.uri())
	s.stop()
	wantDigests(t, sidecar, image, "sha256", "blake3")
}

func TestHolesAreHashedAsZeros(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	image, sidecar := filepath.Join(dir, "sparse.img"), filepath.Join(dir, "disk.sum")
	write(t, image, "")
	for _, at := range []int64{0, 5*mib + 3, 17 * mib, 100 * mib} {
		f, err := os.OpenFile(image, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("data"), at); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	if err := os.Truncate(image, 200*mib+1); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, "log")
	s := serve(t, "--filter="+filter, "--filter=log", "file", image, "logfile="+log,
		"digest=sha256,blake3", "digest-file="+sidecar)
	run(t, "", "nbdcopy", s.uri(), filepath.Join(dir, "copy.img")) // it skips the holes
	s.stop()
	wantDigests(t, sidecar, image, "sha256", "blake3")
	if total, _ := bytesRead(t, log, 200*mib+1); total > 20*mib {
		t.Errorf("%d bytes were read of an image with a few bytes of data", total)
	}
}

func TestLargestImageIsIncompleteAndNothingBreaks(t *testing.T) {
	for _, layer := range []string{"memory", "null"} {
		t.Run(layer, func(t *testing.T) {
			t.Parallel()
			sidecar := filepath.Join(t.TempDir(), "disk.sum")
			s := serve(t, "--filter="+filter, layer, "9223372036854775807",
				"digest=sha256,blake3", "digest-unread=skip", "digest-file="+sidecar)
			nbdsh(t, s.uri(), `
size = h.get_size()
for at in [0, 1 << 20, 1 << 40, (1 << 62) + 1, size - 512, size - 1, size - 100000]:
    h.pread(min(65536, size - at), at)
    if h.can_zero():
        h.zero(min(1 << 30, size - at), at)
    h.pread(min(1000, size - at), at)
`)
			s.stop()
			wantComments(t, sidecar, 2)
			if strings.Contains(contents(t, sidecar), "9223372036854775807 of") {
				t.Errorf("what nobody has read is known:\n%s", contents(t, sidecar))
			}
		})
	}
}

// To read what is unknown of such an image takes for ever; a second signal
// says that nobody wants to wait.
func TestSecondSignalEndsTheEndPass(t *testing.T) {
	for _, digest := range []string{"sha256", "blake3"} {
		t.Run(digest, func(t *testing.T) {
			t.Parallel()
			sidecar := filepath.Join(t.TempDir(), "disk.sum")
			s := serve(t, "--filter="+filter, "--filter=log", "memory", "9223372036854775807",
				"logfile="+sidecar+".log", "digest="+digest, "digest-unread=late", "digest-file="+sidecar)
			nbdsh(t, s.uri(), "h.pread(3 << 20, 0)")
			s.cmd.Process.Signal(syscall.SIGTERM)
			waitFor(t, "the end pass", func() bool {
				return strings.Contains(contents(t, sidecar+".log"), "Extents")
			})
			s.stop()
			wantComments(t, sidecar, 1)
		})
	}
}

func TestFailedReadIsReadAgainAtTheEnd(t *testing.T) {
	image := randomImage(t, 2*mib)
	for _, unread := range []string{"early", "late"} {
		t.Run(unread, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			sidecar, trigger := filepath.Join(dir, "disk.sum"), filepath.Join(dir, "trigger")
			s := serve(t, "--filter="+filter, "--filter=error", "file", image,
				"error-pread=EIO", "error-pread-rate=100%", "error-pread-file="+trigger,
				"digest=sha256,blake3", "digest-unread="+unread, "digest-file="+sidecar,
				"signature=any", "signature-unsafe=allow") // nobody looks at the start before
			nbdsh(t, s.uri(), "h.pread(700000, 0)")
			write(t, trigger, "")
			got := nbdsh(t, s.uri(), `
import errno
try:
    h.pread(100000, 700000)
except nbd.Error as e:
    print(errno.errorcode[e.errnum])
`)
			if got != "EIO\n" {
				t.Errorf("the client got %q", got)
			}
			if err := os.Remove(trigger); err != nil {
				t.Fatal(err)
			}
			nbdsh(t, s.uri(), "h.pread(1000000, 900000)")
			s.stop()
			wantDigests(t, sidecar, image, "sha256", "blake3")
		})
	}
}

func TestImageThatCannotBeReadHasNoDigest(t *testing.T) {
	image := randomImage(t, 2*mib)
	for _, unread := range []string{"early", "late", "skip"} {
		t.Run(unread, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			sidecar, trigger := filepath.Join(dir, "disk.sum"), filepath.Join(dir, "trigger")
			s := serve(t, "--filter="+filter, "--filter=error", "file", image,
				"error-pread=EIO", "error-pread-rate=100%", "error-pread-file="+trigger,
				"digest=sha256,blake3", "digest-unread="+unread, "digest-file="+sidecar)
			nbdsh(t, s.uri(), "h.pread(1500000, 0)")
			write(t, trigger, "")
			log := s.stop()
			wantComments(t, sidecar, 2)
			if said := strings.Contains(log, "error: digest: export \"\" cannot be completed"); said != (unread != "skip") {
				t.Errorf("the log has\n%s", log)
			}
		})
	}
}

func TestImageThatNobodyReadsHasNoDigest(t *testing.T) {
	t.Parallel()
	image := randomImage(t, 1*mib)
	sidecar := filepath.Join(t.TempDir(), "disk.sum")
	write(t, sidecar, stale)
	run(t, "", "nbdkit", "-U", "-", "--filter="+filter, "file", image, "digest=sha256,blake3",
		"digest-file="+sidecar, "--run", `nbdinfo --no-content "$uri"`)
	if got, err := os.ReadFile(sidecar); err == nil && strings.Contains(string(got), "=") {
		t.Errorf("the sidecar has\n%s", got)
	}
}

// Threads of Go have small stacks. A signal that one of them takes must not be
// handled there.
func TestSignalsOfEveryThread(t *testing.T) {
	for _, digest := range []string{"sha256,md5,sha1,blake3", "merkle/sha512/64k,blake3"} {
		for range 4 {
			sidecar := filepath.Join(t.TempDir(), "disk.sum")
			s := serve(t, "-r", "--filter="+filter, "--filter=log", "pattern", "64G", "logfile="+sidecar+".log",
				"digest="+digest, "digest-unread=late", "digest-file="+sidecar)
			nbdsh(t, s.uri(), "h.pread(3 << 20, 0)")
			pid := s.cmd.Process.Pid
			s.cmd.Process.Signal(syscall.SIGTERM)
			waitFor(t, "the end pass", func() bool {
				return strings.Contains(contents(t, sidecar+".log"), "offset=0x2000000 ")
			})
			tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
			if err != nil {
				t.Fatal(err)
			}
			for _, task := range tasks {
				tid, _ := strconv.Atoi(task.Name())
				unix.Tgkill(pid, tid, syscall.SIGINT)
			}
			<-s.exited
			if status := s.cmd.ProcessState.ExitCode(); status != 0 {
				t.Fatalf("nbdkit: %v\n%s", s.cmd.ProcessState, s.stderr())
			}
			wantComments(t, sidecar, strings.Count(digest, ",")+1)
		}
	}
}
