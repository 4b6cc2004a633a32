// SPDX-License-Identifier: BSD-3-Clause

package tests

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// digestOf copies an image through the filter in a server of its own, and
// returns what the server has said.
func digestOf(t *testing.T, image string, params ...string) string {
	t.Helper()
	s := serveUnseen(t, append([]string{"--filter=" + filter, "file", image}, params...)...)
	copyAll(t, s.uri())
	return s.stop()
}

// names are ones that coreutils escape, or nearly.
var names = []string{"disk.img", "my disk.img", "a\\b.img", "new\nline.img", "return\r.img", "(a) = b.img", "ümläut.img", "-", "#x", " leading", "trailing "}

func TestSidecarIsWhatToolsPrintAndCheck(t *testing.T) {
	for _, name := range names {
		for _, c := range []struct {
			format, algorithm string
			print             []string // what prints the same
			check             [][]string
		}{
			{"text", "sha256", []string{"sha256sum", "--tag"}, [][]string{{"sha256sum", "--check", "--strict"}, {"cksum", "--check", "--strict"}}},
			{"text", "sha512", []string{"cksum", "-a", "sha512"}, [][]string{{"sha512sum", "--check", "--strict"}}},
			{"text", "md5", []string{"md5sum", "--tag"}, [][]string{{"md5sum", "--check", "--strict"}, {"cksum", "--check", "--strict"}}},
			{"gnu", "sha256", []string{"sha256sum"}, [][]string{{"sha256sum", "--check", "--strict"}}},
			{"gnu", "sha1", []string{"sha1sum"}, [][]string{{"sha1sum", "--check", "--strict"}}},
			{"gnu", "blake3", []string{"b3sum"}, [][]string{{"b3sum", "--check"}}},
		} {
			t.Run(name+" as "+c.format+" for "+c.algorithm, func(t *testing.T) {
				t.Parallel()
				if name == "-" || c.algorithm == "blake3" && strings.ContainsAny(name, "\r") {
					t.Skip("a tool reads this name in its own way")
				}
				dir := t.TempDir()
				image, sidecar := filepath.Join(dir, name), filepath.Join(t.TempDir(), "disk.sum")
				write(t, image, "the image "+name)
				digestOf(t, image, "digest="+c.algorithm, "digest-format="+c.format, "digest-name="+name, "digest-file="+sidecar)
				want := run(t, dir, append(c.print, "--", name)...)
				if c.print[0] == "b3sum" {
					want = run(t, dir, "b3sum", "--", name)
				}
				if got := contents(t, sidecar); got != want {
					t.Errorf("the sidecar has %q where %v prints %q", got, c.print, want)
				}
				for _, check := range c.check {
					if out := run(t, dir, append(check, sidecar)...); !strings.Contains(out, "OK") {
						t.Errorf("%v says %q", check, out)
					}
				}
				write(t, image, "another image")
				for _, check := range c.check {
					if o := execute(t, dir, append(check, sidecar)...); o.status == 0 {
						t.Errorf("%v accepts another image", check)
					}
				}
			})
		}
	}
}

func TestSidecarWithCommentsIsAcceptedByCoreutils(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	sidecar := filepath.Join(dir, "sums")
	for _, name := range []string{"a", "b"} {
		write(t, filepath.Join(dir, name), contents(t, randomImage(t, 3*mib)))
	}
	s := serveUnseen(t, "--filter="+filter, "file", "dir="+dir, "digest=sha256,md5", "digest-unread=skip", "digest-file="+sidecar)
	copyAll(t, s.uriOf("a"))
	nbdsh(t, s.uriOf("b"), "h.pread(512, 0)")
	s.stop()
	if got := contents(t, sidecar); strings.Count(got, "# ") != 2 || strings.Count(got, "\n") != 4 {
		t.Errorf("the sidecar has\n%s", got)
	}
	run(t, dir, "cksum", "--check", sidecar)
	run(t, dir, "sha256sum", "--check", "--ignore-missing", sidecar)
}

func TestSeveralExportsAreInOneFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	sidecar := filepath.Join(t.TempDir(), "sums")
	want := ""
	for i, name := range []string{"a.img", "b b.img", "c.img", "unread.img"} {
		path := filepath.Join(dir, name)
		write(t, path, contents(t, randomImage(t, int64(i+1)*100001)))
		if name != "unread.img" {
			want += line("sha256", name, sumOf(t, "sha256", path)) + line("blake3", name, sumOf(t, "blake3", path))
		}
	}
	s := serveUnseen(t, "--filter="+filter, "file", "dir="+dir, "digest=sha256,blake3", "digest-file="+sidecar)
	for _, name := range []string{"c.img", "b%20b.img", "a.img"} {
		copyAll(t, s.uriOf(name))
	}
	waitFor(t, "the last result", func() bool {
		b, _ := os.ReadFile(sidecar)
		return string(b) == want
	})
	s.stop()
	if got := contents(t, sidecar); got != want {
		t.Errorf("the sidecar has\n%swhere the tools say\n%s", got, want)
	}
}

// image is an image in the JSON document, with all of its fields.
type image struct {
	Export  *string
	Name    *string
	Size    *int64
	State   *string
	Digests []struct{ Algorithm, Hex *string }
	Bytes   *struct {
		ClientRead    *int64 `json:"client_read"`
		ClientWritten *int64 `json:"client_written"`
		Holes         *int64
		FilterRead    *int64 `json:"filter_read"`
	}
	Started, Finished *time.Time
}

func TestJSONHasAllFields(t *testing.T) {
	path := randomImage(t, 1*mib)
	for _, c := range []struct {
		name       string
		params     []string
		script     string
		state      string
		clientRead int64
		filterRead int64
	}{
		{"complete", nil, "h.pread(1 << 20, 0)", "complete", 1 * mib, 0},
		{"complete at the end", []string{"digest-unread=late"}, "h.pread(1 << 18, 0)", "complete", 256 * kib, 768 * kib},
		{"incomplete", []string{"digest-unread=skip"}, "h.pread(1 << 18, 0)", "incomplete", 256 * kib, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			sidecar := filepath.Join(t.TempDir(), "disk.json")
			s := serveUnseen(t, append([]string{"--filter=" + filter, "file", path, "digest=sha256,blake3",
				"digest-name=disk \"<&>\".img", "digest-file=" + sidecar}, c.params...)...)
			nbdsh(t, s.uri(), c.script)
			s.stop()
			text := contents(t, sidecar)
			var doc struct {
				Version *int
				Filter  *string
				Images  []image
			}
			if err := json.Unmarshal([]byte(text), &doc); err != nil {
				t.Fatalf("%v in\n%s", err, text)
			}
			if doc.Version == nil || *doc.Version != 1 || doc.Filter == nil || !strings.HasPrefix(*doc.Filter, "digest ") || len(doc.Images) != 1 {
				t.Fatalf("the document is\n%s", text)
			}
			im := doc.Images[0]
			if im.Export == nil || *im.Export != "" || im.Name == nil || *im.Name != "disk \"<&>\".img" ||
				im.Size == nil || *im.Size != 1*mib || im.State == nil || *im.State != c.state ||
				im.Started == nil || im.Finished == nil || im.Finished.Before(*im.Started) || time.Since(*im.Started) > time.Hour {
				t.Errorf("the image is\n%s", text)
			}
			b := im.Bytes
			if b == nil || b.ClientRead == nil || *b.ClientRead != c.clientRead || b.FilterRead == nil || *b.FilterRead != c.filterRead ||
				b.ClientWritten == nil || *b.ClientWritten != 0 || b.Holes == nil || *b.Holes != 0 {
				t.Errorf("the counts are\n%s", text)
			}
			if len(im.Digests) != 2 {
				t.Fatalf("the digests are\n%s", text)
			}
			for i, a := range []string{"sha256", "blake3"} {
				d := im.Digests[i]
				if *d.Algorithm != a || (d.Hex != nil) != (c.state == "complete") || d.Hex != nil && *d.Hex != sumOf(t, a, path) {
					t.Errorf("the digests are\n%s", text)
				}
			}
		})
	}
}

