// SPDX-License-Identifier: BSD-3-Clause

package main

import "slices"

// How the leaves that a thread has claimed become nodes: leaf.go has the design.

// A claim is the right to hash the leaves [lo, hi), and to replace the known
// nodes of [carryLo, carryHi) by their parent.
type claim struct {
	lo, hi           int64
	carryLo, carryHi int64
	void             bool
	tile             *tile  // of which the leaves are a cell, or nil
	children, merged []byte // scratch
	cvs              []byte // scratch, of those whose leaves are not on a stage
}

// A sink is told of the nodes of a tree as they complete: count = len(cvs) /
// cvSize of one level, side by side, of which first is the first leaf. It is
// told of inner nodes that were hashed in one step only as a whole, of holes
// by the nodes that they are cut into, and once more of what was forgotten and
// read again. It is called by several threads at once.
type sink interface {
	completed(level int, first int64, cvs []byte)
}

// newClaim makes a claim for leaves that are taken.
func (t *tree) newClaim(lo, hi int64) (c *claim) {
	t.pending += hi - lo
	if n := len(t.spareClaims); n > 0 {
		c = t.spareClaims[n-1]
		t.spareClaims = t.spareClaims[:n-1]
	} else {
		c = &claim{
			children: make([]byte, t.spec.cvSize<<t.spec.arityBits),
			merged:   make([]byte, t.spec.cvSize),
		}
	}
	c.lo, c.hi, c.carryLo, c.carryHi, c.void, c.tile = lo, hi, 0, 0, false, nil
	t.claims = append(t.claims, c)
	t.count()
	return c
}

// drop ends a claim. Leaves that it has not hashed are unknown again.
func (t *tree) drop(c *claim) {
	if c.lo < c.hi && t.nodes.tiles.isIn(c) {
		t.loseCell(c)
	} else {
		t.lose(c.lo, c.hi)
	}
	t.lose(c.carryLo, c.carryHi)
	t.pending -= c.hi - c.lo
	i := slices.Index(t.claims, c)
	t.claims = slices.Delete(t.claims, i, i+1)
	t.spareClaims = append(t.spareClaims, c)
	t.count()
}

// lose makes leaves of a claim unknown, except for those that are zero.
func (t *tree) lose(lo, hi int64) {
	if lo == hi {
		return
	}
	t.taken.remove(lo, hi)
	for a, b := range t.nodes.zero.within(lo, hi) {
		t.taken.add(a, b)
		t.nodes.holes.add(a, b)
		t.hasHoles.Store(true)
	}
}

// hash makes the leaves of a claim known; data are their bytes.
func (t *tree) hash(c *claim, data []byte) {
	s := t.spec
	t.makeRoom(c)
	switch {
	case t.isSingle():
		s.hashSingle(c.cvs[:s.cvSize], data)
		t.storeSingle(c)
		return
	case s.subtree == nil:
		t.hashLeaves(c, data)
		return
	}
	for lo, hi := c.lo, c.hi; lo < hi; {
		level := t.largest(lo, hi, t.nodes.maxLevel)
		span := s.span(level)
		count := t.siblings(lo, hi, level)
		cvs := c.cvs[:int(count)*s.cvSize]
		for i := range int(count) {
			part := data[:min(int64(len(data)), span*s.leafSize)]
			s.subtree(cvs[i*s.cvSize:][:s.cvSize], part, lo+int64(i)*span)
			data = data[len(part):]
		}
		if !t.commit(c, level, lo, cvs) {
			return
		}
		lo += count * span
	}
}

// makeRoom gives a claim room for chaining values.
func (t *tree) makeRoom(c *claim) {
	if c.cvs == nil {
		c.cvs = make([]byte, t.spec.cvSize<<t.nodes.pageBits())
	}
}

// hashLeaves is hash for trees that hash leaf by leaf.
func (t *tree) hashLeaves(c *claim, data []byte) {
	s := t.spec
	for lo, hi := c.lo, c.hi; lo < hi; {
		level, count := t.largest(lo, hi, t.scratchLevel()), int64(1)
		if level == 0 {
			count = t.siblings(lo, hi, 0)
		}
		next := lo + count*s.span(level)
		cvs := c.cvs[:int(next-lo)*s.cvSize]
		for i := lo; i < next; {
			count, zero := s.untilZero(data, next-i)
			cv := cvs[int(i-lo)*s.cvSize:]
			length := min(int64(len(data)), count*s.leafSize)
			s.hashSome(cv[:int(count)*s.cvSize], data[:length])
			i, data = i+count, data[length:]
			if zero {
				s.zero(cv[int(count)*s.cvSize:][:s.cvSize], 0, i)
				i, data = i+1, data[s.leafSize:]
			}
		}
		for range level {
			cvs = s.reduce(cvs, c.merged)
		}
		if !t.commit(c, level, lo, cvs) {
			return
		}
		lo = next
	}
}

// untilZero returns how many leaves, at most most of them, come before the first
// one that is whole and zero, and whether there is such a one.
func (s *treeSpec) untilZero(data []byte, most int64) (count int64, zero bool) {
	for ; count < most; count++ {
		if int64(len(data)) >= s.leafSize && isZero(data[:s.leafSize]) {
			return count, true
		}
		data = data[min(int64(len(data)), s.leafSize):]
	}
	return count, false
}

