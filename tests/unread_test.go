// SPDX-License-Identifier: BSD-3-Clause

package tests

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What a client reads twice is served twice, and what it does not read is
// read by the filter, once.

// filesystemImage makes an image as publishers have: data, text, and holes.
func filesystemImage(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	files, image := filepath.Join(dir, "files"), filepath.Join(dir, "disk.img")
	if err := os.Mkdir(files, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		data := contents(t, randomImage(t, 8*mib+int64(name[0])*1111))
		write(t, filepath.Join(files, name), data)
		write(t, filepath.Join(files, name+".txt"), strings.Repeat("a line of "+name+"\n", 60000))
	}
	write(t, image, "")
	if err := os.Truncate(image, 128*mib); err != nil {
		t.Fatal(err)
	}
	run(t, dir, "mke2fs", "-q", "-t", "ext4", "-d", files, image)
	return image
}

func TestClientThatSkipsBytes(t *testing.T) {
	image := filesystemImage(t)
	qcow2 := image + ".qcow2"
	run(t, "", "qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", image, qcow2)
	run(t, "", "xz", "-0", "--block-size=1MiB", "--keep", image)

	for _, c := range []struct {
		name   string
		above  []string // filters between the client and ours
		file   string
		client []string // what follows the address is the copy
	}{
		{"compressed qcow2 by qemu-img", nil, qcow2, []string{"qemu-img", "convert", "-f", "qcow2", "-O", "raw"}},
		{"compressed qcow2 by qemu-img in any order", nil, qcow2, []string{"qemu-img", "convert", "-W", "-m", "8", "-f", "qcow2", "-O", "raw"}},
		{"xz by qemu-img", []string{"--filter=xz"}, image + ".xz", []string{"qemu-img", "convert", "-f", "raw", "-O", "raw"}},
		{"xz by nbdcopy", []string{"--filter=xz"}, image + ".xz", []string{"nbdcopy"}},
	} {
		// What the client asks for when there is no filter.
		dir := t.TempDir()
		log := filepath.Join(dir, "log")
		plain := serve(t, append(append([]string{"-r"}, c.above...), "--filter=log", "file", c.file, "logfile="+log)...)
		run(t, "", append(c.client, plain.uri(), filepath.Join(dir, "copy.img"))...)
		plain.stop()
		size := int64(len(contents(t, c.file)))
		asked, askedAgain := bytesRead(t, log, size)
		skips := asked-askedAgain < size
		if !skips && c.file == qcow2 {
			t.Fatalf("%s: the client skips nothing", c.name)
		}

		for _, digests := range []string{"sha256", "blake3", "sha256,blake3"} {
			for _, unread := range []string{"early", "late", "skip"} {
				t.Run(c.name+" "+digests+" "+unread, func(t *testing.T) {
					t.Parallel()
					dir := t.TempDir()
					sidecar, log, copied := filepath.Join(dir, "disk.sum"), filepath.Join(dir, "log"), filepath.Join(dir, "copy.img")
					s := serve(t, append(append([]string{"-r"}, c.above...), "--filter="+filter, "--filter=log", "file", c.file,
						"logfile="+log, "digest="+digests, "digest-unread="+unread, "digest-file="+sidecar)...)
					run(t, "", append(c.client, s.uri(), copied)...)
					if unread == "early" {
						waitFor(t, "the result while the server is alive", func() bool { return exists(sidecar) })
					}
					s.stop()
					if !same(t, copied, image) {
						t.Error("the copy is not the image")
					}
					list := strings.Split(digests, ",")
					if unread == "skip" && skips {
						wantComments(t, sidecar, len(list))
						return
					}
					wantDigests(t, sidecar, c.file, list...)
					if unread == "late" && digests != "blake3" {
						return // what the window cannot keep until the end is read again
					}
					served, _ := bytesRead(t, log, size)
					if most := size*102/100 + askedAgain; served > most {
						t.Errorf("%d bytes were served of a file of %d, and the client asked for %d twice: %d is the most",
							served, size, askedAgain, most)
					}
				})
			}
		}
	}
}

// To look at an image must not download it.
func TestProbeDoesNotReadTheImage(t *testing.T) {
	image := randomImage(t, 32*mib)
	for _, c := range []struct {
		name  string
		probe func(t *testing.T, s *server)
	}{
		{"of the first and the last sector", func(t *testing.T, s *server) {
			nbdsh(t, s.uri(), "h.pread(512, 0)\nh.pread(512, h.get_size() - 512)\nh.pread(512, 0)")
		}},
		{"of the first MiB", func(t *testing.T, s *server) {
			nbdsh(t, s.uri(), "h.pread(1 << 20, 0)")
		}},
		{"of the last MiB", func(t *testing.T, s *server) {
			nbdsh(t, s.uri(), "h.pread(1 << 20, h.get_size() - (1 << 20))")
		}},
		{"by nbdinfo", func(t *testing.T, s *server) { run(t, "", "nbdinfo", s.uri()) }},
		{"by qemu-img info", func(t *testing.T, s *server) { run(t, "", "qemu-img", "info", s.uri()) }},
	} {
		for _, digests := range []string{"sha256", "sha256,blake3"} {
			t.Run(c.name+" "+digests, func(t *testing.T) {
				t.Parallel()
				var total [2]int64
				connections := 0
				dir := t.TempDir()
				for i, filters := range [][]string{nil, {"--filter=" + filter}} {
					log := filepath.Join(dir, "log")
					params := []string{"--filter=log", "file", image, "logfile=" + log}
					if filters != nil {
						params = append(params, "digest="+digests, "digest-unread=early", "digest-file="+dir+"/disk.sum")
					}
					s := serve(t, append(filters, params...)...)
					c.probe(t, s)
					s.stop()
					total[i], _ = bytesRead(t, log, 32*mib)
					connections = strings.Count(contents(t, log), " Connect ")
				}
				// The filter itself looks at the start and the end, once for each
				// connection: nbdinfo of libnbd 1.24 makes three.
				if total[1] > total[0]+int64(connections)*(mib+1536) {
					t.Errorf("%d bytes are read through the filter in %d connections, %d without it", total[1], connections, total[0])
				}
				if exists(filepath.Join(dir, "disk.sum")) {
					wantComments(t, filepath.Join(dir, "disk.sum"), len(strings.Split(digests, ",")))
				}
			})
		}
	}
}
