// SPDX-License-Identifier: BSD-3-Clause

package tests

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Queries that wait: .digest-final.

// Plugins without a default export, or with one of another name.
func TestFinalOfTheDefaultExport(t *testing.T) {
	image := randomImage(t, mib+1)
	for range 2 {
		s := serveUnseen(t, "--filter="+filter, "file", "dir="+filepath.Dir(image))
		for _, query := range []string{".digest-final", ".digest-final/"} {
			if d := ask(t, s, query); d.Images[0].State != "incomplete" || d.Images[0].Error == "" {
				t.Errorf("%s: without a default export, the answer is %+v", query, d.Images[0])
			}
		}
		wantState(t, ask(t, s, ".digest-final/disk.img"), "disk.img complete blake3:"+sumOf(t, "blake3", image))
		s.stop()
	}
	for _, layer := range [][]string{
		{"file", image},
		{"--filter=log", "file", image, "logfile=/dev/null"},
		{"--filter=exportname", "file", image, "default-export=disk"},
		{"--filter=noparallel", "file", image},
	} {
		s := serveUnseen(t, append([]string{"--filter=" + filter}, layer...)...)
		for _, query := range []string{".digest-final/", ".digest-final"} {
			if got := ask(t, s, query).state(); !strings.Contains(got, " complete blake3:"+sumOf(t, "blake3", image)) {
				t.Errorf("%q, %s: the answer is %s", layer, query, got)
			}
		}
		s.stop()
	}
}

// An image that no client is let in to has no digest that could be taken for a good one's,
// whoever asks first. When there is another one in its place, that has.
func TestFinalOfARefusedImage(t *testing.T) {
	dir := t.TempDir()
	image, page, sidecar := randomImage(t, 3*mib), filepath.Join(dir, "disk.img"), filepath.Join(dir, "sum")
	for _, clients := range []int{0, 1} {
		write(t, page, errorPage+strings.Repeat(" ", 3*mib-len(errorPage)))
		s := serve(t, "-r", "--filter="+filter, "file", page, "digest-file="+sidecar)
		for range clients {
			if o := execute(t, "", "nbdcopy", s.uri(), "null:"); o.status == 0 {
				t.Error("an error page was copied")
			}
		}
		for range 2 {
			d := ask(t, s, ".digest-final/")
			if wantState(t, d, " incomplete blake3:"); !strings.Contains(d.Images[0].Error, "html") {
				t.Errorf("the answer does not say why there is no digest: %+v", d.Images[0])
			}
		}
		run(t, "", "cp", image, page)
		wantState(t, ask(t, s, ".digest-final/"), " complete blake3:"+sumOf(t, "blake3", image))
		s.stop()
		wantDigests(t, sidecar, page, "blake3")
	}
}

// Nor is one left behind, if only a query has come.
func TestQueryOfARefusedImageLeavesNoResult(t *testing.T) {
	dir := t.TempDir()
	page, sidecar := filepath.Join(dir, "disk.img"), filepath.Join(dir, "sum")
	write(t, page, errorPage)
	s := serve(t, "-r", "--filter="+filter, "file", page, "digest-file="+sidecar)
	wantState(t, ask(t, s, ".digest-final/"), " incomplete blake3:")
	s.stop()
	wantComments(t, sidecar, 1)
}

func TestFinalWithoutReading(t *testing.T) {
	image := randomImage(t, 4*mib)
	log := filepath.Join(t.TempDir(), "log")
	s := serveUnseen(t, "--filter="+filter, "--filter=log", "file", image, "logfile="+log, "digest-unread=skip")
	nbdsh(t, s.uri(), "h.pread(512, 0)")
	wantState(t, ask(t, s, ".digest-final"), " incomplete blake3:")
	if total, _ := bytesRead(t, log, 4*mib); total != 512 {
		t.Errorf("%d bytes are read", total)
	}
}

// With digest-unread=skip there is nothing to open the layer below for. The last word says
// not when there will be more.
func TestFinalWithoutReadingDoesNotOpen(t *testing.T) {
	image := randomImage(t, 4*mib)
	log := filepath.Join(t.TempDir(), "log")
	s := serveUnseen(t, "--filter="+filter, "--filter=log", "file", image, "logfile="+log, "digest-unread=skip")
	nbdsh(t, s.uri(), "h.pread(1 << 20, 0)")
	connects := strings.Count(contents(t, log), " Connect ")
	if d := ask(t, s, ".digest"); d.Images[0].Estimate == nil {
		t.Errorf("there is no estimate while the image is pending: %+v", d.Images[0])
	}
	if d := ask(t, s, ".digest-final"); d.Images[0].Estimate != nil {
		t.Errorf("the last word has an estimate of %d s", *d.Images[0].Estimate)
	}
	if now := strings.Count(contents(t, log), " Connect "); now != connects {
		t.Errorf("the layer below was opened %d times by a query that reads nothing", now-connects)
	}
}

// What is opened for a final answer is closed after it.
func TestFinalLeavesNothingOpen(t *testing.T) {
	image := randomImage(t, mib)
	log := filepath.Join(t.TempDir(), "log")
	s := serveUnseen(t, "--filter="+filter, "--filter=log", "file", "dir="+filepath.Dir(image), "logfile="+log)
	for range 3 {
		ask(t, s, ".digest-final/disk.img")
	}
	waitFor(t, "the layer below to be closed", func() bool {
		opened, closed := strings.Count(contents(t, log), " Connect "), strings.Count(contents(t, log), " Disconnect ")
		return opened > 0 && opened == closed
	})
}

