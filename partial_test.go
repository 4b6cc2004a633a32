// SPDX-License-Identifier: BSD-3-Clause

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

// However small the pieces that are read, or forgotten, of a leaf, what lists them takes
// little beside its bytes.
func TestPiecesOfALeafAreBounded(t *testing.T) {
	for _, name := range []string{"blkhash/sha256/1m", "merkle/blake3/64k", "dmverity/sha256/512"} {
		spec := treeOf(t, name)
		leaf := spec.leafSize
		data := randomBytes(rand.New(rand.NewPCG(1, 61)), leaf)
		tr := newTree(spec, 64*leaf, roomy(), mib)
		for at := int64(1); at < leaf; at += 2 {
			tr.add(leaf+at, data[at:at+1], false)
		}
		tr.add(2*leaf, data[:leaf-1], false)
		for at := int64(1); at < leaf; at += 2 {
			tr.forget(2*leaf+at, 2*leaf+at+1)
		}
		for index, part := range tr.parts {
			if lists := part.have.ends.memory(); lists > 256+leaf/16 {
				t.Errorf("%s: the pieces of leaf %d take %d bytes, beside the %d of the leaf", name, index, lists, leaf)
			}
		}
		if tr.parts[1].have.total == 0 {
			t.Errorf("%s: nothing is kept", name)
		}
		tr.add(leaf, data, false)
		tr.add(2*leaf, data, true)
		if known := tr.known(); known != 2*leaf {
			t.Errorf("%s: %d bytes are known, want %d", name, known, 2*leaf)
		}
	}
}

// wantPartBytes compares what is counted of partial leaves with what there is, when no
// request is in flight.
func wantPartBytes(t *testing.T, im *image) {
	t.Helper()
	for _, tr := range im.trees {
		bytes := int64(0)
		for _, part := range tr.parts {
			bytes += part.have.total
		}
		if counted := tr.partBytes.Load(); counted != bytes {
			t.Errorf("%d bytes are counted in partial leaves that have %d", counted, bytes)
		}
	}
}

// Reads and writes of blocks as large as they can be, so that most are there in part.
func TestPartBytesAreCounted(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		im, c := newTestImage(t, 4*mib+5, "digest", "blkhash/sha256/1m,merkle/sha256/64k", "digest-memory", "8M")
		r := rand.New(rand.NewPCG(seed, 5))
		for range 60 {
			lo := r.Int64N(im.size)
			hi := min(im.size, lo+1+r.Int64N(300000))
			switch r.IntN(3) {
			case 0:
				c.write(c.layer.bytes[lo:hi], lo, r.IntN(2) == 0)
			default:
				c.read(lo, hi)
			}
			wantPartBytes(t, im)
		}
		im.end()
	}
}

// What is kept to be used again counts, and is given up when others need the room.
func TestSparesAreWithinTheBudget(t *testing.T) {
	const size = 256 * mib
	im := newImage("", size, testConfig(t, "digest", "sha256,blkhash/sha256/1m,dmverity/sha256/512", "digest-memory", "32M", "digest-unread", "late"), func() {})
	defer im.end()
	l, big, small := im.linear, im.trees[0], im.trees[1]
	data := make([]byte, 64*mib)
	data[0] = 1
	check := func(when string) {
		t.Helper()
		held := int64(l.pages.count+len(l.spare)) * pageSize
		for _, tr := range im.trees {
			held += int64(len(tr.parts)+len(tr.spareParts)) * tr.spec.leafSize
		}
		if used := im.memory.used.Load(); held > used || used > im.memory.limit {
			t.Errorf("%s: %d bytes are held, %d are counted, of at most %d", when, held, used, im.memory.limit)
		}
	}
	half := func(tr *tree, from, n int64) int {
		leaf := tr.spec.leafSize
		for i := from; i < from+n; i++ {
			tr.add(i*leaf, data[:leaf/2], false)
		}
		return len(tr.parts)
	}

	most := half(big, 0, 64)
	check("parts of leaves")
	for i := range int64(64) {
		big.add(i*mib, data[:mib], false)
	}
	if len(big.parts) > 0 {
		t.Fatalf("%d leaves are not whole", len(big.parts))
	}
	check("leaves that are whole")
	if n := l.offer(mib, data[mib:]); int64(n) < im.memory.limit/2 {
		t.Errorf("%d bytes find room in the window after the parts have gone", n)
	}
	check("pages")
	l.offer(0, data[:mib])
	l.drain(never)
	if len(l.spare) == 0 {
		t.Fatal("no page is kept: this test shows nothing")
	}
	check("pages that are hashed")
	if parts := half(big, 128, 64); parts < most*7/8 {
		t.Errorf("%d leaves find room after the pages have gone, and %d did first", parts, most)
	}
	check("parts where there were pages")
	big.forget(0, size)
	half(small, 0, 100_000)
	check("small parts")
	small.forget(0, size)
	im.dropSpare()
	if used := im.memory.used.Load(); used != 0 {
		t.Errorf("%d bytes are counted at the end", used)
	}
}

