// SPDX-License-Identifier: BSD-3-Clause

package tests

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// An expected digest that was never compared is no success, whatever the reason.

// randomSource is a plugin for an image of random bytes, with a shell script that is
// run before each read of $3 bytes at $4.
func randomSource(image string, size int64, before string, more ...string) []string {
	return append([]string{"eval", fmt.Sprintf("get_size=echo %d", size), "thread_model=echo parallel",
		"pread=" + before + "\ndd if=" + image + " iflag=skip_bytes,count_bytes bs=64k skip=$4 count=$3 status=none",
		"signature=any", "signature-unsafe=allow"}, more...)
}

// wantUncompared ends a server, which must say once that a digest was not compared.
func wantUncompared(t *testing.T, s *server) {
	t.Helper()
	wantFailure(t, s, "digest was not compared with the expected one: ")
}

func TestExpectedDigestThatIsNotCompared(t *testing.T) {
	const size = 24 * mib
	image := randomImage(t, size)
	for _, digest := range []string{"sha256", "blake3"} {
		expect := "digest-expect=" + digest + ":" + expected(t, digest, image, true)
		t.Run(digest+" nobody reads what is missing", func(t *testing.T) {
			t.Parallel()
			s := serveUnseen(t, "-r", "--filter="+filter, "file", image, expect, "digest-unread=skip")
			nbdsh(t, s.uri(), "for i in range(20): h.pread(1 << 20, i << 20)")
			wantUncompared(t, s)
		})
		t.Run(digest+" the client has only looked", func(t *testing.T) {
			t.Parallel()
			s := serveUnseen(t, "-r", "--filter="+filter, "file", image, expect)
			nbdsh(t, s.uri(), "h.pread(1 << 20, 0)")
			wantUncompared(t, s)
		})
		t.Run(digest+" what is missing cannot be read", func(t *testing.T) {
			t.Parallel()
			s := serve(t, append([]string{"-r", "--filter=" + filter}, randomSource(image, size, "[ $4 -lt 8388608 ] || exit 1", expect)...)...)
			nbdsh(t, s.uri(), "for i in range(8): h.pread(1 << 20, i << 20)")
			wantUncompared(t, s)
		})
		t.Run(digest+" no client has come", func(t *testing.T) {
			t.Parallel()
			serveUnseen(t, "-r", "--filter="+filter, "file", image, expect).stop()
		})
	}
	t.Run("of an export with a name", func(t *testing.T) {
		t.Parallel()
		s := serveUnseen(t, "-r", "--filter="+filter, "file", image, "digest-expect=blake3:"+expected(t, "blake3", image, true))
		nbdsh(t, s.uriOf("disk"), "h.pread(1 << 20, 0)") // then it is read by somebody else
		nbdsh(t, s.uriOf("disk"), "for i in range(24): h.pread(1 << 20, i << 20)")
		s.stop()
	})
	t.Run("beside a digest that nobody expects", func(t *testing.T) {
		t.Parallel()
		const step = 64 * kib
		s := serveUnseen(t, "-r", "--filter="+filter, "file", image, "digest=sha256", "digest-memory=1M", "digest-unread=skip",
			"digest-expect=blake3:"+expected(t, "blake3", image, true))
		nbdsh(t, s.uri(), fmt.Sprintf("for i in range(%d): h.pread(%d, (%d - i) * %d)", size/step, step, size/step-1, step))
		s.stop()
	})
}

// What a client has read of an image is all that its copy needs, however little that
// is. If another image is in its place then, the first one was not compared.
func TestSizeThatChangesBeforeTheDigestIsCompared(t *testing.T) {
	const size = 24 * mib
	for _, c := range []struct {
		name, before string
		status       int
	}{
		{"a client has read", "h.pread(65536, 0)", 1},
		{"a client has connected only", "h.get_size()", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			image, old := randomImage(t, size), randomImage(t, size+mib)
			expect := "digest-expect=sha256:" + sumOf(t, "sha256", image)
			s := serveUnseen(t, "-r", "--filter="+filter, "file", old, expect)
			nbdsh(t, s.uri(), c.before)
			write(t, old, contents(t, image))
			copyAll(t, s.uri())
			s.signal(terminate)
			if status := s.cmd.ProcessState.ExitCode(); status != c.status {
				t.Errorf("nbdkit ends with status %d", status)
			}
			if log := s.stderr(); strings.Count(log, "digest was not compared with the expected one: ") != c.status {
				t.Errorf("nbdkit says\n%s", log)
			}
		})
	}
}

