// SPDX-License-Identifier: BSD-3-Clause

package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// What a copy is written over is not the image that is expected.

// oldImages makes images to be written over: one full, one blank, one that has data
// at its start only.
func oldImages(t *testing.T, size int64) map[string]string {
	t.Helper()
	images := map[string]string{
		"full":   randomImage(t, size+1),
		"blank":  randomImage(t, 0),
		"sparse": randomImage(t, size/2),
	}
	for _, image := range images {
		if err := os.Truncate(image, size); err != nil {
			t.Fatal(err)
		}
	}
	return images
}

// askingWriter asks for extents, and flushes, before it writes.
const askingWriter = `
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.connect_uri(%q)
h.flush()
size = h.get_size()
try: h.block_status(size, 0, lambda *a: 0)
except nbd.Error: pass
data = open(%q, "rb").read()
for at in range(0, size, 1 << 16): h.pwrite(data[at:at + (1 << 16)], at)
h.flush()
h.shutdown()`

func TestCopyOverAnotherImage(t *testing.T) {
	for _, size := range []int64{512 * kib, mib + 1024, 3 * mib} {
		source := randomImage(t, size)
		sum := sumOf(t, "sha256", source)
		for _, client := range []string{"qemu-img", "qemu-img -W", "nbdcopy", "asks first", "comes twice"} {
			for old, target := range oldImages(t, size) {
				t.Run(fmt.Sprint(size, " ", client, " ", old), func(t *testing.T) {
					s := serve(t, "--filter="+filter, "file", target, "digest-expect=sha256:"+sum, "digest-file=/dev/null")
					switch client {
					case "qemu-img":
						run(t, "", "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, s.uri())
					case "qemu-img -W":
						run(t, "", "qemu-img", "convert", "-n", "-W", "-f", "raw", "-O", "raw", source, s.uri())
					case "comes twice":
						run(t, "", "nbdinfo", "--size", s.uri())
						fallthrough
					case "nbdcopy":
						run(t, "", "nbdcopy", "--flush", source, s.uri())
					case "asks first":
						offline(t, fmt.Sprintf(askingWriter, s.uri(), source))
					}
					s.stop()
					if !same(t, source, target) {
						t.Error("the copy is not equal to its source")
					}
				})
			}
		}
	}
}

// makers copy to a target that they, or others before them, have written to on another
// connection.
var makers = map[string]string{
	"qemu-img makes its target": `qemu-img convert -f raw -O raw "$0" "$1"`,
	"one after another":         `qemu-io -f raw -c "write -s $0 0 64k" "$1" && nbdcopy --flush "$0" "$1"`,
	"asked in the middle": `/usr/bin/python3 -m nbd -u "$1" -c 'h.pwrite(bytes(1 << 19), 0)' -c '
q = nbd.NBD()
q.connect_uri("'"$(echo "$1" | sed 's,///[^?]*,///.digest-final,')"'")
assert b"changing" in q.pread(q.get_size(), 0)'; nbdcopy --flush "$0" "$1"`,
	"one wipes before": `qemu-io -f raw -c "write -z 0 512k" "$1"; nbdcopy --flush "$0" "$1"`,
}

func TestCopyByTwoClients(t *testing.T) {
	for algorithm, size := range map[string]int64{"sha256": 512 * kib, "blake3": 3 * mib} {
		source := randomImage(t, size)
		for name, command := range makers {
			for _, named := range []bool{false, true} {
				for old, target := range oldImages(t, size) {
					t.Run(fmt.Sprint(algorithm, " ", name, " ", old, " ", named), func(t *testing.T) {
						t.Parallel()
						copyInSteps(t, algorithm, source, target, named, command)
					})
				}
			}
		}
	}
}

func copyInSteps(t *testing.T, algorithm, source, target string, named bool, command string) {
	access, export := "file="+target, ""
	if named {
		access, export = "dir="+filepath.Dir(target), filepath.Base(target)
	}
	sum, sidecar := sumOf(t, algorithm, source), filepath.Join(t.TempDir(), "sum.json")
	s := serve(t, "--filter="+filter, "file", access, "digest-expect="+algorithm+":"+sum, "digest-file="+sidecar)
	run(t, "", "sh", "-euc", command, source, s.uriOf(export))
	s.signal(terminate)
	if status := s.cmd.ProcessState.ExitCode(); status != 0 {
		t.Errorf("nbdkit ends with status %d: %s", status, s.stderr())
	}
	if !same(t, source, target) {
		t.Error("the copy is not equal to its source")
	}
	wantState(t, parse(t, contents(t, sidecar)), export+" complete "+algorithm+":"+sum)
}

// flushingWriter flushes after each write, and goes from the end to the start.
const flushingWriter = `
data = open(%q, "rb").read()
for at in reversed(range(0, len(data), 1 << 16)):
    h.pwrite(data[at:at + (1 << 16)], at)
    h.flush()`

// qemu-img makes a qcow2 on one connection, and reads on the next what it has made, to
// go on with it: of a small disk, that is most of it.
func TestContainerIsMadeInASmallDisk(t *testing.T) {
	dir := t.TempDir()
	source := randomImage(t, 100*kib)
	run(t, dir, "truncate", "-s", "128k", source)
	for _, size := range []string{"512k", "640k", "1m"} {
		run(t, dir, "truncate", "-s", "0", "want", "got")
		run(t, dir, "truncate", "-s", size, "want", "got")
		convert := fmt.Sprintf(`qemu-img convert -f raw -O qcow2 %s "$uri"`, source)
		run(t, dir, "nbdkit", "-U", "-", "file", "want", "--run", convert)
		run(t, dir, "nbdkit", "-U", "-", "--filter="+filter, "file", "got",
			"digest-expect=sha256:"+sumOf(t, "sha256", dir+"/want"), "--run", convert)
		if !same(t, dir+"/want", dir+"/got") {
			t.Errorf("%s: the copy is not what it is without the filter", size)
		}
	}
}

// What the door has read of a small image is not what the copy is judged by.
func TestFlushInTheMiddleOfACopy(t *testing.T) {
	for _, size := range []int64{128 * kib, mib, mib + 512, 3 * mib} {
		source := randomImage(t, size)
		for _, right := range []bool{true, false} {
			for old, target := range oldImages(t, size) {
				t.Run(fmt.Sprint(size, " ", right, " ", old), func(t *testing.T) {
					t.Parallel()
					sum := sumOf(t, "blake3", source)
					if !right {
						sum = bend(sum)
					}
					s := serve(t, "--filter="+filter, "file", target, "digest-expect=blake3:"+sum, "digest-file=/dev/null")
					o := execute(t, "", "/usr/bin/python3", "-m", "nbd", "-u", s.uri(), "-c", fmt.Sprintf(flushingWriter, source))
					if (o.status == 0) != right {
						t.Errorf("the copy ends with status %d: %s", o.status, o.stderr)
					}
					if !same(t, source, target) {
						t.Error("not all was written before the copy failed")
					}
					s.signal(terminate)
					if status := s.cmd.ProcessState.ExitCode(); (status == 0) != right {
						t.Errorf("nbdkit ends with status %d: %s", status, s.stderr())
					}
				})
			}
		}
	}
}

// askingReader asks for extents after it has read, and reads no holes.
const askingReader = `
import nbd
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.connect_uri(%q)
h.pread(512, 0)
for at in range(0, h.get_size(), 1 << 16):
    length, zero = 1 << 16, []
    h.block_status(length, at, lambda c, o, e, err: zero.append(e[0] >= length and e[1] & 2))
    if not zero[0]: h.pread(length, at)`

// Who reads it, on a connection that could write, is told as ever.
func TestOldContentThatIsReadIsJudged(t *testing.T) {
	for _, size := range []int64{512 * kib, 3 * mib} {
		for _, client := range []string{"qemu-img", "nbdcopy", "beside another", "reads all", "asks last"} {
			for old, target := range oldImages(t, size) {
				t.Run(fmt.Sprint(size, " ", client, " ", old), func(t *testing.T) {
					s := serve(t, "--filter="+filter, "file", target, "digest-expect=sha256:"+bend(sumOf(t, "sha256", target)), "digest-file=/dev/null")
					leaves := func() {}
					args := []string{"nbdcopy", "--synchronous", s.uri(), "null:"}
					switch client {
					case "qemu-img":
						args = []string{"qemu-img", "convert", "-f", "raw", "-O", "raw", s.uri(), t.TempDir() + "/copy"}
					case "beside another":
						other := background(t, "/usr/bin/python3", "-m", "nbd", "-u", s.uri(), "-c", "import time; time.sleep(60)")
						leaves = func() { other.Process.Kill(); other.Wait() }
					case "reads all":
						args = []string{"/usr/bin/python3", "-m", "nbd", "-u", s.uri(), "-c",
							"for at in range(0, h.get_size(), 1 << 16): h.pread(1 << 16, at)"}
					case "asks last":
						args = []string{"/usr/bin/python3", "-c", fmt.Sprintf(askingReader, s.uri())}
					}
					if o := execute(t, "", args...); o.status == 0 {
						t.Error("the copy succeeds")
					}
					leaves()
					s.signal(terminate)
					if status := s.cmd.ProcessState.ExitCode(); status != 1 {
						t.Errorf("nbdkit ends with status %d: %s", status, s.stderr())
					}
				})
			}
		}
	}
}

// Whoever asks for the final digest, or cannot write, is told of what is there.
func TestOldContentIsJudgedWhenSomebodyAsks(t *testing.T) {
	for _, asks := range []bool{false, true} {
		target := randomImage(t, 300*kib)
		access := []string{"-r"}
		if asks {
			access = nil
		}
		s := serve(t, append(access, "--filter="+filter, "file", target, "digest-expect=sha256:"+bend(sumOf(t, "sha256", target)))...)
		o := execute(t, "", "nbdinfo", "--size", s.uri())
		if (o.status == 0) != asks {
			t.Errorf("nbdinfo ends with status %d", o.status)
		}
		if d := ask(t, s, ".digest-final"); d.Images[0].State != "mismatch" {
			t.Errorf("the answer is %+v", d.Images[0])
		}
	}
}