// Bytes that are being copied cannot be taken out of a leaf; those beside them can.
func TestWriteBesideOneThatIsBeingCopied(t *testing.T) {
	tr := newTree(treeOf(t, "merkle/sha256/64k"), 256<<10, roomy(), 64*mib)
	part, a, b := tr.takePart(0, 0, 4096, false)
	if tr.forget(8192, 12288); tr.parts[0] != part || part.void {
		t.Error("a leaf is given up for bytes that it does not have")
	}
	if tr.forget(2048, 12288); tr.parts[0] != nil {
		t.Error("a leaf stays of which bytes were forgotten that are being copied")
	}
	if _, whole := tr.partDone(part, b-a, false); whole || tr.known() != 0 {
		t.Errorf("%d bytes are known", tr.known())
	}
}

// Parts that were needed when there was no memory are not kept for the next ones.
func TestPartsBeyondTheLimitAreNotKept(t *testing.T) {
	const leaf, parts, room = 4096, 16, 8
	tr := newTree(treeOf(t, "merkle/sha256/4k"), mib, roomy(), 64*mib)
	tr.memory.limit = room * tr.partCost()
	data := make([]byte, leaf)
	data[0] = 1
	for i := range int64(parts) {
		tr.add(i*leaf, data[:100], true)
	}
	for i := range int64(parts) {
		tr.add(i*leaf+100, data[100:], true)
		if used := tr.memory.used.Load() / tr.partCost(); used > max(room, parts-1-i) {
			t.Errorf("%d parts are whole, and memory for %d is taken", i+1, used)
		}
	}
}

// A part of the only leaf of an image takes no more memory than the image has.
func TestPartOfASmallImageIsSmall(t *testing.T) {
	const size = 100_000
	tr := newTree(treeOf(t, "merkle/sha256/1m"), size, roomy(), 64*mib)
	tr.add(0, []byte("some"), false)
	if part := tr.parts[0]; part == nil || cap(part.buf) > size {
		t.Errorf("there is no part, or one of more than %d bytes", size)
	}
	if used := tr.memory.used.Load(); used < size || used > size+mib/16 {
		t.Errorf("%d bytes of memory are taken for a part of an image of %d", used, size)
	}
}

// Two threads copy to a leaf that is forgotten meanwhile, and its buffer is not used
// again before both have ended: another leaf would get their bytes.
func TestForgottenLeafToWhichTwoCopy(t *testing.T) {
	tr := newTree(treeOf(t, "merkle/sha256/64k"), 256<<10, roomy(), 64*mib)
	part, _, _ := tr.takePart(0, 4096, 8192, false)
	tr.takePart(0, 8192, 12288, false)
	if tr.forget(0, 6144); tr.parts[0] != nil {
		t.Error("a leaf stays of which bytes were forgotten that are being copied")
	}
	for i := range 2 {
		if tr.partDone(part, 4096, false); len(tr.spareParts) != i {
			t.Errorf("%d threads have ended, and %d buffers are spare", i+1, len(tr.spareParts))
		}
	}
}
