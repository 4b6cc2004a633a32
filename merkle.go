// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// Notes on the design of tree digests
//
// An image is cut into leaves of equal size, the last one may be short. A
// node covers arity^level leaves, aligned to that number, and has a chaining
// value; level 0 are the leaves. All formats have this in common and differ
// in a few numbers and functions, which a treeSpec holds. The specs are below,
// BLAKE3's is in blake3.go.
//
// Only maximal complete nodes are kept: as soon as all children of a node
// are known, it takes their place (nodes.go), or, if they came with small requests,
// a little later (tile.go). So an image that is read in
// order needs O(arity * log n) chaining values at any time, and one that is
// read in another order as many as it has fragments. The node of the whole
// tree never forms: its last step (BLAKE3's ROOT flag, a descriptor) is not
// that of other nodes, and sum does it.
//
// At the right edge a node may have fewer children than its arity. These
// are not merged before sum, either.

// A treeSpec says how one format of hash tree is computed. The functions
// write their result to their first argument, which has cvSize bytes, or as many
// for each leaf.
type treeSpec struct {
	leafSize  int64 // bytes
	arityBits int   // log₂ of the number of children of a node
	cvSize    int   // bytes of a chaining value, and of the digest

	// leaf hashes one leaf, of at most leafSize bytes.
	leaf func(cv, data []byte)
	// many, if not nil, hashes several leaves faster than leaf would.
	many manyLeaves
	// subtree, if not nil, hashes a whole node at once: data is leafSize <<
	// (arityBits * level) bytes, or a shorter last leaf; first is the index of
	// its first leaf.
	subtree func(cv, data []byte, first int64)
	// together, if not nil, hashes leaves that lie one behind the other in data, but
	// anywhere in the image: index has the place of each. It is faster than one
	// by one.
	together func(cvs, data []byte, index []int64)
	// parent hashes a node's children, in order; all but the last node of a
	// level have the full number.
	parent func(cv, children []byte)
	// parents, if not nil, does so for several nodes, in place of their
	// children, faster than parent would.
	parents func(cvs []byte)
	// top, if not nil, takes parent's place for the node of the whole tree.
	top func(cv, children []byte)
	// single, if not nil, takes leaf's place for an image of at most one leaf.
	single func(cv, data []byte)
	// seal, if not nil, turns the root of an image of size bytes into its
	// digest, in place.
	seal func(cv []byte, size int64)
	// promote: a node that is the only child of its parent is passed up as
	// it is, instead of being hashed once more.
	promote bool

	// outer, if not nil, is the hash over all leaves' chaining values, in
	// order, instead of a tree above them (outer.go).
	outer *hashFunc
	// outerZeros are foldZeros chaining values of zeros.
	outerZeros []byte

	// zero returns the chaining value of a node of zeros.
	zero func(cv []byte, level int, first int64)
	// zeroCost returns how many bytes zero would have to hash. If nil, none.
	zeroCost func(level int, first int64) int64
}

// leaves returns how many leaves an image of size bytes has, at least one.
func (s *treeSpec) leaves(size int64) int64 {
	return max(1, size/s.leafSize+min(1, size%s.leafSize))
}

// span returns the number of leaves below a node.
func (s *treeSpec) span(level int) int64 { return 1 << (s.arityBits * level) }

// levels returns the level of the node that covers n leaves.
func (s *treeSpec) levels(n int64) int {
	if s.arityBits == 0 {
		return 1
	}
	log := bits.Len64(uint64(n - 1))
	return (log + s.arityBits - 1) / s.arityBits
}

// maxLevels is more than the levels of any tree of 2^63 bytes.
const maxLevels = 64

// sameEverywhere completes a spec whose nodes do not depend on their place:
// all nodes of zeros of one level have one chaining value.
func (s *treeSpec) sameEverywhere() *treeSpec {
	cvs := make([][]byte, 0, maxLevels)
	cv := make([]byte, s.cvSize)
	s.leaf(cv, make([]byte, s.leafSize))
	cvs = append(cvs, cv)
	for level := 1; s.parent != nil && level <= s.levels(s.leaves(1<<63-1)); level++ {
		children := bytes.Repeat(cvs[level-1], 1<<s.arityBits)
		cv := make([]byte, s.cvSize)
		s.parent(cv, children)
		cvs = append(cvs, cv)
	}
	s.zero = func(cv []byte, level int, first int64) { copy(cv, cvs[level]) }
	if s.many != nil {
		s.together = func(cvs, data []byte, index []int64) { s.hashSome(cvs, data) }
	}
	return s
}

