// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"testing"
)

// Nothing merges below an outer hash: what is far from the start is not kept
// without a bound, even if it is read in order.
func TestLeavesFarFromAnOuterHashAreBounded(t *testing.T) {
	const size, limit = 256 * mib, mib
	for _, writable := range []bool{false, true} {
		tr := newTree(treeOf(t, "blkhash/sha256/4k"), size, roomy(), limit)
		if writable {
			tr.setWritable()
		}
		block := randomBytes(rand.New(rand.NewPCG(3, 3)), 64<<10)
		for lo := int64(size / 4); lo < size; lo += int64(len(block)) {
			tr.add(lo, block, false)
			if used := tr.listed(); used > limit+limit/8 {
				t.Fatalf("writable %t: %d bytes are kept of what is below %d, want at most %d", writable, used, lo, limit)
			}
		}
		if tr.known() == 0 {
			t.Errorf("writable %t: nothing is kept", writable)
		}
		// Nearly in order, as by a client with several connections.
		var behind []int64
		for lo := int64(0); lo < size; lo += int64(len(block)) {
			if behind = append(behind, lo); len(behind) == 8 {
				for i := range behind {
					tr.add(behind[(i+3)%8], block, false)
				}
				behind = behind[:0]
			}
		}
		if known := tr.known(); known != size {
			t.Errorf("writable %t: %d bytes of %d are known after a copy", writable, known, size)
		}
		if used := tr.listed(); used > limit+limit/8 {
			t.Errorf("writable %t: %d bytes are kept, want at most %d", writable, used, limit)
		}
		if want := blkhashOf(block, size); !bytes.Equal(tr.sum(), want) {
			t.Errorf("writable %t: %x, want %x", writable, tr.sum(), want)
		}
	}
}

// blkhashOf is blkhash/sha256/4k of an image that repeats a block.
func blkhashOf(block []byte, size int64) []byte {
	var inner []byte
	for _, b := range blocks(block, 4096) {
		inner = append(inner, sha(b)...)
	}
	inner = bytes.Repeat(inner, int(size/int64(len(block))))
	return sha(inner, binary.LittleEndian.AppendUint64(nil, uint64(size)))
}

// Data and zeros in turn, in order, are all kept, in little memory.
func TestDataAndZerosInTurnAreBounded(t *testing.T) {
	const size, limit = 256 * mib, 256 << 10
	for _, name := range []string{"blake3", "fsverity/sha256/4k", "blkhash/sha256/4k"} {
		for _, writable := range []bool{false, true} {
			tr := newTree(treeOf(t, name), size, roomy(), limit)
			if writable {
				tr.setWritable()
			}
			data := randomBytes(rand.New(rand.NewPCG(4, 4)), 4096)
			most := int64(0)
			for lo := int64(0); lo < size; lo += 8192 {
				tr.add(lo, data, false)
				tr.addZero(lo+4096, lo+8192, false)
				most = max(most, tr.listed())
			}
			if most > limit+limit/8 {
				t.Errorf("%s, writable %t: %d bytes were kept, want at most %d", name, writable, most, limit)
			}
			if known := tr.known(); known != size {
				t.Errorf("%s, writable %t: %d bytes of %d are known", name, writable, known, size)
			}
		}
	}
}

// Overwrites of an image that is one hole cut it in any number of pieces.
func TestOverwrittenHoleIsBounded(t *testing.T) {
	const size, limit = 8 << 40, mib
	for _, name := range []string{"blake3", "merkle/sha256/4k", "dmverity/sha256/4k", "blkhash/sha256/4k"} {
		tr := newTree(treeOf(t, name), size, roomy(), limit)
		tr.setWritable()
		tr.addZero(0, size, true)
		r := rand.New(rand.NewPCG(5, 5))
		data := randomBytes(r, 4096)
		most := int64(0)
		for range 100_000 {
			lo := r.Int64N(size/4096) * 4096
			tr.forget(lo, lo+4096)
			tr.add(lo, data, false)
			most = max(most, tr.listed())
		}
		if most > limit+limit/8 {
			t.Errorf("%s: %d bytes were kept, want at most %d", name, most, limit)
		}
		if most < limit/2 {
			t.Errorf("%s: %d bytes only were kept: this test shows nothing", name, most)
		}
	}
}

// countZeros returns BLAKE3, and how many bytes of zeros it has hashed.
func countZeros() (*treeSpec, *int64) {
	spec, hashed := blake3Spec, new(int64)
	spec.zero = func(cv []byte, level int, first int64) {
		*hashed += spec.zeroCost(level, first)
		blake3Spec.zero(cv, level, first)
	}
	return &spec, hashed
}

