// SPDX-License-Identifier: BSD-3-Clause

package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestServerOutlivesAClientThatIsKilled(t *testing.T) {
	image := randomImage(t, 16*mib)
	for _, digests := range []string{"sha256", "blake3", "sha256,blake3"} {
		t.Run(digests, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			sidecar, log, copied := filepath.Join(dir, "disk.sum"), filepath.Join(dir, "log"), filepath.Join(dir, "copy.img")
			s := serve(t, "--filter="+filter, "--filter=log", "--filter=delay", "file", image,
				"logfile="+log, "rdelay=20ms", "digest="+digests, "digest-file="+sidecar)
			client := slowClient(t, s)
			waitFor(t, "the client to read", func() bool { return strings.Count(contents(t, log), "...Read") > 8 })
			client.Process.Kill()
			client.Wait()
			if exists(sidecar) {
				t.Error("there is a result")
			}
			run(t, "", "nbdcopy", s.uri(), copied)
			s.stop()
			if !same(t, copied, image) {
				t.Error("the copy is not the image")
			}
			wantDigests(t, sidecar, image, strings.Split(digests, ",")...)
		})
	}
}

// slowClient starts a copy with one request at a time on each connection: with
// more of them, nbdkit 1.32 itself may abort when the client is killed.
func slowClient(t *testing.T, s *server) *exec.Cmd {
	t.Helper()
	return background(t, "nbdcopy", "--requests=1", "--connections=2", s.uri(), "null:")
}

func TestKilledClientLeavesTheRestToTheEnd(t *testing.T) {
	t.Parallel()
	image := randomImage(t, 16*mib)
	dir := t.TempDir()
	sidecar, log := filepath.Join(dir, "disk.sum"), filepath.Join(dir, "log")
	// The delay is above: nbdkit's filter fails when nbdkit is told to end.
	s := serve(t, "--filter=delay", "--filter="+filter, "--filter=log", "file", image,
		"logfile="+log, "rdelay=20ms", "digest=sha256,blake3", "digest-file="+sidecar)
	client := slowClient(t, s)
	waitFor(t, "the client to read", func() bool { return strings.Count(contents(t, log), "...Read") > 8 })
	client.Process.Kill()
	client.Wait()
	s.stop()
	wantDigests(t, sidecar, image, "sha256", "blake3")
}

// The digest is that of what a reader would get at the end.
func TestWritesChangeTheDigest(t *testing.T) {
	for _, c := range []struct{ name, script string }{
		{"a write", "h.pwrite(b'x' * 5000, 12345)"},
		{"a zero", "h.zero(70000, 12345)"},
		{"a trim", "h.trim(65536, 65536)"},
		{"a write of one byte at the end", "h.pwrite(b'x', h.get_size() - 1)"},
		{"a write with FUA", "h.pwrite(b'x' * 512, 0, nbd.CMD_FLAG_FUA)"},
		{"writes all over", "for i in range(200): h.pwrite(bytes([i]) * 777, i * 10007)"},
		{"a write over all", "for at in range(0, h.get_size(), 65536): h.pwrite(b'y' * min(65536, h.get_size() - at), at)"},
		{"a write that fails", `
h.set_strict_mode(0)
try:
    h.pwrite(b'x', h.get_size())
except nbd.Error:
    pass
h.pwrite(b'x', 1)`},
	} {
		for _, when := range []string{"before a copy", "after a copy", "and nobody reads"} {
			for _, digests := range []string{"sha256", "blake3", "sha256,blake3"} {
				t.Run(c.name+" "+when+" "+digests, func(t *testing.T) {
					t.Parallel()
					image := randomImage(t, 3*mib+77)
					before := sumOf(t, "sha256", image)
					sidecar := filepath.Join(t.TempDir(), "disk.sum")
					s := serve(t, "--filter="+filter, "file", image, "signature=any", "digest="+digests, "digest-file="+sidecar)
					if when == "after a copy" {
						copyAll(t, s.uri())
					}
					nbdsh(t, s.uri(), c.script)
					if when == "before a copy" {
						copyAll(t, s.uri())
					}
					s.stop()
					if sumOf(t, "sha256", image) == before {
						t.Fatal("the image has not changed")
					}
					wantDigests(t, sidecar, image, strings.Split(digests, ",")...)
				})
			}
		}
	}
}

