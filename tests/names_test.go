// SPDX-License-Identifier: BSD-3-Clause

package tests

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"nbdkit-digest-filter/tests/nbd"
)

// Exports that are one disk: a plugin may serve it under any name, and in any size.

func readAll(t *testing.T, c *nbd.Client) {
	t.Helper()
	if _, err := c.Read(0, c.Size); err != nil {
		t.Fatal(err)
	}
}

func overwrite(t *testing.T, c *nbd.Client, offset int64) []byte {
	t.Helper()
	data := bytes.Repeat([]byte("new data"), 512)
	for _, call := range []*nbd.Call{
		c.Do(nbd.CmdWrite, offset, int64(len(data)), data),
		c.Do(nbd.CmdFlush, 0, 0, nil),
	} {
		if call.Err != nil {
			t.Fatal(call.Err)
		}
	}
	return data
}

func TestWriteThroughAnotherName(t *testing.T) {
	plain := []string{"--filter=" + filter, "file"}
	named := []string{"--filter=" + filter, "--filter=exportname", "file", "default-export=disk"}
	renamed := []string{"--filter=exportname", "--filter=" + filter, "file", "default-export=disk"}
	for _, c := range []struct {
		layers       []string
		reader, isIn string // the name that the reader asks for, and gets
		writer       string
	}{
		{plain, "", "", "disk"},
		{plain, "disk", "disk", ""},
		{named, "", "disk", "other"},
		{named, "other", "other", ""},
		{renamed, "", "disk", "other"},
		{renamed, "other", "other", ""},
	} {
		for _, digest := range []string{"sha256", "blake3"} {
			image := randomImage(t, 4*mib)
			s := serve(t, slices.Concat(c.layers, []string{image, "digest=" + digest})...)
			reader := dial(t, s, c.reader)
			readAll(t, reader)
			writer := dial(t, s, c.writer)
			data := overwrite(t, writer, 4096)
			writer.Close()
			if got, err := reader.Read(4096, int64(len(data))); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s: a reader of %q gets what was there before (%v)", digest, c.reader, err)
			}
			reader.Close()
			want := c.isIn + " complete " + digest + ":" + sumOf(t, digest, image)
			wantState(t, ask(t, s, ".digest-final/"+c.isIn), want)
			s.stop()
		}
	}
}

// A client that asks for the default export gets another one, and so do queries then.
func TestDefaultExportOfAnotherName(t *testing.T) {
	image := randomImage(t, 3*mib)
	s := serve(t, "--filter="+filter, "--filter=exportname", "file", image, "default-export=disk", "digest=blake3")
	copyAll(t, s.uri())
	for _, query := range []string{".digest", ".digest/", ".digest/disk", ".digest-final/"} {
		wantState(t, ask(t, s, query), "disk complete blake3:"+sumOf(t, "blake3", image))
	}
	s.stop()
}

// The name of the default export becomes known when others have been written: it may be
// the same disk.
func TestDefaultExportThatIsKnownLate(t *testing.T) {
	image := randomImage(t, 4*mib)
	s := serve(t, "--filter="+filter, "--filter=exportname", "file", image, "default-export=disk", "digest=blake3")
	reader := dial(t, s, "disk")
	readAll(t, reader)
	reader.Close()
	writer := dial(t, s, "other")
	overwrite(t, writer, 4096)
	writer.Close()
	dial(t, s, "").Close()
	wantState(t, ask(t, s, ".digest-final/"), "disk complete blake3:"+sumOf(t, "blake3", image))
	s.stop()
}

