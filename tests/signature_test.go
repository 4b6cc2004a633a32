// SPDX-License-Identifier: BSD-3-Clause

package tests

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

const errorPage = "<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>no such image</body></html>\n"

// An error page is refused, in one line, and the server goes on.
func TestErrorPageIsRefused(t *testing.T) {
	image := contents(t, randomImage(t, 3*mib))
	var mended atomic.Bool
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := errorPage
		if mended.Load() {
			body = image
		}
		http.ServeContent(w, r, "disk.img", fixedTime, strings.NewReader(body))
	})}
	go web.Serve(listener)
	t.Cleanup(func() { web.Close() })

	dir := t.TempDir()
	sidecar, copied := filepath.Join(dir, "disk.sum"), filepath.Join(dir, "copy.img")
	s := serve(t, "-r", "--filter="+filter, "curl", "http://"+listener.Addr().String()+"/disk.img",
		"digest=sha256", "digest-file="+sidecar)
	for range 2 {
		if o := execute(t, "", "nbdcopy", s.uri(), copied); o.status == 0 {
			t.Error("an error page was copied")
		}
	}
	mended.Store(true)
	run(t, "", "nbdcopy", s.uri(), copied)
	log := s.stop()
	if contents(t, copied) != image {
		t.Error("the copy is not the image")
	}
	const want = `digest: export "" is refused: `
	if n := strings.Count(log, want); n != 2 || !strings.Contains(log, "html") || !strings.Contains(log, "signature=any") {
		t.Errorf("%d refusals in\n%s", n, log)
	}
	write(t, filepath.Join(dir, "disk.img"), image)
	wantDigests(t, sidecar, filepath.Join(dir, "disk.img"), "sha256")
}

func TestSignatureDecidesWhoIsServed(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	write(t, path("page.html"), errorPage)
	write(t, path("empty"), "")
	write(t, path("text.txt"), "just some words\n")
	write(t, path("random"), contents(t, randomImage(t, 100000)))
	write(t, path("blank"), strings.Repeat("\x00", 70000))
	run(t, dir, "qemu-img", "create", "-q", "-f", "qcow2", "plain.qcow2", "10M")
	run(t, dir, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "plain.qcow2", "-F", "qcow2", "backed.qcow2")
	run(t, dir, "mke2fs", "-q", "-t", "ext4", "disk.ext4", "8M")
	run(t, dir, "xz", "-k", "disk.ext4")

	for _, c := range []struct {
		image, params string
		refusal       string // empty: it is served
	}{
		{"page.html", "", "html"},
		{"page.html", "signature=any", ""},
		{"page.html", "signature=html", ""},
		{"text.txt", "", "text"},
		{"empty", "", "empty"},
		{"empty", "signature=any", ""},
		{"empty", "signature=known", "blank"},
		{"empty", "signature=qcow2", "blank"},
		{"empty", "signature=blank", ""},
		{"random", "", ""},
		{"random", "signature=known", "unknown"},
		{"blank", "", ""},
		{"blank", "signature=disk", "blank"},
		{"plain.qcow2", "signature=container", ""},
		{"plain.qcow2", "signature=qcow2,vmdk", ""},
		{"plain.qcow2", "signature=vmdk", "qcow2"},
		{"backed.qcow2", "", "backing file"},
		{"backed.qcow2", "signature=any", "backing file"},
		{"backed.qcow2", "signature=disk", "signature=any accepts it; and the image is not safe to open"},
		{"backed.qcow2", "signature-unsafe=allow", ""},
		{"disk.ext4", "signature=known", ""},
		{"disk.ext4", "signature=disk", ""},
		{"disk.ext4", "signature=partition-table", "ext"},
		{"disk.ext4.xz", "signature=compressed", ""},
	} {
		for _, access := range []string{"-r", ""} {
			t.Run(c.image+" "+c.params+" "+access, func(t *testing.T) {
				t.Parallel()
				args := append(strings.Fields(access), "--filter="+filter, "file", path(c.image), "digest-file="+filepath.Join(t.TempDir(), "sum"))
				s := serve(t, append(args, strings.Fields(c.params)...)...)
				o := execute(t, "", "nbdinfo", "--size", s.uri())
				log := s.stop()
				served := access == "" && c.image == "blank" // the destination of a copy
				switch {
				case c.refusal == "" || served:
					if o.status != 0 {
						t.Errorf("refused: %s", log)
					}
				case o.status == 0:
					t.Error("served")
				case strings.Count(log, "digest: export \"\" is refused") != 1 || !strings.Contains(log, c.refusal):
					t.Errorf("nbdkit says\n%s", log)
				}
			})
		}
	}
}

