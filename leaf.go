// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"slices"
	"sync/atomic"
)

// Notes on how bytes become leaves
//
// Requests come in any order, on several threads, overlap and are not
// aligned. A leaf is in one of three states: unknown, taken (some thread is
// hashing it) or known. The leaves of a request that are unknown are taken
// under the lock, hashed in the caller's buffer without it, and become known
// under the lock, so that a byte is hashed once and in parallel with others.
// The first and last bytes of a request that are a part of a leaf only are
// copied to a buffer, until the leaf is whole.
//
// Those of small requests are hashed together with others (stage.go), and are in tiles
// until these are whole (tile.go).
//
// A thread's claim tells which leaves it has taken. forget marks a claim that
// it overlaps as void, and the thread drops what it has hashed.

// tree computes one tree digest of an image.
type tree struct {
	spec   *treeSpec
	size   int64   // bytes of the image
	memory *budget // of parts
	limit  int64   // bytes of nodes above which fragments are not kept
	sink   sink    // may be nil

	mu      mutex              // guards all below
	taken   extents            // leaves that are taken or known, but for those in tiles
	pending int64              // leaves that are taken
	nodes   nodes              // of the known leaves
	single  []byte             // the digest, of an image of one leaf
	claims  []*claim           // those in force, and void ones in use
	parts   map[int64]*partial // by the index of the leaf
	outer   *outer             // nil if the spec has none

	overwritten bool // somebody has written

	children, merged []byte // scratch of putMerged

	hasHoles atomic.Bool  // nodes.holes is not empty
	ready    atomic.Int64 // bytes that are known, in whole leaves
	covered  atomic.Int64 // the same with those that are being hashed

	// partBytes are those in parts. They are given up after they are covered, so that
	// who has no lock never takes for left what is not.
	partBytes atomic.Int64

	stages stages

	spareClaims []*claim
	spareParts  []*partial
}

func newTree(spec *treeSpec, size int64, memory *budget, limit int64) *tree {
	t := &tree{
		spec:   spec,
		size:   size,
		memory: memory,
		limit:  limit,
		nodes:  newNodes(spec, spec.leaves(size)),
		parts:  make(map[int64]*partial),
	}
	if spec.outer != nil {
		t.outer = newOuter(spec)
	}
	if t.nodes.tiles.cells > 0 {
		t.children = make([]byte, spec.cvSize<<spec.arityBits)
		t.merged = make([]byte, spec.cvSize)
	}
	if size == 0 {
		t.hash(t.take(0, 1, true), nil)
	}
	return t
}

// writableNode is the most that a small overwrite makes unknown, in bytes.
const writableNode = 1 << 20

// setWritable prepares the tree for overwrites: nodes that cover more than
// writableNode do not form, unless there is no memory for smaller ones.
func (t *tree) setWritable() {
	t.mu.Lock()
	defer t.mu.Unlock()
	// Before there is no room for what is a little out of order.
	t.nodes.limit = t.limit - t.limit/4
	for t.nodes.maxLevel > 0 && t.spec.span(t.nodes.maxLevel) > writableNode/t.spec.leafSize {
		t.nodes.maxLevel--
	}
	if t.outer != nil {
		t.outer.limit = t.nodes.limit
	}
}

// add takes the bytes of the image from offset on. Unless needed is set, they
// may not be kept if there is no memory left for one more fragment.
func (t *tree) add(offset int64, p []byte, needed bool) {
	leaf := t.spec.leafSize
	if head := offset % leaf; head != 0 {
		n := min(int64(len(p)), leaf-head)
		t.addPart(offset, p[:n], needed)
		offset, p = offset+n, p[n:]
	}
	first := offset / leaf
	end := first + int64(len(p))/leaf
	tail := int64(len(p)) % leaf
	if tail > 0 && offset+int64(len(p)) == t.size {
		end, tail = end+1, 0
	}
	for lo := first; lo < end; {
		c := t.take(lo, end, needed)
		if c == nil {
			break
		}
		lo = c.hi
		t.hash(c, p[(c.lo-first)*leaf:min(int64(len(p)), (c.hi-first)*leaf)])
	}
	if tail > 0 {
		t.addPart(end*leaf, p[int64(len(p))-tail:], needed)
	}
	if t.hasHoles.Load() {
		t.cutHole(first - 1)
		t.cutHole(end)
	}
	t.fold()
}