// Small overwrites of an image that is zero hash little of what is beside them.
func TestOverwrittenHoleIsNotHashedAnew(t *testing.T) {
	const size, writes = 16 << 30, 1000
	spec, hashed := countZeros()
	tr := newTree(spec, size, roomy(), 64*mib)
	tr.setWritable()
	tr.addZero(0, size, true)
	r := rand.New(rand.NewPCG(6, 6))
	data := randomBytes(r, 4096)
	for range writes {
		lo := r.Int64N(size/4096) * 4096
		tr.forget(lo, lo+4096)
		tr.add(lo, data, false)
	}
	if *hashed > 0 {
		t.Errorf("%d MiB of zeros were hashed for %d overwrites", *hashed/mib, writes)
	}
	if known := tr.known(); known != size {
		t.Errorf("%d bytes are unknown", size-known)
	}
	if tr.cutHoles(lastCost, never); !tr.complete() {
		t.Error("the image is not complete")
	}
	if *hashed < writes*mib {
		t.Errorf("%d MiB were hashed at last: this test shows nothing", *hashed/mib)
	}
}

// Nor do they as long as their client is there, when all of the image is known.
func TestOverwritesOfAKnownHoleDoNotHashIt(t *testing.T) {
	const size, writes = 600 << 30, 200
	im := newImage("", size, testConfig(t, "digest", "blake3"), func() {})
	c := im.connect()
	im.setWritable()
	spec, hashed := countZeros()
	im.trees[0].spec, im.trees[0].nodes.spec = spec, spec
	im.zero(0, size, true)
	*hashed = 0
	r := rand.New(rand.NewPCG(7, 7))
	data := randomBytes(r, 4096)
	for range writes {
		lo := r.Int64N(size/4096) * 4096
		ticket := im.beginWrite(c, lo, lo+4096)
		im.endWrite(nil, c, ticket, lo, data, true)
	}
	if *hashed > 0 {
		t.Errorf("%d MiB of zeros were hashed for %d overwrites", *hashed/mib, writes)
	}
	im.disconnect(c)
	im.settle()
	if r := im.snapshot(); r.State != complete {
		t.Errorf("the image is %s", r.State)
	}
}

// A client zeroes all of a disk, and then writes it in order, a little at a time: what
// it has written stays known, and a flush at the end has a verdict.
func TestWritesOverZerosStayKnown(t *testing.T) {
	defer func(log func(string, ...any)) { logError = log }(logError)
	logError = func(string, ...any) {}
	const size = 8 * mib
	for _, digest := range []string{"blake3", "merkle/sha256/4k", "fsverity", "dmverity", "blkhash"} {
		for _, step := range []int64{4 << 10, 12 << 10, 64 << 10, mib} {
			im, c := newTestImage(t, size, "digest-expect", digest+":"+strings.Repeat("00", 32))
			im.setWritable()
			ticket := im.beginWrite(c.cursor, 0, size)
			im.endZero(ticket, 0, size, true)
			for lo := int64(0); lo < size; lo += step {
				c.write(c.layer.bytes[lo:min(size, lo+step)], lo, true)
			}
			if a, b := im.firstUnknown(0); a < b {
				t.Errorf("%s, %d KiB at a time: bytes from %d to %d are unknown", digest, step>>10, a, b)
			}
			if im.verdictOfWriter() == nil {
				t.Errorf("%s, %d KiB at a time: a flush tells nothing", digest, step>>10)
			}
			im.end()
		}
	}
}

// What the filter reads at the end of an image that somebody has written is needed, but
// takes no more memory than any other.
func TestHolesOfAWrittenImageAreBounded(t *testing.T) {
	const size, limit, step = 4 << 30, mib, 32 << 10
	for _, name := range []string{"blake3", "merkle/sha256/1k", "fsverity", "dmverity/sha256/4k", "blkhash/sha256/4k"} {
		tr := newTree(treeOf(t, name), size, roomy(), limit)
		tr.setWritable()
		tr.forget(0, 4096)
		data := bytes.Repeat([]byte{1}, step/2)
		most := int64(0)
		for at := int64(0); at < size; at += step {
			tr.add(at, data, true)
			tr.addZero(at+step/2, at+step, true)
			most = max(most, tr.listed())
		}
		if most > limit+limit/8 {
			t.Errorf("%s: %d KiB were kept, want at most %d", name, most>>10, limit>>10)
		}
		if tr.cutHoles(lastCost, never); !tr.complete() {
			t.Errorf("%s: the image is not complete", name)
		}
	}
}

// What is left of the nodes that small overwrites have cut takes no more memory than
// it needs.
func TestOverwrittenNodesAreBounded(t *testing.T) {
	const size = 512 * mib
	for _, c := range []struct {
		name          string
		stride, limit int64
	}{
		{"dmverity/sha256/64k", 128 << 10, 4 * mib},
		{"blkhash/sha256/4k", 8 << 10, 28 * mib},
		{"merkle/sha256/4k", 2 * mib, 256 << 10},
	} {
		tr := newTree(treeOf(t, c.name), size, &budget{}, c.limit)
		tr.setWritable()
		data := randomBytes(rand.New(rand.NewPCG(1, 1)), mib)
		for lo := int64(0); lo < size; lo += mib {
			tr.add(lo, data, false)
		}
		most := tr.listed()
		for lo := int64(0); lo < size; lo += c.stride {
			tr.forget(lo, lo+512)
			tr.add(lo, data[:512], false) // a part of a leaf
			most = max(most, tr.listed())
		}
		if most > c.limit {
			t.Errorf("%s: %d KiB were kept, want at most %d", c.name, most>>10, c.limit>>10)
		}
	}
}
