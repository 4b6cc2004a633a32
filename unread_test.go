// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"math/rand/v2"
	"testing"
)

// A client that reads here and there, as a guest does that starts from the
// image, is not made to wait for a digest that needs it in order, nor for the
// image to be read in its name: the filter reads no more than it does.
func TestRandomReaderPaysForItsOwnReadsOnly(t *testing.T) {
	t.Parallel()
	for _, digests := range []string{"sha256", "blake3", "sha256,blake3"} {
		const size = 64 * mib
		r := rand.New(rand.NewPCG(7, 7))
		m := &memoryLayer{bytes: randomBytes(r, size)}
		im := newImage("", size, testConfig(t, "digest", digests, "digest-unread", "early", "digest-memory", "4M"), func() {})
		c := &client{im: im, layer: m, cursor: im.connect()}
		for range 3000 {
			lo := r.Int64N(size/4096) * 4096
			c.read(lo, lo+4096)
			if im.stalled {
				t.Fatalf("%s: a read at %d had to wait for what nobody reads", digests, lo)
			}
		}
		own, asked := im.filterRead.Load(), im.clientRead.Load()
		t.Logf("%s: the filter read %d bytes, the client %d", digests, own, asked)
		if own > asked {
			t.Errorf("%s: the filter read %d bytes beside a client that read %d", digests, own, asked)
		}
		im.disconnect(c.cursor)
		expectDigests(t, im, m)
	}
}

// Once in order, always in order: a client that jumps now and then, as nbdcopy
// does from one piece of work to the next, is waited for.
func TestJumpsAreNotScatter(t *testing.T) {
	steps := func(c *cursor, jumps, steps int, by int64) {
		for range jumps {
			c.moveTo(c.at+by, c.at+by+1000)
			for range steps {
				c.moveTo(c.at, c.at+1000)
			}
		}
	}
	c := &cursor{at: -1}
	c.moveTo(1<<40, 1<<40+1)
	steps(c, 100, 2, 128*mib)
	if c.isScattered() {
		t.Error("a client that jumps at each third request is said to read here and there")
	}
	steps(c, 10, 0, -128*mib)
	if !c.isScattered() {
		t.Error("a client that jumps at each request is said to read in order")
	}
	steps(c, 1, 20, 0)
	if c.isScattered() {
		t.Error("a client that reads in order now is said to read here and there")
	}
}

// A client that leaves out a large part of the image, and goes on behind it, is
// slowed by what each of its requests reads of that part, not by all of it at
// once; nor does it wait, but for the first time, for a frontier that only the
// filter moves.
func TestLongGapIsReadInPieces(t *testing.T) {
	t.Parallel()
	const size, gap, behind, step = 48 * mib, 8 * mib, 30 * mib, 256 << 10
	for _, digest := range []string{"sha256", "blake3"} {
		m := &memoryLayer{bytes: randomBytes(rand.New(rand.NewPCG(8, 8)), size)}
		im := newImage("", size, testConfig(t, "digest", digest, "digest-unread", "early", "digest-memory", "1M"), func() {})
		c := &client{im: im, layer: m, cursor: im.connect()}
		for lo := int64(0); lo < gap; lo += step {
			c.read(lo, lo+step)
		}
		waits := 0
		for lo := int64(behind); lo < size; lo += step {
			before, stalled := im.filterRead.Load(), im.linear != nil && im.isStalled()
			c.read(lo, lo+step)
			if own := im.filterRead.Load() - before; own > 2*ownPerRequest {
				t.Fatalf("%s: a read at %d made the filter read %d bytes", digest, lo, own)
			}
			if !stalled && im.stalled {
				waits++
			}
		}
		own, asked := im.filterRead.Load(), im.clientRead.Load()
		t.Logf("%s: the filter read %d bytes, the client %d; it waited %d times", digest, own, asked, waits)
		if waits > 1 {
			t.Errorf("%s: the client waited %d times for what nobody reads", digest, waits)
		}
		if own < asked-gap-2*ownRead {
			t.Errorf("%s: the filter read %d bytes of a gap while the client read %d behind it", digest, own, asked-gap)
		}
		im.disconnect(c.cursor)
		expectDigests(t, im, m)
	}
}