// take claims the first unknown leaves within [lo, hi). It returns nil if
// there are none, or if there is no memory for them.
func (t *tree) take(lo, hi int64, needed bool) *claim {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.takeLocked(lo, hi, needed)
}

func (t *tree) takeLocked(lo, hi int64, needed bool) *claim {
	lo, hi = t.missing(lo, hi)
	if lo == hi || !needed && !t.isRoomFor(lo, hi) {
		return nil
	}
	tile := t.tileFor(lo, hi)
	if tile != nil {
		t.takeCell(tile, lo)
	} else {
		t.dissolveIn(lo, hi)
		t.taken.add(lo, hi)
	}
	c := t.newClaim(lo, hi)
	c.tile = tile
	t.dropParts(lo, hi)
	return c
}

// missing returns the first leaves within [lo, hi) that are neither taken nor known.
func (t *tree) missing(lo, hi int64) (int64, int64) {
	for {
		a, b := t.taken.missing(lo, hi)
		if t.nodes.tiles.list.count == 0 {
			return a, b
		}
		if x, y := t.nodes.tiles.missing(a, b); x < y || b == hi {
			return x, y
		}
		lo = b
	}
}

// covers tells whether all of [lo, hi) is taken or known.
func (t *tree) covers(lo, hi int64) bool {
	lo, hi = t.missing(lo, hi)
	return lo == hi
}

// total returns how many leaves are taken or known.
func (t *tree) total() int64 { return t.taken.total + t.nodes.tiles.total }

// isRoomFor tells whether there is memory for leaves that are unknown. Those beside
// others add no fragment, but what they are merged with may be far, or nothing, as
// below an outer hash. So the last of the memory is for what is soon merged: leaves
// near the first unknown one, which a copy needs that is not quite in order.
func (t *tree) isRoomFor(lo, hi int64) bool {
	if !t.isFull() {
		return true
	}
	share := t.limit / 16
	used := t.listed()
	if used <= t.limit-share && (t.covers(lo-1, lo) || t.covers(hi, hi+1)) {
		return true
	}
	const perLeaf = 64 // of the lists, if nothing is beside it
	first, _ := t.missing(0, t.nodes.n)
	return lo == first || used <= t.limit && hi-first <= share/int64(t.spec.cvSize+perLeaf)
}

// listed returns how many bytes the lists of nodes and leaves take.
func (t *tree) listed() int64 { return t.nodes.memory() + t.taken.ends.memory() }

// isFull tells whether there is no memory for leaves here and there.
func (t *tree) isFull() bool { return t.listed() > t.limit-t.limit/8 }

// isCrowded tells whether there is none for a zero range of its own.
func (t *tree) isCrowded() bool {
	return t.isFull() || t.nodes.zero.ends.memory() > t.limit/zeroShare
}

// count notes how much is known, for those who ask without the lock.
func (t *tree) count() {
	total := t.total()
	t.ready.Store(t.bytesOf(total - t.pending))
	t.covered.Store(t.bytesOf(total))
}

func (t *tree) bytesOf(leaves int64) int64 {
	if leaves < t.nodes.n {
		return min(t.size, leaves*t.spec.leafSize)
	}
	return t.size
}

