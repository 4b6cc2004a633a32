// SPDX-License-Identifier: BSD-3-Clause

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

func init() {
	if blake3Width > 0 {
		blake3Spec.together, blake3Spec.parents = blake3Chunks, blake3Parents
	}
}

func blake3Subtree(cv, data []byte, first int64) {
	putWords(cv, blake3CV(data, uint64(first)))
}

func blake3ParentCV(cv, children []byte) {
	putWords(cv, guts.ChainingValue(blake3Parent(children)))
}

// simdSize is what one call of guts hashes side by side.
const simdSize = guts.MaxSIMD * guts.ChunkSize

// blake3CV returns the chaining value of the node over data, which begins at a
// chunk.
func blake3CV(data []byte, chunk uint64) [8]uint32 {
	n := len(data)
	if blake3Width > 0 && n <= blake3MaxNode && n >= guts.ChunkSize && n&(n-1) == 0 {
		return blake3Lanes(data, chunk)
	}
	if n <= simdSize {
		return guts.ChainingValue(blake3Short(data, chunk))
	}
	half := blake3Split(n)
	left := blake3CV(data[:half], chunk)
	if half >= atATime {
		giveWay()
	}
	right := blake3CV(data[half:], chunk+uint64(half)/guts.ChunkSize)
	return guts.ChainingValue(guts.ParentNode(left, right, &guts.IV, 0))
}

// blake3Split returns how many of n bytes, more than a chunk, are in the left
// child of their node: the largest power of two below n.
func blake3Split(n int) int { return 1 << (bits.Len(uint(n-1)) - 1) }

// blake3Short returns the node over at most simdSize bytes, which begin at a
// chunk.
func blake3Short(data []byte, chunk uint64) guts.Node {
	switch {
	case len(data) <= guts.ChunkSize:
		return guts.CompressChunk(data, &guts.IV, chunk, 0)
	case cap(data) >= simdSize:
		// What lies behind data is read, but does not count.
		return guts.CompressBuffer((*[simdSize]byte)(data[:simdSize]), len(data), &guts.IV, chunk, 0)
	}
	var buf [simdSize]byte
	copy(buf[:], data)
	return guts.CompressBuffer(&buf, len(data), &guts.IV, chunk, 0)
}

// blake3Sum hashes a message of two parts: at most guts.ChunkSize bytes, and at
// least simdSize.
func blake3Sum(cv, prefix, data []byte) {
	root := blake3Message(prefix, data)
	root.Flags |= guts.FlagRoot
	putWords(cv, guts.ChainingValue(root))
}

// blake3Message returns the node over such a message.
func blake3Message(prefix, data []byte) guts.Node {
	n := len(prefix) + len(data)
	if n == simdSize {
		return blake3Short(data, 0)
	}
	left := blake3Split(n) - len(prefix)
	return guts.ParentNode(blake3Beginning(prefix, data[:left]),
		blake3CV(data[left:], uint64(len(prefix)+left)/guts.ChunkSize), &guts.IV, 0)
}

// blake3Beginning returns the chaining value of the first chunks of such a
// message, a power of two of them and at least simdSize bytes.
func blake3Beginning(prefix, data []byte) [8]uint32 {
	if len(prefix) == 0 {
		return blake3CV(data, 0)
	}
	cv := blake3FirstCV(prefix, data)
	// Nodes beside it, each as large as all before it.
	for size := simdSize; size < len(prefix)+len(data); size *= 2 {
		next := data[size-len(prefix):][:size]
		cv = guts.ChainingValue(guts.ParentNode(cv, blake3CV(next, uint64(size)/guts.ChunkSize), &guts.IV, 0))
	}
	return cv
}

// blake3FirstCV returns that of the first simdSize bytes, the only ones that have
// to be copied.
//
//go:noinline
func blake3FirstCV(prefix, data []byte) [8]uint32 {
	var buf [simdSize]byte
	copy(buf[copy(buf[:], prefix):], data)
	return blake3CV(buf[:], 0)
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