func TestWritesToMemoryChangeTheDigest(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	sidecar, copied := filepath.Join(dir, "disk.sum"), filepath.Join(dir, "copy.img")
	s := serve(t, "--filter="+filter, "memory", "20M", "digest=sha256,blake3", "digest-file="+sidecar)
	nbdsh(t, s.uri(), `
for i in range(300):
    h.pwrite(bytes([i % 256]) * (i * 13 + 1), i * 50021)
    h.zero(i * 7 + 1, i * 40009)
    h.trim(4096, 4096 * (i * 17 % 5000))
`)
	run(t, "", "nbdcopy", "--allocated", s.uri(), copied)
	s.stop()
	wantDigests(t, sidecar, copied, "sha256", "blake3")
}

func TestWriterTakesAResultBack(t *testing.T) {
	for _, script := range []string{"h.pwrite(b'x', 5)", "h.zero(512, 512)", "h.trim(4096, 4096)"} {
		t.Run(script, func(t *testing.T) {
			t.Parallel()
			image := randomImage(t, 1*mib)
			dir := t.TempDir()
			sidecar := filepath.Join(dir, "disk.sum")
			s := serve(t, "--filter="+filter, "file", image, "digest=sha256,blake3", "digest-file="+sidecar)
			copyAll(t, s.uri())
			waitFor(t, "the result", func() bool { return exists(sidecar) })
			wantDigests(t, sidecar, image, "sha256", "blake3")
			got := nbdsh(t, s.uri(), `
import os
`+script+`
print(os.path.exists("`+sidecar+`"))
for i in range(2): h.pread(1 << 20, 0)
print(os.path.exists("`+sidecar+`"))
`)
			if got != "False\nFalse\n" {
				t.Errorf("while the writer is connected there is a result: %q", got)
			}
			copyAll(t, s.uri())
			waitFor(t, "the new result", func() bool { return exists(sidecar) })
			wantDigests(t, sidecar, image, "sha256", "blake3")
			s.stop()
			wantDigests(t, sidecar, image, "sha256", "blake3")
		})
	}
}

// Whatever readers and writers do to each other, the digest at the end is
// that of the image.
func TestReadersAndWritersAtOnce(t *testing.T) {
	for _, digests := range []string{"sha256", "blake3", "sha256,blake3"} {
		t.Run(digests, func(t *testing.T) {
			t.Parallel()
			image := randomImage(t, 4*mib)
			sidecar := filepath.Join(t.TempDir(), "disk.sum")
			s := serve(t, "--filter="+filter, "file", image, "digest="+digests, "digest-memory=1M", "digest-file="+sidecar)
			var clients []*exec.Cmd
			for i := range 2 {
				clients = append(clients, background(t, "/usr/bin/python3", "-m", "nbd", "-u", s.uri(), "-c",
					"import random\nrandom.seed("+string('0'+rune(i))+`)
for i in range(1000):
    at = random.randrange(h.get_size() - 70000)
    h.pwrite(random.randbytes(random.choice([1, 512, 4096, 65536])), at)
`))
			}
			for range 5 {
				copyAll(t, s.uri())
			}
			for _, c := range clients {
				if err := c.Wait(); err != nil {
					t.Error(err)
				}
			}
			s.stop()
			wantDigests(t, sidecar, image, strings.Split(digests, ",")...)
		})
	}
}

// A client that copies into the filter, as onto a destination.
func TestDestinationOfACopyHasItsDigest(t *testing.T) {
	source := randomImage(t, 4*mib)
	qcow2 := source + ".qcow2"
	run(t, "", "qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", source, qcow2)
	for _, c := range []struct {
		name string
		copy []string
	}{
		{"nbdcopy", []string{"nbdcopy", source}},
		{"qemu-img", []string{"qemu-img", "convert", "-n", "-f", "qcow2", "-O", "raw", qcow2}},
		{"qemu-img out of order", []string{"qemu-img", "convert", "-W", "-n", "-f", "qcow2", "-O", "raw", qcow2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			target, sidecar := filepath.Join(dir, "disk.img"), filepath.Join(dir, "disk.sum")
			write(t, target, "")
			if err := os.Truncate(target, 4*mib); err != nil {
				t.Fatal(err)
			}
			s := serve(t, "--filter="+filter, "file", target, "digest=sha256,blake3", "digest-file="+sidecar)
			run(t, "", append(c.copy, s.uri())...)
			s.stop()
			wantDigests(t, sidecar, source, "sha256", "blake3")
		})
	}
}
