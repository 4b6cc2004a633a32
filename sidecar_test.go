// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A link that was made to lead elsewhere since the start is not followed, be it
// by way of /proc.
func TestLinkToAFileIsNotWrittenThrough(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o666); err != nil {
		t.Fatal(err)
	}
	open, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	for i, target := range []string{"file", file, "/proc/self/root" + file, fmt.Sprintf("/proc/self/fd/%d", open.Fd())} {
		link := filepath.Join(dir, fmt.Sprint(i))
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
		if special, err := isSpecial(link); special || err != nil {
			t.Errorf("a link to %s is not to be replaced: %v", target, err)
		}
		if err := writeInPlace(link, nil); err == nil {
			t.Errorf("the link to %s was followed", target)
		}
		if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
			t.Errorf("after a link to %s the file has %q, %v", target, b, err)
		}
	}
}

// someResults returns results of so many exports.
func someResults(exports ...string) (results []result) {
	for _, name := range exports {
		results = append(results, result{Name: name, State: complete, Digests: []digestResult{{tag: "SHA256", Hex: strings.Repeat("0", 64)}}})
	}
	return results
}

// isAlone tells whether a test has a process of its own. If not, it runs there: a
// limit of the process is one for all tests, and for the log of go test.
func isAlone(t *testing.T) bool {
	t.Helper()
	if os.Getenv("TEST_ALONE") == t.Name() {
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "TEST_ALONE="+t.Name())
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("PASS")) {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

// withFileLimit runs f with a limit on the size of files, in a test that is alone.
func withFileLimit(t *testing.T, limit uint64, f func()) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: limit, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_FSIZE, &old)
	f()
}

// A file that is written in place is empty after an error, and what it had
// before can be written again.
func TestSidecarInPlaceIsNeverLeftHalf(t *testing.T) {
	t.Parallel()
	if !isAlone(t) {
		return
	}
	path := filepath.Join(t.TempDir(), "disk.sum")
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	s := newSidecar(path, formatText, -1)
	s.inPlace = true
	check := func(err error, want string) {
		t.Helper()
		if got, e := os.ReadFile(path); string(got) != want || (want == "") != (err != nil) {
			t.Errorf("after %v the file has %q, %v, want %q", err, got, e, want)
		}
	}
	one, two := someResults("a"), someResults("a", "b")
	withFileLimit(t, 100, func() { check(s.finish(two), "") }) // there is nothing to take back yet
	check(s.finish(one), string(formatText(one)))
	withFileLimit(t, 100, func() { check(s.finish(two), "") })
	check(s.finish(one), string(formatText(one)))
	check(s.finish(two), string(formatText(two)))
}