// hashSome hashes leaves, the last of which may be short, and gives way now and
// then.
func (s *treeSpec) hashSome(cvs, data []byte) {
	count := max(lanes, atATime/s.leafSize)
	for int64(len(data)) > count*s.leafSize {
		s.hashPiece(cvs[:int(count)*s.cvSize], data[:count*s.leafSize])
		cvs, data = cvs[int(count)*s.cvSize:], data[count*s.leafSize:]
		giveWay()
	}
	s.hashPiece(cvs, data)
}

func (s *treeSpec) hashPiece(cvs, data []byte) {
	if s.many != nil {
		done := s.many(cvs, data)
		cvs, data = cvs[done*s.cvSize:], data[done*int(s.leafSize):]
	}
	for len(cvs) > 0 {
		part := data[:min(int64(len(data)), s.leafSize)]
		s.leaf(cvs[:s.cvSize], part)
		cvs, data = cvs[s.cvSize:], data[len(part):]
	}
}

// scratchLevel is the highest level of which a thread hashes a node by itself,
// leaf by leaf.
func (t *tree) scratchLevel() (level int) {
	if t.sink != nil || t.spec.arityBits == 0 {
		return 0 // it is told of each leaf
	}
	return min(t.nodes.maxLevel, t.nodes.pageBits()/t.spec.arityBits)
}

// reduce replaces nodes by their parents, in place. All parents have all
// their children.
func (s *treeSpec) reduce(cvs, scratch []byte) []byte {
	if s.parents != nil {
		s.parents(cvs)
		return cvs[:len(cvs)>>s.arityBits]
	}
	group := s.cvSize << s.arityBits
	for i := range len(cvs) / group {
		s.parent(scratch, cvs[i*group:][:group])
		copy(cvs[i*s.cvSize:], scratch)
	}
	return cvs[:len(cvs)>>s.arityBits]
}

// isSingle tells whether the image is one leaf, which is hashed in its own
// way.
func (t *tree) isSingle() bool { return t.nodes.n == 1 && t.outer == nil }

// hashSingle hashes an image of at most one leaf.
func (s *treeSpec) hashSingle(cv, data []byte) {
	if s.single != nil {
		s.single(cv, data)
	} else {
		s.leaf(cv, data)
	}
}

// largest returns the level of the largest node, at most maxLevel, that
// begins at lo and ends before hi.
func (t *tree) largest(lo, hi int64, maxLevel int) (level int) {
	for level < maxLevel && lo&(t.spec.span(level+1)-1) == 0 && t.spec.span(level+1) <= hi-lo {
		level++
	}
	return level
}

// siblings returns how many nodes of a level begin at lo and end before hi:
// those of one parent, or of leaves, a page.
func (t *tree) siblings(lo, hi int64, level int) int64 {
	group := int64(1) << t.spec.arityBits
	if level == 0 {
		group = 1 << t.nodes.pageBits()
	}
	span := t.spec.span(level)
	return min((hi-lo)/span, group-lo/span&(group-1))
}

// commit stores nodes of one level that a claim has hashed, and merges them
// with known ones. It tells whether the claim still holds.
func (t *tree) commit(c *claim, level int, first int64, cvs []byte) bool {
	s := t.spec
	next := first + int64(len(cvs)/s.cvSize)*s.span(level)
	// The nodes of one parent at a time.
	for first < next {
		end := next
		if group := s.span(level) << s.arityBits; s.arityBits > 0 {
			end = min(next, first&^(group-1)+group)
		}
		part := cvs[:int((end-first)/s.span(level))*s.cvSize]
		cvs = cvs[len(part):]
		if !t.commitGroup(c, level, first, end, part) {
			return false
		}
		first = end
	}
	return true
}

// commitGroup is commit for nodes of one parent, which cover [first, next).
func (t *tree) commitGroup(c *claim, level int, first, next int64, cvs []byte) bool {
	merge, ok := t.store(c, level, first, next, cvs)
	for merge {
		cv := c.merged[:t.spec.cvSize]
		t.spec.parent(cv, c.children)
		level++
		merge, ok = t.store(c, level, c.carryLo, next, cv)
	}
	return ok
}

// store puts nodes, and takes out their parent's children if all are known:
// then merge is true, and they are in c.children. It ends the claim when
// there is nothing left to hash, or when it does not hold any more.
func (t *tree) store(c *claim, level int, first, next int64, cvs []byte) (merge, ok bool) {
	if t.sink != nil {
		t.sink.completed(level, first, cvs)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.storeLocked(c, level, first, next, cvs)
}

// storeLocked is store for nodes that the sink knows of.
func (t *tree) storeLocked(c *claim, level int, first, next int64, cvs []byte) (merge, ok bool) {
	if c.void {
		t.drop(c)
		return false, false
	}
	if t.nodes.tiles.isIn(c) {
		t.storeCell(c, cvs)
		return false, true
	}
	t.nodes.put(level, first, cvs)
	t.pending -= next - c.lo
	t.count()
	c.lo, c.carryLo, c.carryHi = next, 0, 0
	parent, merge := t.nodes.takeGroup(c.children, level, first)
	if merge {
		c.carryLo, c.carryHi = parent, parent+t.spec.span(level+1)
	} else if c.lo == c.hi {
		t.drop(c)
	}
	return merge, true
}

func (t *tree) storeSingle(c *claim) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !c.void {
		t.pending--
		c.lo = c.hi
		t.single = slices.Clone(c.cvs[:t.spec.cvSize])
	}
	t.drop(c)
}