func TestStaleResultIsRemovedAtStart(t *testing.T) {
	t.Parallel()
	path := randomImage(t, 1*mib)
	sidecar := filepath.Join(t.TempDir(), "disk.sum")
	write(t, sidecar, stale)
	s := serveUnseen(t, "--filter="+filter, "file", path, "digest-file="+sidecar)
	run(t, "", "nbdinfo", "--size", s.uri()) // now it has started
	if exists(sidecar) {
		t.Error("the result of an earlier run is there")
	}
	copyAll(t, s.uri())
	waitFor(t, "the result while the server is alive", func() bool { return exists(sidecar) })
	wantDigests(t, sidecar, path, "blake3")
	s.stop()
	wantDigests(t, sidecar, path, "blake3")
	entries, err := os.ReadDir(filepath.Dir(sidecar))
	if err != nil || len(entries) != 1 {
		t.Errorf("files are left behind: %v %v", entries, err)
	}
}

func TestWithoutAFileResultsGoToStderr(t *testing.T) {
	path := randomImage(t, 100*kib)
	for _, params := range [][]string{nil, {"digest-file=-"}} {
		t.Run(strings.Join(params, " "), func(t *testing.T) {
			log := digestOf(t, path, append(params, "digest=sha256,blake3")...)
			want := line("sha256", "-", sumOf(t, "sha256", path)) + line("blake3", "-", sumOf(t, "blake3", path))
			if log != want {
				t.Errorf("stderr has\n%swhere the tools say\n%s", log, want)
			}
		})
	}
}

func TestResultThatCannotBeWrittenIsAnError(t *testing.T) {
	path := randomImage(t, 100*kib)
	gone := filepath.Join(t.TempDir(), "gone")
	if err := os.Mkdir(gone, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, file, why string }{
		{"directory that has gone", gone + "/disk.sum", "no such file or directory"},
		{"full device", "/dev/full", "no space left on device"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serveUnseen(t, "--filter="+filter, "file", path, "digest-file="+c.file)
			run(t, "", "nbdinfo", "--size", s.uri()) // it has started
			if c.file != "/dev/full" {
				if err := os.Remove(gone); err != nil {
					t.Fatal(err)
				}
			}
			copyAll(t, s.uri()) // the client is none the wiser
			s.signal(syscall.SIGTERM)
			if !strings.Contains(s.stderr(), "error: digest: digest-file="+c.file+": ") || !strings.Contains(s.stderr(), c.why) {
				t.Errorf("stderr has\n%s", s.stderr())
			}
			if status := s.cmd.ProcessState.ExitCode(); status != 1 {
				t.Errorf("exit status %d of nbdkit in the foreground, and not 1", status)
			}
		})
	}
}

// What was taken back must not stay when there is no room for what is true.
func TestOldResultDoesNotStayOnAFullDisk(t *testing.T) {
	name := strings.Repeat("x", 100_000) // more than the log
	limit := func(t *testing.T, s *server) {
		t.Helper()
		if err := unix.Prlimit(s.cmd.Process.Pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 90_000, Max: unix.RLIM_INFINITY}, nil); err != nil {
			t.Fatal(err)
		}
	}

	t.Run("when the source changes", func(t *testing.T) {
		t.Parallel()
		image, sidecar := randomImage(t, 1*mib), filepath.Join(t.TempDir(), "disk.sum")
		s := serve(t, "-v", "-r", "--filter="+filter, "file", image, "digest=sha256", "digest-name="+name, "digest-file="+sidecar)
		run(t, "", "nbdcopy", "--connections=1", s.uri(), "null:")
		waitFor(t, "the result", func() bool { return exists(sidecar) })
		s.waitForClose(t, "file")
		limit(t, s)
		other := []byte(contents(t, image))
		other[0]++
		write(t, image, string(other))
		copyAll(t, s.uri())
		if exists(sidecar) {
			t.Error("a source has changed, and its digest is still there")
		}
		s.signal(syscall.SIGTERM)
		if status := s.cmd.ProcessState.ExitCode(); status != 1 || exists(sidecar) {
			t.Errorf("exit status %d, and the result that cannot be written is there: %v", status, exists(sidecar))
		}
	})

	t.Run("when a client writes and another export is complete", func(t *testing.T) {
		t.Parallel()
		dir, sidecar := t.TempDir(), filepath.Join(t.TempDir(), "disk.sum")
		for _, export := range []string{"a", "b"} {
			write(t, filepath.Join(dir, export), contents(t, randomImage(t, 1*mib)))
		}
		s := serve(t, "--filter="+filter, "file", "dir="+dir, "digest=sha256", "digest-name="+name, "digest-file="+sidecar)
		for _, export := range []string{"a", "b"} {
			copyAll(t, s.uriOf(export))
		}
		waitFor(t, "the results", func() bool {
			b, _ := os.ReadFile(sidecar)
			return bytes.Count(b, []byte("\n")) == 2
		})
		limit(t, s)
		nbdsh(t, s.uriOf("a"), fmt.Sprintf("import os; h.pwrite(b'new', 0); assert not os.path.exists(%q)", sidecar))
		s.signal(syscall.SIGTERM)
		if exists(sidecar) {
			t.Error("an image has changed, and its digest is still there")
		}
	})
}

