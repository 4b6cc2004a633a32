// SPDX-License-Identifier: BSD-3-Clause

package tests

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"nbdkit-digest-filter/tests/nbd"
)

// Verdicts where several clients, writes or faults are in play.

// expected is the digest of an image, or another one.
func expected(t *testing.T, digest, image string, right bool) string {
	t.Helper()
	sum := sumOf(t, digest, image)
	if !right {
		sum = bend(sum)
	}
	return sum
}

// A client that reads everything while another one's slow request has the last
// bytes must not take a wrong image for a good one.
func TestNoneOfTwoClientsGetsAWrongImage(t *testing.T) {
	const size = 3 * mib
	image := randomImage(t, size)
	for _, digest := range []string{"sha256", "blake3"} {
		for _, right := range []bool{true, false} {
			sum := expected(t, digest, image, right)
			s := serve(t, "-r", "--filter="+filter, "--filter=delay", "file", image, "rdelay=50ms",
				"digest-expect="+digest+":"+sum, "signature=any", "signature-unsafe=allow")
			slow, quick := dial(t, s, ""), dial(t, s, "")
			last := slow.Start(nbd.CmdRead, size-mib, mib, nil)
			var err error
			for lo := int64(0); lo < size && err == nil; lo += mib {
				_, err = quick.Read(lo, mib)
			}
			if (err == nil) != right {
				t.Errorf("%s, %v: the client that reads everything gets %v", digest, right, err)
			}
			<-last.Done
			quick.Drop()
			slow.Drop()
			s.signal(terminate)
		}
	}
}

// The start of the image, which the filter keeps, is never an old one.
func TestWriteBesideTheStartThatIsKept(t *testing.T) {
	image := randomImage(t, 3*mib)
	sidecar := filepath.Join(t.TempDir(), "sum")
	s := serve(t, "--filter="+filter, "--filter=delay", "file", image, "rdelay=20ms", "wdelay=20ms", "digest=sha256,blake3", "digest-file="+sidecar, "signature=any")
	reader, writer := dial(t, s, ""), dial(t, s, "")
	if _, err := reader.Read(0, mib); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		text := bytes.Repeat([]byte{byte(i)}, 5000)
		// Clients come, for which the filter looks, while there is a write.
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { dial(t, s, "").Drop() })
		}
		if call := writer.Do(nbd.CmdWrite, 12345, 5000, text); call.Err != nil {
			t.Fatal(call.Err)
		}
		got, err := reader.Read(12000, 10000)
		if err != nil || !bytes.Equal(got[345:5345], text) {
			t.Fatalf("after write %d the reader gets other bytes, %v", i, err)
		}
		wg.Wait()
	}
	reader.Close()
	writer.Close()
	s.signal(terminate) // the delay filter lets nothing be read now
	if b := contents(t, sidecar); strings.HasPrefix(b, "SHA256") {
		wantDigests(t, sidecar, image, "sha256", "blake3")
	}
	s = serve(t, "--filter="+filter, "file", image, "digest=sha256,blake3", "digest-file="+sidecar, "signature=any")
	copyAll(t, s.uri())
	s.stop()
	wantDigests(t, sidecar, image, "sha256", "blake3")
}

// With digest-verify=before, an image that cannot be verified is not served,
// and one that was may be refused later.
func TestFailedImageIsNotVerified(t *testing.T) {
	image := randomImage(t, 3*mib)
	expect := "digest-expect=sha256:" + sumOf(t, "sha256", image)
	t.Run("because it cannot be read", func(t *testing.T) {
		trigger := filepath.Join(t.TempDir(), "trigger")
		s := serve(t, "-r", "--filter="+filter, "--filter=error", "file", image, "error-pread=EIO", "error-pread-rate=100%",
			"error-pread-file="+trigger, expect, "digest-verify=before", "signature=any", "signature-unsafe=allow")
		write(t, trigger, "")
		if c, err := nbd.Dial(s.socket(), "", patience); err == nil {
			c.Drop()
			t.Error("an image that cannot be read is served")
		}
		if err := os.Remove(trigger); err != nil {
			t.Fatal(err)
		}
		c := dial(t, s, "") // it can be read now
		if _, err := c.Read(0, mib); err != nil {
			t.Error(err)
		}
		c.Close()
		s.stop()
	})
	t.Run("because the source has changed", func(t *testing.T) {
		s := serve(t, "-v", "-r", "--filter="+filter, "file", image, expect, "digest-verify=before")
		c := dial(t, s, "")
		if _, err := c.Read(0, mib); err != nil {
			t.Error(err)
		}
		c.Close()
		s.waitForClose(t, "file")
		replaceContent(t, image)
		for range 2 {
			if c, err := nbd.Dial(s.socket(), "", patience); err == nil {
				c.Drop()
				t.Error("a source that has changed is served")
			}
		}
		s.signal(terminate)
		if status := s.cmd.ProcessState.ExitCode(); status != 1 {
			t.Errorf("nbdkit ends with status %d\n%s", status, s.stderr())
		}
	})
}

// Of a small image all is known when the filter has looked at its start: no client
// is let in to take a wrong one for a good one, and each right one is.
func TestSmallImageIsComparedAtTheDoor(t *testing.T) {
	for _, size := range []int64{0, 512, 5000, mib} {
		image := randomImage(t, size)
		for _, digest := range []string{"sha256", "blake3"} {
			for _, right := range []bool{true, false} {
				sum := expected(t, digest, image, right)
				s := serve(t, "-r", "--filter="+filter, "file", image, "digest-expect="+digest+":"+sum, "signature=any")
				for range 3 {
					c, err := nbd.Dial(s.socket(), "", patience)
					if (err == nil) != right {
						t.Errorf("%d bytes, %s, right %v: a client is let in with %v", size, digest, right, err)
					}
					if err != nil {
						continue
					}
					if size > 0 {
						if _, err := c.Read(0, size); err != nil {
							t.Error(err)
						}
					}
					c.Close()
				}
				s.signal(terminate)
				log := s.stderr()
				if status := s.cmd.ProcessState.ExitCode(); (status == 0) != right {
					t.Errorf("nbdkit ends with status %d\n%s", status, log)
				}
				if count := strings.Count(log, "digest mismatch: "); count > 1 || (count == 0) != right {
					t.Errorf("%d bytes, %s, right %v: nbdkit says\n%s", size, digest, right, log)
				}
			}
		}
	}
}