// A result that another one should have replaced is not left there, and one that
// cannot be removed is tried to be removed again.
func TestSidecarKeepsNoOldResultAfterAnError(t *testing.T) {
	t.Parallel()
	if !isAlone(t) {
		return
	}
	dir := filepath.Join(t.TempDir(), "dir")
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "disk.sum")
	s := newSidecar(path, formatText, -1)
	one, two := someResults("a"), someResults("a", "b")
	if err := s.finish(one); err != nil {
		t.Fatal(err)
	}
	withFileLimit(t, 100, func() {
		if err := s.finish(two); err == nil {
			t.Error("a file is larger than it may be")
		}
	})
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("there are still %v, %v", entries, err)
	}
	if err := s.finish(one); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, formatText(one)) {
		t.Errorf("the file has %q, %v", b, err)
	}

	// Something is in the way of the file.
	if err := os.Rename(dir, dir+"2"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := s.finish(two); err == nil || strings.Count(err.Error(), "not a directory") != 2 { // of writing, and of removing
		t.Errorf("the error is %v", err)
	}
	if err := s.withdraw(); err == nil || !strings.HasPrefix(err.Error(), "digest-file="+path) {
		t.Errorf("the result was withdrawn, and is out of reach: %v", err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir+"2", dir); err != nil {
		t.Fatal(err)
	}
	if err := s.withdraw(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("the result is still there")
	}
}

// Where the result is to be, somebody has made another file since nbdkit started: the
// copy of the image, say. It is kept.
func TestFileThatIsNotOursIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "copy.img")
	s := newSidecar(path, formats["text"], -1)
	if err := s.prepare(); err != nil {
		t.Fatal(err)
	}
	foreign := bytes.Repeat([]byte{0}, 1000)
	for range 2 { // before a result is there, and after
		if err := os.WriteFile(path, foreign, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := s.write(someResults("a")); err == nil || !strings.Contains(err.Error(), "another file") {
			t.Errorf("the error is %v", err)
		}
		if err := s.withdraw(); err != nil && !strings.Contains(err.Error(), "another file") {
			t.Error(err)
		}
		if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, foreign) {
			t.Errorf("the file has %q now (%v)", now, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := s.write(someResults("a", "b")); err != nil {
			t.Error(err)
		}
	}
}

// A file that somebody has put in the place of the result is not removed with it.
func TestWithdrawnResultIsNotTheFileOfAnother(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.img")
	s := newSidecar(path, formatText, -1)
	if err := s.finish([]result{{Name: "-", State: complete, Digests: []digestResult{{Hex: emptySHA256, tag: "SHA256"}}}}); err != nil {
		t.Fatal(err)
	}
	image := randomBytes(rand.New(rand.NewPCG(1, 91)), 8192)
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	s.withdraw()
	if kept, err := os.ReadFile(path); err != nil || !bytes.Equal(kept, image) {
		t.Errorf("the file of somebody else has gone: %v", err)
	}

	// What was withdrawn once is not withdrawn again: another server may have a result there.
	s = newSidecar(path+".sum", formatText, -1)
	if err := s.finish(someResults("a")); err != nil {
		t.Fatal(err)
	}
	if err := s.withdraw(); err != nil {
		t.Fatal(err)
	}
	other := formatText(someResults("b"))
	if err := os.WriteFile(s.path, other, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.withdraw(); err != nil {
		t.Error(err)
	}
	if kept, err := os.ReadFile(s.path); err != nil || !bytes.Equal(kept, other) {
		t.Errorf("the result of another server has gone: %v", err)
	}
}

// A result that says what is there already does not take its place.
func TestSameResultIsNotWrittenAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.sum")
	s := newSidecar(path, formatText, -1)
	var before os.FileInfo
	for range 2 {
		if err := s.finish(someResults("a")); err != nil {
			t.Fatal(err)
		}
		after, err := os.Stat(path)
		if err != nil || before != nil && !os.SameFile(before, after) {
			t.Errorf("another file is there: %v", err)
		}
		before = after
	}
}

// A directory may be made unwritable while nbdkit runs. The file in it is then written
// in place.
func TestSidecarInADirectoryThatIsWrittenNoMore(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "disk.sum")
	s := newSidecar(path, formatText, -1)
	if err := s.finish(someResults("a")); err != nil {
		t.Fatal(err)
	}
	if err := attribute(t, dir, "i"); err != nil {
		t.Skip(err)
	}
	two := someResults("a", "b")
	if err := s.finish(two); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, formatText(two)) {
		t.Errorf("the file has %q, %v", b, err)
	}
}

// Where there is nothing to say, a file says so, and a stream has nothing.
func TestNothingInAStream(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	s := &sidecar{path: "/dev/stdout", format: formatText, fd: int(w.Fd()), stream: true}
	if err := s.finish(nil); err != nil {
		t.Error(err)
	}
	if err := writeAll(s.fd, []byte("x")); err != nil { // be it one byte only
		t.Error(err)
	}
	w.Close()
	if b, err := io.ReadAll(r); err != nil || string(b) != "x" {
		t.Errorf("the stream has %q, %v", b, err)
	}
}

// What a client may have chosen neither moves the cursor nor begins a line of its own.
func TestLineForATerminal(t *testing.T) {
	if got := string(forTerminal([]byte("é \x1b[2J\u009b\r\n"))); got != "é .[2J..\n" {
		t.Errorf("%q", got)
	}
}

// A sync that the file system cannot do is no error, but one that fails is. A full disk
// does not mean that a file is to be written in place.
func TestWhichErrorsCount(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	if err := syncFile(w); err != nil {
		t.Errorf("a pipe cannot be synced: %v", err)
	}
	w.Close()
	if err := syncFile(w); err == nil {
		t.Error("a sync that has failed is no error")
	}
	for err, want := range map[error]bool{unix.EBUSY: true, unix.EACCES: true, unix.EPERM: true, unix.EROFS: true, unix.EXDEV: true, unix.ENOSPC: false, unix.EIO: false} {
		if got := cannotReplace(fmt.Errorf("rename: %w", err)); got != want {
			t.Errorf("%v: the file is to be written in place: %v", err, got)
		}
	}
}

// What is open is not replaced, be it a regular file.
func TestOpenFileIsSpecial(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for path, want := range map[string]bool{
		fmt.Sprintf("/proc/self/fd/%d", file.Fd()): true, fmt.Sprintf("/dev/fd/%d", file.Fd()): true, "/proc/version": true,
		file.Name(): false, file.Name() + ".new": false,
	} {
		if got, err := isSpecial(path); got != want || err != nil {
			t.Errorf("%s: %v, %v", path, got, err)
		}
	}
}
