// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	_ "embed"

	"lukechampine.com/blake3/guts"
)

// A BLAKE3 chaining value depends on the place of its chunks, so zeros cost as
// much as other data. The table has those of subtrees of zeros: small ones
// where most disks are, larger ones behind. To make it takes half an hour
// or so; a test recomputes some entries.
//
//go:generate go run blake3_zeros_gen.go blake3_zeros_table.go

//go:embed blake3_zeros.bin
var blake3Zeros []byte

// blake3ZeroStep returns the region of an offset, or false behind the last.
func blake3ZeroStep(offset int64) (r zeroRegion, ok bool) {
	for _, r := range zeroTable {
		if offset < r.end {
			return r, true
		}
	}
	return zeroRegion{}, false
}

// blake3ZeroEntry returns the chaining value of the subtree of zeros at
// offset, of the length that the table has there.
func blake3ZeroEntry(offset int64) []byte {
	index, start := int64(0), int64(0)
	for _, r := range zeroTable {
		if offset < r.end {
			index += (offset - start) / r.step
			return blake3Zeros[32*index:][:32]
		}
		index += (r.end - start) / r.step
		start = r.end
	}
	panic("offset behind the table")
}

// blake3Zero returns the chaining value of 1<<level chunks of zeros from chunk
// first on.
func blake3Zero(cv []byte, level int, first int64) {
	size := int64(guts.ChunkSize) << level
	r, ok := blake3ZeroStep(first * guts.ChunkSize)
	switch {
	case ok && size == r.step:
		copy(cv, blake3ZeroEntry(first*guts.ChunkSize))
	case blake3Width > 0 && size <= blake3MaxNode:
		blake3ZeroLanes(cv, size, first)
	case size <= int64(len(zeroes)):
		blake3Subtree(cv, zeroes[:size], first)
	default:
		var children [64]byte
		blake3Zero(children[:32], level-1, first)
		blake3Zero(children[32:], level-1, first+1<<(level-1))
		blake3ParentCV(cv, children[:])
	}
}

// blake3ZeroCost returns how many bytes blake3Zero hashes.
func blake3ZeroCost(level int, first int64) int64 {
	offset, size := first*guts.ChunkSize, int64(guts.ChunkSize)<<level
	r, ok := blake3ZeroStep(offset)
	if last, all := blake3ZeroStep(offset + size - 1); ok && all && size >= max(r.step, last.step) {
		return 0
	}
	return size
}