// merkleSpec is the Merkle Tree Hash of RFC 9162, section 2.1.1, over blocks:
//
//	MTH({d}) = H(0x00 || d)
//	MTH(D[n]) = H(0x01 || MTH(D[0:k]) || MTH(D[k:n])), k = maxpow2 < n
//	MTH({}) = H()
func merkleSpec(h *hashFunc, size int64, salt []byte) *treeSpec {
	leafPrefix, nodePrefix := []byte{0}, []byte{1}
	s := &treeSpec{
		leafSize:  size,
		arityBits: 1,
		cvSize:    h.size,
		promote:   true,
		leaf:      func(cv, data []byte) { h.sum(cv, leafPrefix, data, nil) },
		many:      h.many(leafPrefix, size),
		parent:    func(cv, children []byte) { h.sum(cv, nodePrefix, children, nil) },
		single: func(cv, data []byte) {
			if len(data) == 0 {
				h.sum(cv, nil, nil, nil)
			} else {
				h.sum(cv, leafPrefix, data, nil)
			}
		},
	}
	return s.sameEverywhere()
}

// fsveritySpec is the file digest of fs-verity: Linux,
// Documentation/filesystems/fsverity.rst. The salt is padded to the hash's own
// block.
func fsveritySpec(h *hashFunc, size int64, salt []byte) *treeSpec {
	prefix := make([]byte, (len(salt)+h.block-1)/h.block*h.block)
	copy(prefix, salt)
	s := verityTree(h, size, prefix)
	s.single = func(cv, data []byte) {
		if len(data) == 0 {
			clear(cv)
		} else {
			s.leaf(cv, data)
		}
	}
	s.seal = func(root []byte, imageSize int64) {
		// struct fsverity_descriptor
		d := make([]byte, 256)
		d[0] = 1 // version
		d[1] = map[string]byte{"sha256": 1, "sha512": 2}[h.name]
		d[2] = byte(bits.Len64(uint64(size)) - 1)
		d[3] = byte(len(salt))
		binary.LittleEndian.PutUint64(d[8:], uint64(imageSize))
		copy(d[16:80], root)
		copy(d[80:112], salt)
		h.sum(root, nil, d, nil)
	}
	return s.sameEverywhere()
}

// verityTree is what fs-verity and dm-verity share: a block of data, or of
// digests, is hashed behind a prefix, and what is short of a block is padded
// with zeros.
func verityTree(h *hashFunc, size int64, prefix []byte) *treeSpec {
	padding := make([]byte, size)
	hashBlock := func(cv, data []byte) { h.sum(cv, prefix, data, padding[len(data):]) }
	return &treeSpec{
		leafSize:  size,
		arityBits: bits.Len64(uint64(size)/uint64(h.size)) - 1,
		cvSize:    h.size,
		leaf:      hashBlock,
		many:      h.many(prefix, size),
		parent:    hashBlock,
	}
}

// dmveritySpec is the root hash of dm-verity, format 1: Linux,
// Documentation/admin-guide/device-mapper/verity.rst. Digests stand at multiples
// of a power of two.
func dmveritySpec(h *hashFunc, size int64, salt []byte) *treeSpec {
	// The hashes that are offered have such a length already.
	if bits.OnesCount(uint(h.size)) != 1 {
		panic("dmverity with " + h.name)
	}
	return verityTree(h, size, salt).sameEverywhere()
}

// blkhashSpec is the digest of blksum and nbdcopy --blkhash:
//
//	H(H(block 0) || H(block 1) || … || le64(size))
func blkhashSpec(h *hashFunc, size int64, salt []byte) *treeSpec {
	s := &treeSpec{
		leafSize: size,
		cvSize:   h.size,
		leaf:     func(cv, data []byte) { h.sum(cv, nil, data, nil) },
		many:     h.many(nil, size),
		outer:    h,
	}
	s.sameEverywhere()
	cv := make([]byte, s.cvSize)
	s.zero(cv, 0, 0)
	s.outerZeros = bytes.Repeat(cv, foldZeros)
	return s
}
