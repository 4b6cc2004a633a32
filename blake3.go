package main

import (
	"encoding/binary"
	"math/bits"

	"lukechampine.com/blake3/guts"
)

// BLAKE3 is a binary tree over chunks of 1 KiB: section 2.1 of the paper
// "BLAKE3: one function, fast everywhere". A chunk's chaining value depends
// on its index, and the last compression carries the ROOT flag.
var blake3Spec = treeSpec{
	leafSize:  guts.ChunkSize,
	arityBits: 1,
	cvSize:    32,
	promote:   true,
	subtree:   blake3Subtree,
	parent:    blake3ParentCV,
	top: func(cv, children []byte) {
		root := blake3Parent(children)
		root.Flags |= guts.FlagRoot
		putWords(cv, guts.ChainingValue(root))
	},
	single: func(cv, data []byte) {
		root := guts.CompressChunk(data, &guts.IV, 0, 0)
		root.Flags |= guts.FlagRoot
		putWords(cv, guts.ChainingValue(root))
	},
	zero:     blake3Zero,
	zeroCost: blake3ZeroCost,
}

func blake3Subtree(cv, data []byte, first int64) {
	putWords(cv, guts.ChainingValue(blake3Node(data, uint64(first))))
}

func blake3ParentCV(cv, children []byte) {
	putWords(cv, guts.ChainingValue(blake3Parent(children)))
}

// simdSize is what one call of guts hashes side by side.
const simdSize = guts.MaxSIMD * guts.ChunkSize

// blake3Node returns the node over data, which begins at a chunk. The split
// is at the largest power of two below its length.
func blake3Node(data []byte, chunk uint64) guts.Node {
	if len(data) <= simdSize {
		if cap(data) >= simdSize {
			// What lies behind data is read, but does not count.
			return guts.CompressBuffer((*[simdSize]byte)(data[:simdSize]), len(data), &guts.IV, chunk, 0)
		}
		var buf [simdSize]byte
		copy(buf[:], data)
		return guts.CompressBuffer(&buf, len(data), &guts.IV, chunk, 0)
	}
	split := 1 << (bits.Len(uint(len(data)-1)) - 1)
	left := blake3Node(data[:split], chunk)
	right := blake3Node(data[split:], chunk+uint64(split)/guts.ChunkSize)
	return guts.ParentNode(guts.ChainingValue(left), guts.ChainingValue(right), &guts.IV, 0)
}

func blake3Parent(children []byte) guts.Node {
	return guts.ParentNode(words(children[:32]), words(children[32:]), &guts.IV, 0)
}

// Chaining values are kept as bytes, in the order in which a digest is
// printed.

func words(cv []byte) (w [8]uint32) {
	for i := range w {
		w[i] = binary.LittleEndian.Uint32(cv[4*i:])
	}
	return w
}

func putWords(cv []byte, w [8]uint32) {
	for i := range w {
		binary.LittleEndian.PutUint32(cv[4*i:], w[i])
	}
}
