// SPDX-License-Identifier: BSD-3-Clause

package tests

import (
	"path/filepath"
	"strings"
	"testing"
)

// linearReaders read all of an image in orders that are hard on a digest that
// wants them in order.
var linearReaders = []struct {
	name string
	read func(t *testing.T, s *server)
}{
	{"nbdcopy", func(t *testing.T, s *server) { copyAll(t, s.uri()) }},
	{"nbdcopy over one connection", func(t *testing.T, s *server) {
		run(t, "", "nbdcopy", "--connections=1", s.uri(), "null:")
	}},
	{"nbdcopy in threads", func(t *testing.T, s *server) {
		run(t, "", "nbdcopy", "--connections=4", "--threads=4", "--requests=64", s.uri(), "null:")
	}},
	{"nbdcopy in large requests", func(t *testing.T, s *server) {
		run(t, "", "nbdcopy", "--connections=4", "--threads=4", "--request-size=4194304", s.uri(), "null:")
	}},
	{"nbdcopy one request at a time", func(t *testing.T, s *server) {
		run(t, "", "nbdcopy", "--synchronous", s.uri(), "null:")
	}},
	{"qemu-img in order", func(t *testing.T, s *server) {
		run(t, "", "qemu-img", "convert", "-f", "raw", "-O", "raw", s.uri(), filepath.Join(t.TempDir(), "copy.img"))
	}},
	{"qemu-img out of order", func(t *testing.T, s *server) {
		run(t, "", "qemu-img", "convert", "-W", "-m", "16", "-f", "raw", "-O", "raw", s.uri(), filepath.Join(t.TempDir(), "copy.img"))
	}},
	{"backwards", func(t *testing.T, s *server) {
		nbdsh(t, s.uri(), readPrelude+"for at in reversed(range(0, size, 200000)): read(h, at, 200000)")
	}},
	{"shuffled", func(t *testing.T, s *server) {
		nbdsh(t, s.uri(), readPrelude+`
places = list(range(0, size, 100001))
random.shuffle(places)
for at in places: read(h, at, 100001)`)
	}},
	{"second half first", func(t *testing.T, s *server) {
		nbdsh(t, s.uri(), readPrelude+`
places = range(0, size, 1 << 18)
for at in list(places[len(places) // 2:]) + list(places): read(h, at, 1 << 18)`)
	}},
	{"from two ends at once", func(t *testing.T, s *server) {
		nbdsh(t, s.uri(), readPrelude+`
def reader(places):
    c = nbd.NBD()
    c.connect_uri(h.get_uri())
    for at in places: read(c, at, 1 << 17)
places = range(0, size, 1 << 17)
readers = [threading.Thread(target=reader, args=(p,)) for p in (places, reversed(places))]
for r in readers: r.start()
for r in readers: r.join()`)
	}},
	{"the odd pieces first", func(t *testing.T, s *server) {
		nbdsh(t, s.uri(), readPrelude+`
for first in 70000, 0:
    for at in range(first, size, 140000): read(h, at, 70000)`)
	}},
}

func TestLinearDigestWithLittleMemory(t *testing.T) {
	image := randomImage(t, 24*mib+321)
	for _, r := range linearReaders {
		for _, params := range [][]string{
			{"digest=sha256", "digest-unread=early"},
			{"digest=sha1,blake3,md5", "digest-unread=late"},
			{"digest=blake3"},
		} {
			t.Run(r.name+" "+strings.Join(params, " "), func(t *testing.T) {
				t.Parallel()
				sidecar := filepath.Join(t.TempDir(), "disk.sum")
				s := serve(t, append([]string{"--filter=" + filter, "file", image,
					"digest-memory=1M", "digest-file=" + sidecar}, params...)...)
				r.read(t, s)
				s.stop()
				wantDigests(t, sidecar, image, strings.Split(strings.TrimPrefix(params[0], "digest="), ",")...)
			})
		}
	}
}

// What a client reads once is served once. With digest-unread=early that is
// so for clients that go from the start to the end, otherwise in any order.
func TestNothingIsReadTwice(t *testing.T) {
	const size = 24*mib + 321
	image := randomImage(t, size)
	for _, r := range linearReaders {
		if r.name == "second half first" || r.name == "from two ends at once" {
			continue // they read twice themselves
		}
		inOrder := strings.HasPrefix(r.name, "nbdcopy") || strings.HasPrefix(r.name, "qemu-img")
		for _, digests := range []string{"sha256", "sha256,blake3", "blake3"} {
			if !inOrder && digests != "blake3" {
				continue
			}
			t.Run(r.name+" "+digests, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				sidecar, log := filepath.Join(dir, "disk.sum"), filepath.Join(dir, "log")
				s := serve(t, "--filter="+filter, "--filter=log", "file", image, "logfile="+log,
					"digest="+digests, "digest-file="+sidecar)
				r.read(t, s)
				s.stop()
				wantDigests(t, sidecar, image, strings.Split(digests, ",")...)
				total, again := bytesRead(t, log, size)
				// qemu probes the format, and asks in whole sectors. And the
				// filter may read the last bit of an image when the request
				// for it has come, but its thread has not run: a 64th of the
				// image at most.
				bound := int64(64*kib + size/64)
				if again > bound || total > size+bound {
					t.Errorf("of %d bytes %d were read, %d of them again", size, total, again)
				}
			})
		}
	}
}
