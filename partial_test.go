package main

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// A leaf that is whole from parts is claimed at once: a write to a part that an
// earlier request has brought must not be lost before it is hashed.
func TestWriteToALeafThatHasJustBecomeWhole(t *testing.T) {
	m := &memoryLayer{bytes: randomBytes(rand.New(rand.NewPCG(1, 1)), 8192)}
	im := newImage("", 8192, testConfig(t, "digest", "blake3"), func() {})
	tr := im.trees[0]
	x := &client{im: im, layer: m, cursor: im.connect()}
	y := &client{im: im, layer: m, cursor: im.connect()}
	leaf := tr.spec.leafSize
	x.read(0, leaf/2)

	// y reads the other half, up to where the leaf is whole.
	half := make([]byte, leaf/2)
	ticket := im.beginRead(y.cursor, leaf/2, leaf)
	m.ReadAt(half, leaf/2)
	im.answered(ticket)
	part, a, b := tr.takePart(0, leaf/2, leaf, false)
	copy(part.buf[a:b], half)
	c, whole := tr.partDone(part, b-a, false)
	if !whole {
		t.Fatal("the leaf is not whole")
	}
	x.write(bytes.Repeat([]byte{7}, int(leaf/2)), 0, true)
	im.disconnect(x.cursor)
	tr.hash(c, part.buf)
	tr.sparePart(part)
	im.unlist(ticket)

	y.read(leaf, 8192)
	expectDigests(t, im, m)
}

// A client that waits for the verdict on an image that has become another one
// does not wait for ever.
func TestReadsOfAnImageThatHasEnded(t *testing.T) {
	const size = 4 * mib
	m := &memoryLayer{bytes: randomBytes(rand.New(rand.NewPCG(2, 2)), size)}
	im := newImage("", size, testConfig(t, "digest-expect", "sha256:"+emptySHA256, "digest-memory", "1M"), func() {})
	c := &client{im: im, layer: m, cursor: im.connect()}
	im.end()
	for lo := int64(0); lo < size; lo += 256 << 10 {
		c.read(lo, lo+256<<10)
		if im.verdict() == nil {
			t.Fatal("a read of it succeeds, and nobody will compare its digest")
		}
	}
}