func TestKindIsInTheSidecar(t *testing.T) {
	dir := t.TempDir()
	run(t, dir, "mke2fs", "-q", "-t", "ext4", "disk.ext4", "8M")
	s := serve(t, "-r", "--filter="+filter, "file", dir+"/disk.ext4", "digest-file="+dir+"/sum.json")
	copyAll(t, s.uri())
	s.stop()
	var doc struct {
		Images []struct {
			Signature struct {
				Kind, Group string
				Kinds       []string
			}
		}
	}
	if err := json.Unmarshal([]byte(contents(t, dir+"/sum.json")), &doc); err != nil {
		t.Fatal(err)
	}
	if g := doc.Images[0].Signature; g.Kind != "ext" || g.Group != "filesystem" || len(g.Kinds) != 1 {
		t.Errorf("the signature is %+v", g)
	}
}

// What is odd about an image is told in the log, once.
func TestWarningIsInTheLog(t *testing.T) {
	image := filepath.Join(t.TempDir(), "disk.img")
	disk := make([]byte, 1*mib)
	copy(disk[446:], "\x00\x00\x02\x00\xee\xff\xff\xff\x01\x00\x00\x00\xff\x07\x00\x00") // a protective MBR, and no GPT
	copy(disk[510:], "\x55\xaa")
	write(t, image, string(disk))
	s := serve(t, "-r", "--filter="+filter, "file", image)
	for range 2 {
		run(t, "", "nbdinfo", "--size", s.uri())
	}
	if log := s.stop(); strings.Count(log, "warning: export \"\": there is a protective MBR, but no valid GPT") != 1 {
		t.Errorf("nbdkit says\n%s", log)
	}
}

// What is read to look at an image is not read again for its digest, nor for
// the client.
func TestLookAtAnImageIsNotASecondRead(t *testing.T) {
	const size = 5*mib + 77
	image := randomImage(t, size)
	dir := t.TempDir()
	s := serve(t, "-r", "--filter="+filter, "--filter=log", "file", image, "logfile="+dir+"/log",
		"digest=sha256,blake3", "digest-file="+dir+"/sum")
	nbdsh(t, s.uri(), readPrelude+"for at in range(0, size, 65536): read(h, at, 65536)")
	s.stop()
	wantDigests(t, dir+"/sum", image, "sha256", "blake3")
	// The end is looked at, too, and the filter may take the last 64 KiB.
	if total, again := bytesRead(t, dir+"/log", size); again > 68*kib || total > size+68*kib {
		t.Errorf("of %d bytes %d were read, %d of them again", size, total, again)
	}
}

// A source whose start changes between two clients has no digest.
func TestChangedSourceIsNoticed(t *testing.T) {
	image := randomImage(t, 3*mib)
	dir := t.TempDir()
	s := serve(t, "-v", "-r", "--filter="+filter, "file", image, "digest-file="+dir+"/sum")
	nbdsh(t, s.uri(), "h.pread(65536, 0)")
	// As long as it is there, the next client is answered from memory.
	s.waitForClose(t, "file")
	f, err := os.OpenFile(image, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("changed"), 5000)
	f.Close()
	copyAll(t, s.uri())
	if log := s.stop(); !strings.Contains(log, "has changed") {
		t.Errorf("nbdkit says\n%s", log)
	}
	wantComments(t, dir+"/sum", 1)
}