// A reader of the file sees nothing, or all of it.
func TestSidecarIsNeverHalfThere(t *testing.T) {
	t.Parallel()
	path := randomImage(t, 10*kib)
	sidecar := filepath.Join(t.TempDir(), "disk.sum")
	s := serveUnseen(t, "--filter="+filter, "file", path, "digest=md5,sha1,sha224,sha256,sha384,sha512,blake3", "digest-file="+sidecar)
	var first []byte
	for range 20 {
		nbdsh(t, s.uri(), "h.pread(h.get_size(), 0)\nh.pwrite(h.pread(10, 0), 0)\nh.shutdown()")
		copyAll(t, s.uri())
		waitFor(t, "the result", func() bool {
			got, err := os.ReadFile(sidecar)
			if err != nil {
				return false
			}
			if first == nil {
				first = got
			}
			if !bytes.Equal(got, first) {
				t.Fatalf("the sidecar has %q", got)
			}
			return true
		})
	}
	s.stop()
}

// A client that comes after the source has changed its size must not find the
// result of what it was, even if nbdkit is killed then.
func TestResultOfAnotherSizeDoesNotStay(t *testing.T) {
	image := randomImage(t, 1<<20)
	sidecar := filepath.Join(t.TempDir(), "sum.txt")
	s := serve(t, "-r", "--filter="+filter, "file", image, "digest=sha256", "digest-file="+sidecar)
	copyAll(t, s.uri())
	waitFor(t, "the result", func() bool { return exists(sidecar) })
	wantDigests(t, sidecar, image, "sha256")
	if err := os.Truncate(image, 1<<19); err != nil {
		t.Fatal(err)
	}
	nbdsh(t, s.uri(), fmt.Sprintf("import os; assert h.get_size() == 1 << 19 and not os.path.exists(%q)", sidecar))
	copyAll(t, s.uri())
	waitFor(t, "the new result", func() bool { return exists(sidecar) })
	wantDigests(t, sidecar, image, "sha256")
}

// b3sum takes an empty file for one in which all is right.
func TestNoResultIsNoGoodOne(t *testing.T) {
	for _, c := range []struct{ client, image string }{{"true", randomImage(t, 1000)}, {"nbdcopy \"$uri\" null:", "page"}} {
		for _, format := range []string{"text", "gnu"} {
			dir := t.TempDir()
			write(t, dir+"/page", errorPage)
			execute(t, dir, "nbdkit", "-r", "-U", "-", "--filter="+filter, "file", c.image, "digest-format="+format, "digest-file=sum", "--run", c.client)
			if got := contents(t, dir+"/sum"); got != "# no client has read or written an image\n" {
				t.Errorf("the sidecar has %q", got)
			}
			for _, tool := range []string{"b3sum", "sha256sum"} {
				if o := execute(t, dir, tool, "--check", "sum"); o.status == 0 {
					t.Errorf("%s finds all right", tool)
				}
			}
		}
	}
}

// digest-file may be the name of the copy by mistake. The copy is kept.
func TestCopyIsNotReplacedByItsResult(t *testing.T) {
	image, dir := randomImage(t, 2*mib), t.TempDir()
	for _, copy := range []string{`nbdcopy "$uri" copy.img`, `qemu-img convert -f raw -O raw "$uri" copy.img`} {
		o := execute(t, dir, "nbdkit", "-r", "-U", "-", "--filter="+filter, "file", image, "digest-file=copy.img", "--run", copy)
		if !same(t, image, dir+"/copy.img") {
			t.Errorf("%s: the copy is not the image", copy)
		}
		if !strings.Contains(o.stderr, "there is another file now") {
			t.Errorf("%s: exit status %d\n%s", copy, o.status, o.stderr)
		}
		if err := os.Remove(dir + "/copy.img"); err != nil {
			t.Fatal(err)
		}
	}
}
