// SPDX-License-Identifier: BSD-3-Clause

package main

import "bytes"

// Notes on zeros
//
// Leaves that are known to be zero, because the layer below says so or a
// client zeroed them, cost no hashing one by one. They are kept as a hole
// until both its ends are known, and are then cut into the largest nodes that
// fit, of which the spec knows the chaining values. What would cost more is
// left for the end, when nobody waits.
//
// When somebody writes, all holes are, as long as there is memory for what is not
// merged. If the zeros beside a write made a node with it, the next write there would
// make unknown what the first one has brought.

const (
	// copyCost is how many bytes may be hashed for a hole during a copy.
	copyCost = 64 << 20
	// lastCost is the same when all else is known, and a client may wait
	// for the digest.
	lastCost = 64 << 30
	// zeroShare bounds the part of a tree's memory that the list of its zero leaves
	// takes: without it, what is forgotten is read again.
	zeroShare = 4
)

// isZero tells whether all bytes are zero. Most data says no at once.
func isZero(p []byte) bool {
	for len(p) > 0 {
		n := min(len(p), len(zeroes))
		if p[0] != 0 || !bytes.Equal(p[:n], zeroes[:n]) {
			return false
		}
		p = p[n:]
	}
	return true
}

// addZero takes a range of bytes that are zero. Needed is as in add.
func (t *tree) addZero(lo, hi int64, needed bool) {
	leaf := t.spec.leafSize
	first, end := lo/leaf+min(1, lo%leaf), hi/leaf // rounded up without lo+leaf, which could be above 2^63
	if first >= end || t.isSingle() {
		t.addZeroData(lo, hi, needed)
		return
	}
	t.addZeroData(lo, first*leaf, needed)
	t.addHole(first, end, needed)
	t.addZeroData(end*leaf, hi, needed)
	t.cutHole(first)
	t.cutHole(first - 1)
	t.cutHole(end)
	t.fold()
}

// addZeroData takes zeros like any other bytes.
func (t *tree) addZeroData(lo, hi int64, needed bool) {
	for lo < hi {
		n := min(hi-lo, int64(len(zeroes)))
		t.add(lo, zeroes[:n], needed)
		lo += n
	}
}

// addHole adds those of the leaves that are unknown. Needed is as in add: a map of
// an image can have any number of holes.
func (t *tree) addHole(lo, hi int64, needed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for lo < hi {
		a, b := t.missing(lo, hi)
		if a < b && (needed || t.isRoomFor(a, b)) {
			t.dissolveIn(a, b)
			t.taken.add(a, b)
			t.nodes.holes.add(a, b)
			if !t.isCrowded() || t.nodes.zero.touches(a, b) {
				t.nodes.zero.add(a, b)
			}
			t.hasHoles.Store(true)
			t.count()
			t.dropParts(a, b)
		}
		lo = b
	}
}

// cutHole makes nodes of the hole that a leaf is in, if it cannot grow any
// more and that costs little.
func (t *tree) cutHole(leaf int64) {
	if t.outer != nil {
		return
	}
	if c := t.takeHole(leaf); c != nil {
		t.hashHole(c)
	}
}

// takeHole claims the hole that a leaf is in, unless it is left for the end.
func (t *tree) takeHole(leaf int64) *claim {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.overwritten && !t.isCrowded() {
		return nil
	}
	lo, hi, closed := t.nodes.closedHole(leaf)
	if !closed || t.holeCost(lo, hi, copyCost) > copyCost {
		return nil
	}
	return t.claimHole(lo, hi)
}

func (t *tree) claimHole(lo, hi int64) *claim {
	t.nodes.holes.remove(lo, hi)
	t.hasHoles.Store(t.nodes.holes.total > 0)
	return t.newClaim(lo, hi)
}

// holeCost returns how many bytes are hashed for a hole, or some number above
// limit.
func (t *tree) holeCost(lo, hi, limit int64) (cost int64) {
	if t.spec.zeroCost == nil {
		return 0
	}
	for lo < hi && cost <= limit {
		level := t.largest(lo, hi, t.height()-1)
		cost += t.spec.zeroCost(level, lo)
		lo += t.spec.span(level)
	}
	return cost
}

func (t *tree) height() int { return t.spec.levels(t.nodes.n) }

// hashHole makes nodes of the leaves of a claim, which are zero. They may be
// larger than nodes of data, of which a writable image keeps small ones: what
// is forgotten of them leaves holes.
func (t *tree) hashHole(c *claim) {
	s := t.spec
	t.makeRoom(c)
	for lo, hi := c.lo, c.hi; lo < hi; {
		level := t.largest(lo, hi, t.height()-1)
		count := t.siblings(lo, hi, level)
		cvs := c.cvs[:int(count)*s.cvSize]
		for i := range int(count) {
			s.zero(cvs[i*s.cvSize:][:s.cvSize], level, lo+int64(i)*s.span(level))
		}
		if !t.commit(c, level, lo, cvs) {
			return
		}
		lo += count * s.span(level)
	}
}

// cutHoles makes nodes of all holes that cost so many bytes at most, one by
// one, until interrupted returns true.
func (t *tree) cutHoles(cost int64, interrupted func() bool) {
	for t.outer == nil && !interrupted() {
		c := t.takeAnyHole(cost)
		if c == nil {
			return
		}
		t.hashHole(c)
	}
}

// holePiece is how much of a hole is claimed at a time when its cost has no
// bound, so that a signal is heeded.
const holePiece = 1 << 30

// takeAnyHole claims the first hole, or if cost is below zero the first piece
// of it, whatever that costs.
func (t *tree) takeAnyHole(cost int64) *claim {
	t.mu.Lock()
	defer t.mu.Unlock()
	for lo, hi := range t.nodes.holes.within(0, t.nodes.n) {
		if cost < 0 && t.holeCost(lo, hi, lastCost) > lastCost {
			piece := holePiece / t.spec.leafSize
			hi = min(hi, lo-lo%piece+piece)
		} else if t.holeCost(lo, hi, cost) > cost && cost >= 0 {
			return nil
		}
		return t.claimHole(lo, hi)
	}
	return nil
}
