// SPDX-License-Identifier: BSD-3-Clause

package tests

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"unicode"

	"nbdkit-digest-filter/tests/nbd"
)

// Clients and images that mean no good.

// A handshake can end anywhere.
func TestHandshakesThatAreCutOff(t *testing.T) {
	image := randomImage(t, 300*kib)
	sidecar := filepath.Join(t.TempDir(), "sum")
	s := serve(t, "--filter="+filter, "file", image, "digest-file="+sidecar)
	var before usage
	for i := range 2 {
		if i == 1 {
			before = s.settled()
		}
		for _, export := range []string{"", ".digest-final"} {
			all := nbd.Handshake(export)
			for n := range len(all) + 1 {
				if err := nbd.CutOff(s.socket(), all[:n]); err != nil {
					t.Fatalf("after %d bytes: %v\n%s", n, err, s.stderr())
				}
			}
		}
	}
	notMore(t, before, s.settled(), 8*kib)
	copyAll(t, s.uri())
	s.stop()
	wantDigests(t, sidecar, image, "blake3")
}

// What is no request ends the connection, and nothing else.
func TestRequestsThatAreNone(t *testing.T) {
	image := randomImage(t, 300*kib)
	sidecar := filepath.Join(t.TempDir(), "sum")
	s := serve(t, "--filter="+filter, "file", image, "digest-file="+sidecar)
	for _, c := range []struct {
		name string
		do   func(c *nbd.Client)
	}{
		{"no magic", func(c *nbd.Client) { c.Raw(make([]byte, 28)) }},
		{"a read behind the end", func(c *nbd.Client) { c.Read(300*kib-1, 2) }},
		{"a read of nothing", func(c *nbd.Client) { c.Read(0, 0) }},
		{"a read of all there can be", func(c *nbd.Client) { c.Start(nbd.CmdRead, 0, 1<<31, nil) }},
		{"a read at a negative offset", func(c *nbd.Client) { c.Read(-1, 1) }},
		{"a write behind the end", func(c *nbd.Client) { c.Do(nbd.CmdWrite, 300*kib, 1, []byte{1}) }},
		{"a write of less than was said", func(c *nbd.Client) { c.HalfWrite(0, 65536, make([]byte, 100)) }},
		{"an unknown command", func(c *nbd.Client) { c.Start(99, 0, 512, nil) }},
		{"a zero behind the end", func(c *nbd.Client) { c.Do(nbd.CmdZero, 1<<62, 1<<31, nil) }},
		{"a question behind the end", func(c *nbd.Client) { c.Do(nbd.CmdExtent, 1<<62, 1<<31, nil) }},
	} {
		for _, export := range []string{"", ".digest", ".digest-final"} {
			client := dial(t, s, export)
			c.do(client)
			client.Drop()
			// It would fail for want of a server.
			dial(t, s, "").Close()
		}
	}
	copyAll(t, s.uri())
	s.stop()
	wantDigests(t, sidecar, image, "blake3")
}

// Many at once, each with its threads: more than Go allows a program.
func TestManyClientsAtOnce(t *testing.T) {
	n := 100
	if soaking {
		n = 800
	}
	image := randomImage(t, 3*mib)
	sidecar := filepath.Join(t.TempDir(), "sum")
	s := serve(t, "--filter="+filter, "--filter=delay", "file", image, "rdelay=300ms", "digest=sha256,blake3", "digest-file="+sidecar,
		"signature=any", "signature-unsafe=allow")
	var clients []*nbd.Client
	for range n {
		clients = append(clients, dial(t, s, ""))
	}
	var wg sync.WaitGroup
	for i, c := range clients {
		wg.Go(func() {
			var calls []*nbd.Call
			for j := range 16 {
				calls = append(calls, c.Start(nbd.CmdRead, int64((i*16+j)%700)*4096, 4096, nil))
			}
			for _, call := range calls {
				if <-call.Done; call.Err != nil {
					t.Error(call.Err)
				}
			}
		})
	}
	wg.Wait()
	t.Log(s.usage())
	// Threads that come into Go the first time once looked for a way in by turns,
	// 3,000 times each.
	if waits, requests := s.waits(), 16*n; waits > 100*requests {
		t.Errorf("for %d requests, threads of the server waited %d times", requests, waits)
	}
	for _, c := range clients {
		c.Close()
	}
	copyAll(t, s.uri())
	s.stop()
	wantDigests(t, sidecar, image, "sha256", "blake3")
}