// Names that are two disks keep their digests, if none is the default export.
func TestTwoDisksBehindExportname(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b"} {
		if err := os.Rename(randomImage(t, 3*mib), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	sidecar := filepath.Join(t.TempDir(), "sums")
	s := serve(t, "--filter=exportname", "--filter="+filter, "file", "dir="+dir, "digest=blake3", "digest-file="+sidecar,
		"exportname-strict=true", "exportname=a", "exportname=b")
	a := dial(t, s, "a")
	readAll(t, a)
	a.Close()
	b := dial(t, s, "b")
	overwrite(t, b, 4096)
	b.Close()
	s.stop()
	want := ""
	for _, name := range []string{"a", "b"} {
		want += line("blake3", name, sumOf(t, "blake3", filepath.Join(dir, name)))
	}
	if got := contents(t, sidecar); got != want {
		t.Errorf("the sidecar has\n%s\nwant\n%s", got, want)
	}
}

// nbdkit's extentlist filter says of data that it is a hole.
func TestHolesThatAreNone(t *testing.T) {
	image := randomImage(t, 4*mib)
	list := filepath.Join(t.TempDir(), "list")
	write(t, list, "0 1M\n1M 3M hole,zero\n")
	s := serve(t, "-r", "--filter="+filter, "--filter=extentlist", "file", image, "extentlist="+list, "digest=blake3,sha256")
	run(t, "", "nbdinfo", "--map", s.uri())
	wantState(t, ask(t, s, ".digest-final"), " complete blake3:"+sumOf(t, "blake3", image)+" sha256:"+sumOf(t, "sha256", image))
	s.stop()
}

// sparseImage makes an image that is nearly all a hole.
func sparseImage(t *testing.T, path string) {
	t.Helper()
	write(t, path, "data")
	if err := os.Truncate(path, 20*mib); err != nil {
		t.Fatal(err)
	}
}

// needFilter skips a test of a filter that not every nbdkit has.
func needFilter(t *testing.T, name string) {
	t.Helper()
	if exec.Command("nbdkit", "--filter="+name, "--dump-plugin", "null").Run() != nil {
		t.Skipf("this nbdkit has no filter %s", name)
	}
}

// nbdkit's cacheextents filter, which nbdkit 1.48 has no more, takes what it knows of one
// export for that of another.
func TestExtentsOfAnotherExport(t *testing.T) {
	dir := t.TempDir()
	sparseImage(t, filepath.Join(dir, "hole"))
	readBehindExtents(t, dir, "hole", "data")
}

// It does so with what it knows of a file that has been replaced, too.
func TestExtentsOfAnEarlierImage(t *testing.T) {
	dir := t.TempDir()
	sparseImage(t, filepath.Join(dir, "disk"))
	readBehindExtents(t, dir, "disk", "disk")
}

// readBehindExtents has the extents of an export told, and wants the digest of another
// file in its place, or beside it.
func readBehindExtents(t *testing.T, dir, told, export string) {
	t.Helper()
	needFilter(t, "cacheextents")
	s := serve(t, "-r", "--filter="+filter, "--filter=cacheextents", "file", "dir="+dir, "digest=blake3", "signature=any")
	run(t, "", "nbdinfo", "--map", s.uriOf(told))
	image := filepath.Join(dir, export)
	if err := os.Rename(randomImage(t, 24*mib), image); err != nil {
		t.Fatal(err)
	}
	c := dial(t, s, export)
	if _, err := c.Read(0, 3*mib); err != nil {
		t.Fatal(err)
	}
	wantState(t, ask(t, s, ".digest-final/"+export), export+" complete blake3:"+sumOf(t, "blake3", image))
	c.Close()
	s.stop()
}

// A client of the default export must not pay for all the names that others have
// thought of: what nobody has open is told once, of all.
func TestWriteForgetsNamesThatNobodyHasOpen(t *testing.T) {
	const names = 20
	s := serve(t, "--filter="+filter, "memory", "4M", "digest=blake3", "signature=any")
	writer, open := dial(t, s, ""), dial(t, s, "open")
	readAll(t, open)
	for i := range names {
		c := dial(t, s, fmt.Sprint(i))
		readAll(t, c)
		c.Close()
	}
	known := func(export string) int64 { return ask(t, s, ".digest/"+export).Images[0].Bytes["known"] }
	waitFor(t, "the clients to be gone", func() bool {
		overwrite(t, writer, 4096)
		return known(fmt.Sprint(names-1)) == 0
	})
	for i := range names {
		if n := known(fmt.Sprint(i)); n != 0 {
			t.Errorf("%d bytes are known of export %d", n, i)
		}
	}
	if n := known("open"); n < 3*mib || n == 4*mib {
		t.Errorf("%d bytes are known of the export that is open", n)
	}
	// Somebody comes back, and is told of what is written then.
	back := dial(t, s, "7")
	readAll(t, back)
	overwrite(t, writer, 2*mib)
	if n := known("7"); n < 2*mib || n == 4*mib {
		t.Errorf("%d bytes are known of the export that is open again", n)
	}
	image := filepath.Join(t.TempDir(), "image")
	content, err := back.Read(0, back.Size)
	if err != nil {
		t.Fatal(err)
	}
	write(t, image, string(content))
	for _, export := range []string{"7", "8", "open"} {
		wantState(t, ask(t, s, ".digest-final/"+export), export+" complete blake3:"+sumOf(t, "blake3", image))
	}
	writer.Close()
	open.Close()
	back.Close()
	s.stop()
}

func TestWriteByAClientOfAnotherSize(t *testing.T) {
	image := randomImage(t, 4*mib)
	s := serve(t, "--filter="+filter, "file", image, "digest=blake3")
	old := dial(t, s, "")
	readAll(t, old)
	if err := os.Truncate(image, 6*mib); err != nil {
		t.Fatal(err)
	}
	now := dial(t, s, "")
	readAll(t, now)
	data := overwrite(t, old, 0)
	if got, err := now.Read(0, int64(len(data))); err != nil || !bytes.Equal(got, data) {
		t.Errorf("a reader gets what was there before (%v)", err)
	}
	old.Close()
	now.Close()
	wantState(t, ask(t, s, ".digest-final"), " complete blake3:"+sumOf(t, "blake3", image))
	s.stop()
}

// The last client of an export leaves while another one is at the door, which is refused
// then.
func TestLastClientLeavesBesideOneThatIsRefused(t *testing.T) {
	t.Parallel()
	image := randomImage(t, 8*mib)
	trigger := filepath.Join(t.TempDir(), "trigger")
	s := serve(t, "-r", "--filter="+filter, "--filter=multi-conn", "--filter=delay", "--filter=error",
		"file", "dir="+filepath.Dir(image), "multi-conn-mode=disable", "rdelay=2",
		"error-pread=EIO", "error-pread-rate=100%", "error-pread-file="+trigger, "digest=sha256", "digest-unread=late")
	name := filepath.Base(image)
	first := dial(t, s, name)
	if _, err := first.Read(mib, 6*mib); err != nil {
		t.Fatal(err)
	}
	write(t, trigger, "")
	refused := make(chan error)
	go func() {
		_, err := nbd.Dial(s.socket(), name, patience)
		refused <- err
	}()
	time.Sleep(time.Second)
	first.Close()
	time.Sleep(2 * time.Second) // its read has failed, and what that sets off waits
	if err := os.Remove(trigger); err != nil {
		t.Fatal(err)
	}
	if err := <-refused; err == nil {
		t.Skip("the second client was let in")
	}
	waitFor(t, "the digest", func() bool {
		if strings.Contains(s.stderr(), "cannot be completed") {
			t.Skip("the trigger was there for too long")
		}
		return ask(t, s, ".digest/"+name).Images[0].State == "complete"
	})
	s.stop()
}

// At shutdown nobody could tell the nbd plugin which export is meant, and it would end
// nbdkit.
func TestDefaultExportOfAnotherServerByName(t *testing.T) {
	t.Parallel()
	image := randomImage(t, 5*mib)
	upstream := serve(t, "-r", "file", image)
	for _, parameter := range []string{"dynamic-export=true", "dynamic-export=1", "dynamic-export=false"} {
		sidecar := filepath.Join(t.TempDir(), "disk.sum")
		s := serve(t, "-r", "--filter="+filter, "nbd", "socket="+upstream.socket(), parameter,
			"digest=sha256", "digest-unread=late", "digest-file="+sidecar)
		client := dial(t, s, "")
		if _, err := client.Read(mib, 3*mib); err != nil {
			t.Fatal(err)
		}
		client.Close()
		s.stop()
		wantDigests(t, sidecar, image, "sha256")
	}
	// Behind the retry filter nobody knows when the last client leaves.
	sidecar := filepath.Join(t.TempDir(), "disk.sum")
	s := serve(t, "-r", "--filter=retry", "--filter="+filter, "nbd", "socket="+upstream.socket(), "dynamic-export=true",
		"digest=sha256", "digest-unread=late", "digest-file="+sidecar)
	client := dial(t, s, "")
	if _, err := client.Read(mib, 3*mib); err != nil {
		t.Fatal(err)
	}
	client.Close()
	if log := s.stop(); !strings.Contains(log, "is not complete: behind the retry filter") {
		t.Errorf("the log has\n%s", log)
	}
	wantComments(t, sidecar, 1)
	upstream.stop()
}
