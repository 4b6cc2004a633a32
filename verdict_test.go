package main

import (
	"encoding/hex"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"nbdkit-digest-filter/nbdkit"
)

// One client's thread is still hashing the last bytes when another one, which
// has read everything, asks whether its copy is good: it must wait, and fail.
func TestVerdictWaitsForBytesThatAnotherClientBrings(t *testing.T) {
	const size = 5 * mib
	var log []string
	logError = func(format string, args ...any) { log = append(log, format) }
	for _, digest := range []string{"blake3", "merkle/sha256/64k", "blkhash/sha256/64k", "sha256"} {
		for _, right := range []bool{true, false} {
			r := rand.New(rand.NewPCG(3, 3))
			m := &memoryLayer{bytes: randomBytes(r, size)}
			im, slow := newTestImage(t, size, "digest", digest)
			quick := &client{im, m, im.connect()}
			slow.layer = m
			a, _ := parseAlgorithm(digest)
			sum := make([]byte, a.size)
			if right {
				other := newImage("", size, testConfig(t, "digest", digest), func() {})
				(&client{other, m, other.connect()}).read(0, size)
				other.drain(func() bool { return false })
				sum, _ = hex.DecodeString(other.snapshot().Digests[0].Hex)
				other.end()
			}
			im.conf.expect = []expectation{{a, sum}}

			// The slow client's thread has taken the last MiB, and is not done.
			var finish func()
			if im.linear != nil {
				c, _, _ := im.linear.take(size-mib, size)
				finish = func() {
					data := m.bytes[c.lo:c.hi]
					at := c.lo % pageSize
					for _, page := range c.pages {
						data = data[copy(page.data[at:], data):]
						at = 0
					}
					im.linear.copied(c)
				}
			} else {
				tr := im.trees[0]
				leaf := tr.spec.leafSize
				c := tr.take((size-mib)/leaf, size/leaf, true)
				finish = func() { tr.hash(c, m.bytes[size-mib:]); im.settle() }
			}
			quick.read(0, size)
			verdict := make(chan error)
			go func() { verdict <- im.verdict() }()
			select {
			case err := <-verdict:
				t.Errorf("%s, %v: the verdict is %v before the digest is known", digest, right, err)
			case <-time.After(50 * time.Millisecond):
				finish()
				if err := <-verdict; (err == nil) != right {
					t.Errorf("%s, %v: the verdict is %v", digest, right, err)
				}
			}
			im.end()
		}
	}
	for _, line := range log {
		if !strings.Contains(line, "%v: %s") {
			t.Errorf("the log has %q", line)
		}
	}
	if len(log) != 4 {
		t.Errorf("the log has %d lines about 4 mismatches", len(log))
	}
}

// Where there will be no digest to compare, no request may make a copy look good.
func TestNothingSucceedsWithoutTheExpectedDigest(t *testing.T) {
	for _, digest := range []string{"blake3", "sha256"} {
		im, _ := newTestImage(t, 4*mib, "digest", digest)
		a, _ := parseAlgorithm(digest)
		im.conf.expect = []expectation{{a, make([]byte, a.size)}}
		c := &conn{image: im, cursor: im.connect(), filter: &filter{conf: im.conf}}
		if err := c.Flushed(nbdkit.Next{}); err != nil {
			t.Errorf("%s: a flush fails before anything is known: %v", digest, err)
		}
		im.fail("internal error")
		if err := c.Flushed(nbdkit.Next{}); err == nil {
			t.Errorf("%s: a flush succeeds", digest)
		}
		for _, op := range []nbdkit.Op{nbdkit.Read, nbdkit.Write, nbdkit.Zero, nbdkit.Trim, nbdkit.AskExtents} {
			if _, _, err := c.Begin(op, nil, 0, 4096); err == nil {
				t.Errorf("%s: %v succeeds", digest, op)
			}
		}
		im.end()
	}
}
