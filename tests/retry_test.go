// SPDX-License-Identifier: BSD-3-Clause

package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// nbdkit's retry filter in front of this one: it finalizes an export and opens it
// again while a client waits for a request.

// A flaky server has the retry filter in front of ours, and fails reads as long as
// there is a file.
type flaky struct {
	*server
	broken, log string
}

func serveFlaky(t *testing.T, image string, args ...string) *flaky {
	t.Helper()
	dir := t.TempDir()
	f := &flaky{broken: dir + "/broken", log: dir + "/log"}
	f.server = serve(t, append([]string{"-r", "--filter=retry", "--filter=" + filter, "--filter=log", "--filter=error",
		"file", image, "logfile=" + f.log, "error-pread-rate=100%", "error-pread-file=" + f.broken,
		"retry-delay=1", "retry-exponential=no", "retries=2"}, args...)...)
	return f
}

// fail makes the first of the reads that f waits for fail.
func (f *flaky) fail(read func() error) error {
	f.t.Helper()
	write(f.t, f.broken, "")
	failed := strings.Count(f.stderr(), "injecting")
	done := make(chan error)
	go func() { done <- read() }()
	waitFor(f.t, "a read to fail", func() bool { return strings.Count(f.stderr(), "injecting") > failed })
	if err := os.Remove(f.broken); err != nil {
		f.t.Fatal(err)
	}
	return <-done
}

func TestRetryDoesNotReadTheRest(t *testing.T) {
	const size = 24 * mib
	image := randomImage(t, size)
	for _, digest := range []string{"blake3", "sha256"} {
		s := serveFlaky(t, image, "digest="+digest, "digest-unread=late")
		c := dial(t, s.server, "disk")
		if _, err := c.Read(0, 4*mib); err != nil {
			t.Fatal(err)
		}
		if err := s.fail(func() error { _, err := c.Read(5*mib, 4096); return err }); err != nil {
			t.Errorf("%s: the read fails: %v\n%s", digest, err, s.stderr())
		}
		if total, _ := bytesRead(t, s.log, size); total > 7*mib {
			t.Errorf("%s: %d bytes are read below", digest, total)
		}
		c.Close()
		// Whoever wants to have it can ask.
		wantState(t, ask(t, s.server, ".digest-final/disk"), "disk complete "+digest+":"+sumOf(t, digest, image))
		s.stop()
	}
}

func TestRetryTellsWhatIsNotComplete(t *testing.T) {
	image := randomImage(t, 24*mib)
	sum := sumOf(t, "blake3", image)
	for _, expect := range []bool{false, true} {
		param := "digest=blake3"
		if expect {
			param = "digest-expect=blake3:" + sum
		}
		sidecar := filepath.Join(t.TempDir(), "sum")
		s := serveFlaky(t, image, param, "digest-file="+sidecar)
		c := dial(t, s.server, "disk")
		if _, err := c.Read(0, 4*mib); err != nil {
			t.Fatal(err)
		}
		c.Close()
		s.signal(terminate)
		if status := s.cmd.ProcessState.ExitCode(); (status == 0) == expect {
			t.Errorf("%s: nbdkit ends with status %d", param, status)
		}
		if log := s.stderr(); !strings.Contains(log, "behind the retry filter") || strings.Contains(log, "not compared") != expect {
			t.Errorf("%s: nbdkit says\n%s", param, log)
		}
		wantComments(t, sidecar, 1)
	}
}

// A copy with a fault that is mended by another try is a copy like any other.
func TestRetriedCopyIsCompared(t *testing.T) {
	image := randomImage(t, 24*mib)
	for _, digest := range []string{"blake3", "sha256"} {
		for _, right := range []bool{true, false} {
			t.Run(fmt.Sprint(digest, " ", right), func(t *testing.T) {
				t.Parallel()
				sum := sumOf(t, digest, image)
				if !right {
					sum = bend(sum)
				}
				s := serveFlaky(t, image, "digest-expect="+digest+":"+sum)
				c := dial(t, s.server, "disk")
				var err error
				for at := int64(0); at < c.Size && err == nil; at += mib {
					read := func() error { _, err := c.Read(at, mib); return err }
					if at == 9*mib {
						err = s.fail(read)
					} else {
						err = read()
					}
					if err != nil && at < c.Size-mib {
						t.Errorf("the read at %d fails: %v", at, err)
					}
				}
				if (err == nil) != right {
					t.Errorf("the last read ends with %v", err)
				}
				c.Close()
				s.signal(terminate)
				if status := s.cmd.ProcessState.ExitCode(); (status == 0) != right {
					t.Errorf("nbdkit ends with status %d\n%s", status, s.stderr())
				}
				if strings.Contains(s.stderr(), "digest mismatch") == right {
					t.Errorf("nbdkit says\n%s", s.stderr())
				}
			})
		}
	}
}