// What the source does not let the filter read, or only at a second time.
func TestExpectationAndASourceThatFailsTheFilter(t *testing.T) {
	const size, gap = 24 * mib, 8 * mib
	image := randomImage(t, size)
	client := fmt.Sprintf(`
for at in range(0, %d, 1 << 19):
    if at == %d: h.pread((1 << 19) - 65536, at + 65536)
    else: h.pread(1 << 19, at)`, size, gap)
	for _, digest := range []string{"sha256", "blake3"} {
		for _, c := range []struct {
			name        string
			once, right bool
		}{{"always", false, true}, {"once", true, true}, {"once, wrong digest", true, false}} {
			t.Run(digest+" "+c.name, func(t *testing.T) {
				t.Parallel()
				failed := filepath.Join(t.TempDir(), "failed")
				fails := fmt.Sprintf("if [ $4 -lt %d ] && [ $(($4 + $3)) -gt %d ]", gap+65536, gap)
				if c.once {
					fails += " && [ ! -e " + failed + " ]"
				}
				s := serve(t, append([]string{"-r", "--filter=" + filter}, randomSource(image, size, fails+"; then touch "+failed+"; exit 1; fi",
					"digest-expect="+digest+":"+expected(t, digest, image, c.right))...)...)
				o := execute(t, "", "/usr/bin/python3", "-m", "nbd", "-u", s.uri(), "-c", client)
				if good := c.once && c.right; (o.status == 0) != good {
					t.Errorf("the client ends with status %d\n%s%s", o.status, o.stderr, s.stderr())
				}
				line := fmt.Sprintf("bytes from %d to %d cannot be read, so that its digest cannot be compared\n", gap, gap+65536)
				switch log := s.stderr(); {
				case c.once:
					s.signal(terminate)
				case strings.Count(log, line) != 1:
					t.Errorf("nbdkit says\n%swhere this is missing: %s", log, line)
				default:
					wantUncompared(t, s)
				}
				if status := s.cmd.ProcessState.ExitCode(); (status == 0) != (c.once && c.right) {
					t.Errorf("nbdkit ends with status %d", status)
				}
			})
		}
	}
}

// A request that reads the rest ends at the second signal, and tells the client that
// there is no verdict.
func TestSecondSignalEndsTheReadOfTheRest(t *testing.T) {
	const size, lo, hi = 40 << 30, 20 << 30, 20<<30 + 30*mib
	reads := filepath.Join(t.TempDir(), "reads")
	s := serve(t, "-r", "--filter="+filter, "eval", fmt.Sprintf("get_size=echo %d", size), "thread_model=echo parallel",
		"pread=echo >> "+reads+"; sleep 0.3; head -c $3 /dev/zero", "can_extents=exit 0",
		fmt.Sprintf("extents=echo 0 %d hole,zero; echo %[1]d %d; echo %d %d hole,zero", lo, hi-lo, hi, size-hi),
		"signature=any", "signature-unsafe=allow", "digest-expect=blake3:"+strings.Repeat("0", 64))
	count := func() int {
		if !exists(reads) {
			return 0
		}
		return len(contents(t, reads))
	}
	client := background(t, "/usr/bin/python3", "-c", fmt.Sprintf(`
import nbd
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.connect_uri("%s")
for i in range(40): h.block_status(1 << 30, i << 30, lambda *args: 0)`, s.uri()))
	waitFor(t, "the read of the rest", func() bool { return count() >= 2 })
	s.cmd.Process.Signal(terminate)
	waitFor(t, "a read after the first signal", func() func() bool {
		before := count()
		return func() bool { return count() > before }
	}())
	before := count()
	s.signal(interrupt)
	if after := count(); after > before+2 {
		t.Errorf("%d reads of the layer below after the second signal", after-before)
	}
	if client.Wait() == nil {
		t.Error("the client's request succeeds")
	}
	if status := s.cmd.ProcessState.ExitCode(); status != 1 {
		t.Errorf("nbdkit ends with status %d", status)
	}
}