// Nothing that an image or a name of an export contains can do something to a
// terminal, or looks like another line of the log.
func TestNothingHostileReachesTheLog(t *testing.T) {
	const evil = "\x1b]0;owned\x07\x1b[2J\r\nnbdkit: error: all is well\u202e\u009b31m\x00\x7f"
	text := strings.NewReplacer("\x00", "", "\x7f", "", "\x07", "").Replace(evil) // still a text
	pad := func(s string) string { return s + strings.Repeat("\x1b", 4096) }
	qcow2 := func(backing string) string {
		b := make([]byte, 1024)
		copy(b, "QFI\xfb\x00\x00\x00\x03")
		b[15] = 200 // the name's offset
		b[19] = byte(len(backing))
		b[23] = 16
		b[100+3] = 104
		copy(b[200:], backing)
		return string(b)
	}
	for name, image := range map[string]string{
		"page":         "<html>" + text,
		"xml":          "<" + text + ">",
		"json":         `{"` + text,
		"text":         "an error" + text,
		"binary page":  pad("<html>" + evil),
		"binary xml":   pad("<" + evil + ">"),
		"binary json":  `{"` + evil,
		"binary text":  "an error" + strings.ReplaceAll(evil, "\x00", ""),
		"backing file": qcow2("/etc/" + evil),
		"descriptor":   "# Disk DescriptorFile\nversion=1\ncreateType=\"" + evil + "\"\nRW 10 FLAT \"" + evil + "\" 0\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			write(t, dir+"/disk", image)
			for _, policy := range []string{"sane", "known", "gpt"} {
				s := serve(t, "--filter="+filter, "file", "dir="+dir, "signature="+policy, "digest-name="+strings.ReplaceAll(evil, "\x00", ""))
				for _, export := range []string{"disk", ".digest/" + evil, ".digest-final/disk"} {
					if c, err := nbd.Dial(s.socket(), export, patience); err == nil {
						c.Read(0, min(c.Size, 512))
						c.Close()
					}
				}
				s.signal(terminate)
				log := s.stderr()
				harmless(t, log)
				if !strings.Contains(log, "is refused: ") && !strings.HasPrefix(name, "binary") {
					t.Errorf("signature=%s does not refuse it:\n%s", policy, log)
				}
			}
		})
	}
}

// harmless checks that there is nothing in a log but printable lines of nbdkit.
func harmless(t *testing.T, log string) {
	t.Helper()
	for line := range strings.Lines(log) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "nbdkit: error: all is well") || strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("the log has the line %q", line)
		}
	}
	if len(log) > 64*kib {
		t.Errorf("the log has %d bytes", len(log))
	}
}

// An image with a backing file is refused even if its size makes no sense.
func TestHostileSizes(t *testing.T) {
	for _, size := range []int64{0, 1, 511, 513, 1535, 1537, 1<<20 - 1, 1<<20 + 1, 1 << 50} {
		image := filepath.Join(t.TempDir(), "disk")
		write(t, image, "")
		if err := os.Truncate(image, size); err != nil {
			t.Logf("%d: %v", size, err)
			continue
		}
		s := serve(t, "--filter="+filter, "file", image, "digest=sha256,blake3,blkhash,fsverity", "digest-unread=skip", "signature=any")
		c := dial(t, s, "")
		if n := min(size, 512); n > 0 {
			for _, at := range []int64{0, size - n} {
				if _, err := c.Read(at, n); err != nil {
					t.Errorf("%d bytes at %d: %v", n, at, err)
				}
			}
		}
		c.Close()
		if u := s.usage(); u.rssKiB > 100*kib {
			t.Errorf("an image of %d bytes makes %v", size, u)
		}
		s.stop()
	}
}