// An image of a size of which there is no digest has none, whoever asks.
func TestFinalOfPartsOfBlocks(t *testing.T) {
	image := randomImage(t, 5000)
	s := serveUnseen(t, "--filter="+filter, "file", "dir="+filepath.Dir(image), "digest=dmverity")
	d := ask(t, s, ".digest-final/disk.img")
	if im := d.Images[0]; im.State != "incomplete" || !strings.Contains(im.Error, "whole blocks") {
		t.Errorf("the answer is %+v", im)
	}
}

// All of a small image is read at its door. Nobody has used it, until somebody asks for
// its digest: that is a result.
func TestFinalOfAnImageThatIsKnownAlready(t *testing.T) {
	image := randomImage(t, 64*kib)
	sidecar := filepath.Join(t.TempDir(), "sum")
	s := serve(t, "-r", "--filter="+filter, "file", image, "signature=any", "digest-file="+sidecar)
	run(t, "", "nbdinfo", "--size", s.uri())
	if exists(sidecar) {
		t.Fatal("an image of which nobody has read has a result")
	}
	wantState(t, ask(t, s, ".digest-final"), " complete blake3:"+sumOf(t, "blake3", image))
	if !exists(sidecar) {
		t.Error("an image whose digest somebody has asked for has no result")
	}
	s.stop()
	wantDigests(t, sidecar, image, "blake3")
}

func TestFinalBesideAWriter(t *testing.T) {
	image := randomImage(t, 4*mib)
	s := serveUnseen(t, "--filter="+filter, "file", image)
	got := nbdsh(t, s.uri(), `
import json
h.pwrite(b'x', 77)
q = nbd.NBD()
q.connect_uri("`+s.uriOf(".digest-final")+`")
print(json.loads(q.pread(q.get_size(), 0))["images"][0]["state"])`)
	if got != "changing\n" {
		t.Errorf("the state is %s", got)
	}
	// The writer has gone, perhaps a moment later.
	waitFor(t, "the digest", func() bool {
		return ask(t, s, ".digest-final").state() == " complete blake3:"+sumOf(t, "blake3", image)
	})
}

// Layers that take one request at a time, on one connection or on all.
func TestFinalWithLayersThatAreNotParallel(t *testing.T) {
	image := randomImage(t, 4*mib+1)
	for _, model := range []string{"connections", "all-requests", "requests"} {
		t.Run(model, func(t *testing.T) {
			t.Parallel()
			s := serveUnseen(t, "--filter="+filter, "--filter=noparallel", "file", image, "serialize="+model, "digest=sha256,blake3")
			var wg sync.WaitGroup
			for i := range 6 {
				wg.Go(func() {
					if i < 3 {
						run(t, "", "nbdcopy", "--connections=1", s.uri(), "null:")
					} else {
						wantState(t, ask(t, s, ".digest-final"),
							" complete sha256:"+sumOf(t, "sha256", image)+" blake3:"+sumOf(t, "blake3", image))
					}
				})
			}
			wg.Wait()
			s.stop()
		})
	}
}

// A signal ends a final query; what is read until then is not lost.
func TestSignalEndsAFinalQuery(t *testing.T) {
	image := randomImage(t, 64*mib)
	sidecar := filepath.Join(t.TempDir(), "disk.json")
	s := serveUnseen(t, "--filter="+filter, "--filter=rate", "file", image, "rate=40M", "digest-file="+sidecar)
	asking := background(t, "nbdcopy", s.uriOf(".digest-final"), "null:")
	waitFor(t, "the query to read", func() bool { return ask(t, s, ".digest").Images[0].Bytes["known"] > 0 })
	s.signal(interrupt)
	asking.Wait()
	if d := parse(t, contents(t, sidecar)); d.Images[0].State != "incomplete" || d.Images[0].Bytes["known"] == 0 {
		t.Errorf("in the end, the sidecar has %+v", d.Images[0])
	}
}

// Two that ask at once read the image once, and one of them may go away.
func TestTwoFinalQueriesAtOnce(t *testing.T) {
	image := randomImage(t, 8*mib)
	log := filepath.Join(t.TempDir(), "log")
	s := serveUnseen(t, "--filter="+filter, "--filter=log", "--filter=delay", "file", image, "logfile="+log, "rdelay=100ms")
	first := background(t, "nbdcopy", s.uriOf(".digest-final"), "null:")
	waitFor(t, "the first to read", func() bool { return strings.Contains(contents(t, log), "...Read") })
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { wantState(t, ask(t, s, ".digest-final"), " complete blake3:"+sumOf(t, "blake3", image)) })
	}
	first.Process.Kill()
	wg.Wait()
	if total, again := bytesRead(t, log, 8*mib); total != 8*mib || again != 0 {
		t.Errorf("%d bytes are read, %d of them again", total, again)
	}
}

// The source grows while its digest is completed: nobody waits for what was there.
func TestFinalOfAnImageThatGrows(t *testing.T) {
	image := randomImage(t, 24*mib)
	log := filepath.Join(t.TempDir(), "log")
	s := serveUnseen(t, "-r", "--filter="+filter, "--filter=log", "--filter=delay", "file", image,
		"logfile="+log, "rdelay=500ms", "digest=sha256")
	first := background(t, "nbdcopy", s.uriOf(".digest-final"), "null:")
	waitFor(t, "the first to read", func() bool { return strings.Contains(contents(t, log), "...Read") })
	if err := os.Truncate(image, 25*mib); err != nil {
		t.Fatal(err)
	}
	nbdsh(t, s.uri(), "assert h.get_size() == 25 << 20")
	wantState(t, ask(t, s, ".digest-final"), " complete sha256:"+sumOf(t, "sha256", image))
	if err := first.Wait(); err != nil {
		t.Errorf("the first one fails: %v", err)
	}
	if log := s.stop(); !strings.Contains(log, "its size has changed") {
		t.Errorf("nbdkit says\n%s", log)
	}
}