// forget makes the bytes [lo, hi) unknown, and with them the rest of the
// nodes that they are in.
func (t *tree) forget(lo, hi int64) {
	if lo >= hi {
		return
	}
	leaf := t.spec.leafSize
	t.mu.Lock()
	defer t.mu.Unlock()
	t.overwritten = true
	first, end := lo/leaf, min(t.nodes.n, (hi-1)/leaf+1)
	if t.isCrowded() {
		end = t.nodes.endOfHole(first, end)
	}
	t.stages.void(first, end)
	t.forgetCells(first, end)
	for _, c := range t.claims {
		if c.lo < end && first < c.hi || c.carryLo < end && first < c.carryHi {
			c.void = true
		}
	}
	t.nodes.forget(first, end, t.taken.remove)
	if t.outer != nil {
		t.lose(0, t.outer.forget(first))
	}
	t.hasHoles.Store(t.nodes.holes.total > 0)
	if t.single != nil {
		t.single = nil
		t.taken.clear()
	}
	t.count()
	t.forgetParts(lo, hi)
}

// unknown returns the first range within [lo, hi) that is still to be added.
func (t *tree) unknown(lo, hi int64) (int64, int64) {
	t.flush()
	leaf := t.spec.leafSize
	t.mu.Lock()
	defer t.mu.Unlock()
	for lo < hi {
		a, b := t.missing(lo/leaf, min(t.nodes.n, (hi-1)/leaf+1))
		if a == b {
			break
		}
		from, to := max(lo, a*leaf), hi
		if b < t.nodes.n {
			to = min(hi, b*leaf)
		}
		// Of the first leaf, a part may be there.
		part := t.parts[from/leaf]
		if part == nil {
			// Nor is the next partial leaf known to be whole: it ends the range.
			return from, to
		}
		base := from / leaf * leaf
		x, y := part.have.missing(from-base, min(to-base, int64(len(part.buf))))
		if x < y {
			return base + x, base + y
		}
		lo = base + int64(len(part.buf))
	}
	return hi, hi
}

// known returns how many bytes were added, whole leaves only.
func (t *tree) known() int64 { return t.ready.Load() }

// left returns how many bytes are still to be added.
func (t *tree) left() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	left := t.size - t.bytesOf(t.total())
	for _, part := range t.parts {
		left -= part.have.total
	}
	return left
}

// isCovered tells whether all bytes are known, or being hashed.
func (t *tree) isCovered() bool {
	if t.covered.Load() < t.size {
		return false // as nearly always, without the lock
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.total() == t.nodes.n
}

// isHashing tells, when nothing is unknown, whether a thread is about to make leaves
// known, or nodes of them. A leaf that is not taken then is one that a thread copies
// the last bytes of.
func (t *tree) isHashing() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.claims) > 0 || t.stages.bytes.Load() > 0 || t.total() < t.nodes.n || t.outer != nil && !t.outer.isReady(t.nodes.n)
}

// complete tells whether all bytes are known.
func (t *tree) complete() bool {
	if t.known() < t.size {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.completeLocked()
}

func (t *tree) completeLocked() bool {
	return t.total() == t.nodes.n && t.pending == 0 && len(t.claims) == 0 &&
		(t.outer != nil && t.outer.isReady(t.nodes.n) || t.outer == nil && t.nodes.holes.total == 0)
}

// dropSpare gives up buffers that are kept for the next request.
func (t *tree) dropSpare() {
	t.flush()
	t.stages.drop(t.memory)
	t.mu.Lock()
	defer t.mu.Unlock()
	spare := int64(len(t.spareParts)) * t.partCost()
	t.memory.spareParts.Add(-spare)
	t.memory.give(spare)
	t.spareClaims, t.spareParts = nil, nil
	t.nodes.dropFree()
}

// sum returns the digest of the image, or nil if it is not complete.
func (t *tree) sum() (sum []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case !t.completeLocked():
		return nil
	case t.outer != nil:
		return t.outer.sum(&t.nodes, t.size)
	case t.nodes.n == 1:
		sum = slices.Clone(t.single)
	default:
		sum = t.nodes.sum()
	}
	if t.spec.seal != nil {
		t.spec.seal(sum, t.size)
	}
	return sum
}
