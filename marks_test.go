// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// A source that hands out other bytes when they are read again has no digest,
// whoever reads them, before and after the digest was complete.
func TestSourceThatChangesIsNoticed(t *testing.T) {
	logged := 0
	logError = func(string, ...any) { logged++ }
	const size = 5*mib + 77
	all := func(c *client) { c.read(0, size) }
	pieces := func(c *client) {
		for lo := int64(0); lo < size; lo += 100_001 {
			c.read(lo, min(size, lo+100_001))
		}
	}
	zeros := func(c *client) {
		ticket := c.im.beginExtents(0, size)
		c.im.endExtents(ticket, 0, size, func(yield func(int64, int64) bool) { yield(0, size) })
	}
	half := func(c *client) { c.read(0, size/2) }
	ends := func(c *client) {
		pass := endPass{im: c.im, next: c.layer, interrupted: never}
		pass.run(1)
	}
	endsInHoles := func(c *client) {
		clear(c.layer.bytes)
		c.layer.holes.add(0, size)
		ends(c)
	}
	for _, c := range []struct {
		name          string
		before, after func(c *client)
		noticed       bool
	}{
		{"after a copy", all, all, true},
		{"after a copy, read in pieces", all, pieces, true},
		{"after a copy in pieces", pieces, all, true},
		{"in the middle of a copy", half, all, true},
		{"and is zero now", all, zeros, true},
		{"and was zero", zeros, all, true},
		{"and was a hole that only the filter found", endsInHoles, all, true},
		{"and nobody reads it again", all, func(*client) {}, false},
		{"and only the filter reads what is left", half, ends, false},
	} {
		for _, digests := range []string{"sha256", "blake3,merkle"} {
			r := rand.New(rand.NewPCG(1, 40))
			m := &memoryLayer{bytes: randomBytes(r, size)}
			im := newImage("", size, testConfig(t, "digest", digests, "digest-unread", "late"), func() {})
			client := &client{im: im, layer: m, cursor: im.connect()}
			c.before(client)
			im.drain(never)
			m.write(randomBytes(r, size), 0)
			c.after(client)
			s := im.snapshot()
			if failed := s.State == failed && strings.Contains(s.Error, "the source has changed"); failed != c.noticed {
				t.Errorf("%s, %s: state %s, error %q", c.name, digests, s.State, s.Error)
			}
			if logged > 1 || (logged == 1) != c.noticed {
				t.Errorf("%s, %s: %d lines in the log", c.name, digests, logged)
			}
			logged = 0
			im.end()
		}
	}
}

// What clients write is no change of the source.
func TestWritesAreNoChangeOfTheSource(t *testing.T) {
	const size = 3 * mib
	r := rand.New(rand.NewPCG(1, 41))
	m := &memoryLayer{bytes: randomBytes(r, size)}
	im := newImage("", size, testConfig(t, "digest", "blake3"), func() {})
	c := &client{im: im, layer: m, cursor: im.connect()}
	c.read(0, size)
	c.write(randomBytes(r, size), 0, true)
	c.read(0, size)
	im.disconnect(c.cursor)
	expectDigests(t, im, m)
}

// A thread finds other bytes late, when a client has begun to write, or when the image is
// refused: what is said of it stays.
func TestChangeThatIsFoundLate(t *testing.T) {
	logError = func(string, ...any) {}
	im, c := newTestImage(t, mib, "digest", "blake3")
	c.read(0, mib)
	c.write([]byte("new"), 0, true)
	im.sourceChanged(0)
	im.disconnect(c.cursor)
	expectDigests(t, im, c.layer)

	im, c = newTestImage(t, mib, "digest-expect", "blake3:"+strings.Repeat("00", 32))
	c.read(0, mib)
	im.sourceChanged(0)
	if r := im.snapshot(); r.State != mismatch {
		t.Errorf("the state is %s: %s", r.State, r.Error)
	}
	im.end()
}

// The memory for marks is bounded, whatever the size.
func TestMarksTakeLittleMemory(t *testing.T) {
	for _, size := range []int64{0, 1, 63, 64, minStretch, 1 << 30, 1 << 45, 1<<63 - 1} {
		s := newMarks(size, minMemory)
		if s.memory() > minMemory/markShare+8 {
			t.Errorf("marks of %d bytes take %d", size, s.memory())
		}
		for _, i := range []int64{0, 1, int64(len(s.stretches())) - 1} {
			at := s.place(i) - i*s.stretch
			if at < 0 || at+markSize > s.stretch {
				t.Errorf("of %d bytes, the mark of stretch %d is at %d", size, i, at)
			}
		}
	}
}

func BenchmarkMarks(b *testing.B) {
	const piece = 256 << 10
	s := newMarks(1<<30, defaultMemory)
	data := randomBytes(rand.New(rand.NewPCG(1, 42)), 16*piece)
	b.SetBytes(piece)
	for i := range b.N {
		if s.look(int64(i%4096)*piece, data[i%16*piece:][:piece]) >= 0 {
			b.Fatal("a mark is not what it was")
		}
	}
}
