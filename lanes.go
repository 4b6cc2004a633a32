// SPDX-License-Identifier: BSD-3-Clause

package main

/*
#include "lanes.h"

#cgo noescape sha256_set_prefix
#cgo noescape sha256_lanes
#cgo noescape sha256_pairs
#cgo noescape blake3_node
#cgo noescape blake3_zero_node
#cgo noescape blake3_chunks
#cgo noescape blake3_parents
#cgo nocallback sha256_set_prefix
#cgo nocallback sha256_lanes
#cgo nocallback sha256_pairs
#cgo nocallback blake3_node
#cgo nocallback blake3_zero_node
#cgo nocallback blake3_chunks
#cgo nocallback blake3_parents
*/
import "C"

import (
	"crypto/sha256"
	"unsafe"

	"lukechampine.com/blake3/guts"
)

// Leaves of a tree, several of them at a time: lanes.h has the design.

var (
	haveAVX512 = C.lanes_have_avx512() != 0
	haveSHA    = C.lanes_have_sha() != 0
)

// blake3Width is how many lanes BLAKE3 has, or 0 if the processor has none.
var blake3Width = func() int {
	switch {
	case haveAVX512:
		return 16
	case C.lanes_have_avx2() != 0:
		return 8
	}
	return 0
}()

// lanes is the most leaves that are hashed side by side.
const lanes = C.LANES

// A manyLeaves hashes leaves that lie one behind the other in data, and puts
// their chaining values to cvs. It may do so for some of them only, from the
// first on, and returns for how many.
type manyLeaves func(cvs, data []byte) int

// sha256Leaves returns a function for leaves of size bytes behind a prefix,
// or nil if the processor has nothing that is better than one at a time.
func sha256Leaves(prefix []byte, size int64) manyLeaves {
	if !haveAVX512 && !haveSHA {
		return nil
	}
	p := new(C.struct_sha256_prefix)
	var sha C.int
	if haveSHA {
		sha = 1
	}
	C.sha256_set_prefix(p, bytePointer(prefix), C.size_t(len(prefix)), sha)
	return func(cvs, data []byte) (done int) {
		count := len(data) / int(size)
		if n := count - count%C.LANES; haveAVX512 && n > 0 {
			C.sha256_lanes(p, bytePointer(data), C.size_t(size), C.size_t(n), bytePointer(cvs))
			done = n
		}
		if n := (count - done) &^ 1; haveSHA && n > 0 {
			C.sha256_pairs(p, bytePointer(data[done*int(size):]), C.size_t(size), C.size_t(n),
				bytePointer(cvs[done*sha256.Size:]))
			done += n
		}
		return done
	}
}

// blake3MaxNode is the size of the largest node that blake3Lanes takes, in
// bytes.
const blake3MaxNode = C.BLAKE3_NODE * guts.ChunkSize

// blake3Lanes returns the chaining value of a node of whole chunks, a power of
// two of them, of which chunk is the index of the first. It needs lanes.
func blake3Lanes(data []byte, chunk uint64) [8]uint32 {
	var cv [32]byte
	C.blake3_node(C.int(blake3Width), bytePointer(data), C.size_t(len(data)/guts.ChunkSize), C.uint64_t(chunk), bytePointer(cv[:]))
	return words(cv[:])
}

// blake3ZeroLanes puts the chaining value of a node of zeros to cv, of size
// bytes. It is blake3Lanes without what is done for the data.
func blake3ZeroLanes(cv []byte, size, chunk int64) {
	C.blake3_zero_node(C.int(blake3Width), C.size_t(size/guts.ChunkSize), C.uint64_t(chunk), bytePointer(cv))
}

// blake3Chunks puts the chaining values of whole chunks, which lie one behind the
// other in data, to cvs; index has the index of each. It needs lanes.
func blake3Chunks(cvs, data []byte, index []int64) {
	C.blake3_chunks(C.int(blake3Width), bytePointer(data), C.size_t(len(index)),
		(*C.uint64_t)(unsafe.Pointer(unsafe.SliceData(index))), bytePointer(cvs))
}

// blake3Parents puts the chaining values of parents in place of those of their
// children. It needs lanes.
func blake3Parents(cvs []byte) {
	C.blake3_parents(C.int(blake3Width), bytePointer(cvs), C.size_t(len(cvs)/(2*32)))
}

func bytePointer(p []byte) *C.uint8_t { return (*C.uint8_t)(unsafe.SliceData(p)) }
