// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"math"
	"testing"
	"time"
)

// A map tells of any number of holes: those that find no room are unknown, and
// the digest is right when they are read.
func TestHolesAreBounded(t *testing.T) {
	const size, hole = 4 << 30, 16 << 10
	for _, digest := range []string{"blake3", "sha256", "blkhash", "sha256,fsverity/sha256/4k"} {
		before := heap()
		im := newImage("", size, testConfig(t, "digest", digest, "digest-memory", "1M"), func() {})
		for lo := int64(0); lo < size; lo += mib {
			ticket := im.beginExtents(lo, lo+mib)
			im.endExtents(ticket, lo, lo+mib, func(yield func(int64, int64) bool) {
				for at := lo; at < lo+mib && yield(at, at+hole/2); at += hole {
				}
			})
		}
		if kept := heap() - before; kept > mib+size>>15 {
			t.Errorf("%s: %d bytes are kept of %d holes", digest, kept, size/hole)
		}
		im.end()
	}
}

// The last byte that there can be is in a leaf that is cut off.
func TestHoleAtTheEndOfTheLargestImage(t *testing.T) {
	for _, digest := range []string{"blake3", "merkle", "fsverity", "blkhash"} {
		tr := newTree(treeOf(t, digest), math.MaxInt64, roomy(), mib)
		tr.addZero(math.MaxInt64-100, math.MaxInt64, true)
		if known := tr.known(); known > 100 {
			t.Errorf("%s: 100 zeros are %d bytes", digest, known)
		}
		if lo, hi := tr.unknown(0, math.MaxInt64); lo != 0 || hi < math.MaxInt64-mib {
			t.Errorf("%s: unknown is from %d to %d", digest, lo, hi)
		}
	}
}

func TestHolesForWhichThereWasNoRoom(t *testing.T) {
	for _, digest := range []string{"blake3", "sha256", "blkhash/sha256/4k", "sha256,merkle/sha256/1k"} {
		im, c := newTestImage(t, 4*mib, "digest", digest)
		for _, tr := range im.trees {
			tr.limit = 4 << 10
		}
		if im.linear != nil {
			im.linear.listLimit = 4 << 10
		}
		for lo := int64(0); lo < im.size; lo += 16 << 10 {
			clear(c.layer.bytes[lo:][:8<<10])
		}
		ticket := im.beginExtents(0, im.size)
		im.endExtents(ticket, 0, im.size, func(yield func(int64, int64) bool) {
			for at := int64(0); at < im.size && yield(at, at+8<<10); at += 16 << 10 {
			}
		})
		kept := im.progress()
		if kept == 0 || kept >= im.size/2 {
			t.Errorf("%s: %d bytes of %d in holes are kept: this test shows nothing", digest, kept, im.size/2)
		}
		c.read(0, im.size)
		im.drain(never)
		for start := time.Now(); !im.finishedOrFailed() && time.Since(start) < patience; {
			time.Sleep(othersPause) // the thread of the linear digest cuts the holes
		}
		r := im.snapshot()
		if r.State != complete {
			t.Fatalf("%s: %s, %d bytes are known", digest, r.State, r.Bytes.Known)
		}
		for _, d := range r.Digests {
			if want := hex.EncodeToString(byDefinition(d.Algorithm, c.layer.bytes)); d.Hex != want {
				t.Errorf("%s is %s, want %s", d.Algorithm, d.Hex, want)
			}
		}
		im.end()
	}
}

// byDefinition returns the digest of an image as its definition has it.
func byDefinition(name string, image []byte) []byte {
	for _, d := range definitions {
		if d.name == name {
			return d.sum(image)
		}
	}
	sum := sha256.Sum256(image)
	return sum[:]
}

// A hole is overwritten while a thread hashes it. The rest is one again: a verdict that
// took it for hashed would be waited for in vain.
func TestOverwriteOfAHoleThatIsBeingHashed(t *testing.T) {
	tr := newTree(treeOf(t, "blake3"), 4*mib, roomy(), 64*mib)
	tr.addHole(0, tr.nodes.n, true)
	c := tr.takeAnyHole(-1)
	tr.forget(mib, mib+1)
	tr.hashHole(c)
	if tr.nodes.holes.total != tr.nodes.n-1 || !tr.hasHoles.Load() {
		t.Errorf("%d leaves are in holes, that there are holes is %v", tr.nodes.holes.total, tr.hasHoles.Load())
	}
}
