// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"math/bits"
	"slices"
)

// Notes on the design of the node store
//
// nodes holds what is known of a tree: chaining values of maximal complete
// nodes, and holes. A hole is a range of leaves that are zero and of which no
// node was made yet: it may still grow, and to make nodes of every piece of it
// would cost more than all of it does once both its ends are known.
//
// It is a plain value: no lock, no hash state, no goroutine. It could be saved,
// loaded, and filled from another one of the same image.

// nodes are the maximal complete nodes of a tree of n leaves.
type nodes struct {
	spec *treeSpec
	n    int64

	// maxLevel bounds the nodes that form by merging: they are forgotten as
	// a whole, except for what is zero.
	maxLevel int
	// limit, if not 0, is how many bytes of memory make larger nodes form.
	limit int64

	holes extents // leaves
	zero  extents // leaves that are known to be zero, in holes or in nodes: the most that fit
	bytes int     // memory of the chaining values

	// Chaining values are packed in runs: nodes of one level, one behind the
	// other, by the first leaf. A run stays within one page of nodes, so that
	// children of one parent are always in one run.
	runs      ordered[run]
	tiles     tiles
	free      [maxPageBits + 1][][]byte // buffers of 1<<i chaining values
	freeBytes int
}

type run struct {
	level int
	cvs   []byte
}

// maxPageBits is that of dmverity with blocks of 512 KiB, the widest tree.
const maxPageBits = 14

// maxFree is how many bytes of buffers are kept to be used again.
const maxFree = 512 << 10

func newNodes(spec *treeSpec, n int64) nodes {
	return nodes{spec: spec, n: n, maxLevel: spec.levels(n) - 1, tiles: newTiles(spec)}
}

// pageBits is log₂ of the number of nodes that a run may hold.
func (t *nodes) pageBits() int { return max(t.spec.arityBits, 6) }

// runLen returns the number of nodes in r and of leaves below it.
func (t *nodes) runLen(r *run) (count, leaves int64) {
	count = int64(len(r.cvs) / t.spec.cvSize)
	return count, count * t.spec.span(r.level)
}

// put adds nodes of one level, of which first is the first leaf. None of
// their leaves may be in t yet.
func (t *nodes) put(level int, first int64, cvs []byte) {
	shift := t.spec.arityBits * level
	for len(cvs) > 0 {
		page := int64(1) << t.pageBits()
		room := page - first>>shift&(page-1)
		part := cvs[:min(len(cvs), int(room)*t.spec.cvSize)]
		cvs = cvs[len(part):]
		t.putInPage(level, first, part)
		first += int64(len(part)/t.spec.cvSize) << shift
	}
}

func (t *nodes) putInPage(level int, first int64, cvs []byte) {
	p, ok := t.runs.floor(first)
	if !ok || !t.continues(p, level, first) {
		p = t.runs.insertAfter(p, ok, first, run{level: level})
	}
	r := t.runs.val(p)
	t.extend(r, cvs)

	q, ok := t.runs.next(p)
	if !ok {
		return
	}
	if right := t.runs.val(q); right.level == level && t.continues(p, level, t.runs.key(q)) {
		t.extend(r, right.cvs)
		t.release(right.cvs)
		t.runs.remove(q)
	}
}

// continues tells whether a node of a level, which begins at a leaf, belongs behind
// the run at p.
func (t *nodes) continues(p place, level int, leaf int64) bool {
	r, start := t.runs.val(p), t.runs.key(p)
	_, leaves := t.runLen(r)
	page := t.spec.arityBits*level + t.pageBits()
	return r.level == level && start+leaves == leaf && start>>page == leaf>>page
}

// extend appends chaining values to a run, in a buffer of the right size.
func (t *nodes) extend(r *run, cvs []byte) {
	need := len(r.cvs) + len(cvs)
	if need > cap(r.cvs) {
		class := bits.Len(uint(need/t.spec.cvSize - 1))
		var buf []byte
		if free := t.free[class]; len(free) > 0 {
			buf = free[len(free)-1]
			t.free[class] = free[:len(free)-1]
			t.freeBytes -= cap(buf)
		} else {
			buf = make([]byte, 0, t.spec.cvSize<<class)
		}
		old := r.cvs
		r.cvs = append(buf, old...)
		t.bytes += cap(r.cvs)
		t.release(old)
	}
	r.cvs = append(r.cvs, cvs...)
}

// shrink moves what is left of a run to a smaller buffer, if most of its own is
// empty.
func (t *nodes) shrink(r *run) {
	if len(r.cvs)*4 > cap(r.cvs) {
		return
	}
	kept := *r
	r.cvs = nil
	t.extend(r, kept.cvs)
	t.release(kept.cvs)
}

// release keeps a buffer for the next run that grows.
func (t *nodes) release(buf []byte) {
	if cap(buf) == 0 {
		return
	}
	t.bytes -= cap(buf)
	class := bits.Len(uint(cap(buf)/t.spec.cvSize)) - 1
	if t.freeBytes+cap(buf) <= maxFree {
		t.freeBytes += cap(buf)
		t.free[class] = append(t.free[class], buf[:0])
	}
}

func (t *nodes) dropFree() {
	t.free = [maxPageBits + 1][][]byte{}
	t.freeBytes = 0
}

// takeGroup looks for the other children of the parent of the node that
// begins at first. If all are known, it moves them to children.
func (t *nodes) takeGroup(children []byte, level int, first int64) (parent int64, ok bool) {
	if level >= t.maxLevel && (t.limit == 0 || level >= t.spec.levels(t.n)-1 || t.memory() <= t.limit) {
		return 0, false
	}
	group := t.spec.span(level + 1)
	parent = first &^ (group - 1)
	p, ok := t.runs.floor(parent)
	if !ok {
		return 0, false
	}
	r := t.runs.val(p)
	start := t.runs.key(p)
	if _, leaves := t.runLen(r); r.level != level || start+leaves < parent+group {
		return 0, false
	}
	from := (parent - start) / t.spec.span(level) * int64(t.spec.cvSize)
	to := from + int64(copy(children, r.cvs[from:]))
	t.cut(p, from, to)
	return parent, true
}

// cut takes the chaining values [from, to) out of the run at p. It makes
// places void.
func (t *nodes) cut(p place, from, to int64) {
	r := t.runs.val(p)
	right := run{level: r.level}
	start := t.runs.key(p) + to/int64(t.spec.cvSize)*t.spec.span(r.level)
	t.extend(&right, r.cvs[to:])
	r.cvs = r.cvs[:from]
	if from == 0 {
		t.release(r.cvs)
		t.runs.remove(p)
	} else {
		t.shrink(r)
	}
	if len(right.cvs) > 0 {
		t.runs.insert(start, right)
	}
}

// endOfHole returns the end of the zero leaves, or of the hole, that [lo, hi) would
// cut in two, or else hi.
func (t *nodes) endOfHole(lo, hi int64) int64 {
	end := hi
	for _, e := range []*extents{&t.zero, &t.holes} {
		if p, ok := e.ends.floor(hi); ok && e.ends.key(p) < lo {
			end = max(end, *e.ends.val(p))
		}
	}
	return end
}

// closedHole returns the hole that leaf is in, if it cannot grow any more:
// what is beside it is known.
func (t *nodes) closedHole(leaf int64) (lo, hi int64, ok bool) {
	p, ok := t.holes.ends.floor(leaf)
	if !ok || *t.holes.ends.val(p) <= leaf {
		return 0, 0, false
	}
	lo, hi = t.holes.ends.key(p), *t.holes.ends.val(p)
	return lo, hi, (lo == 0 || t.hasNode(lo-1)) && (hi == t.n || t.hasNode(hi))
}

// hasNode tells whether a node covers the leaf.
func (t *nodes) hasNode(leaf int64) bool {
	if p, ok := t.runs.floor(leaf); ok {
		if _, leaves := t.runLen(t.runs.val(p)); t.runs.key(p)+leaves > leaf {
			return true
		}
	}
	return t.tiles.knows(leaf)
}

// begins tells whether a run of nodes or a hole begins at a leaf.
func (t *nodes) begins(leaf int64) bool {
	if p, ok := t.holes.ends.floor(leaf); ok && t.holes.ends.key(p) == leaf {
		return true
	}
	p, ok := t.runs.floor(leaf)
	return ok && t.runs.key(p) == leaf
}

// memory returns about how many bytes the store takes.
func (t *nodes) memory() int64 {
	return int64(t.bytes) + t.runs.memory() + t.tiles.memory() + t.holes.ends.memory() + t.zero.ends.memory()
}

// forget removes what covers any of the leaves [lo, hi), and tells lost about
// each range of leaves that is gone with it. Leaves beside [lo, hi) that are
// zero become holes instead.
func (t *nodes) forget(lo, hi int64, lost func(lo, hi int64)) {
	t.zero.remove(lo, hi)
	for a, b := t.nextHole(lo, hi); a < b; a, b = t.nextHole(b, hi) {
		t.holes.remove(a, b)
		lost(a, b)
	}
	t.forgetNodes(lo, hi, func(a, b int64) {
		at := a
		for x, y := range t.zero.within(a, b) {
			lost(at, x)
			t.holes.add(x, y)
			at = y
		}
		lost(at, b)
	})
}

// nextHole returns the first part of a hole within [lo, hi).
func (t *nodes) nextHole(lo, hi int64) (int64, int64) {
	for a, b := range t.holes.within(lo, hi) {
		return a, b
	}
	return hi, hi
}

// forgetNodes removes the nodes that cover any of the leaves [lo, hi).
func (t *nodes) forgetNodes(lo, hi int64, lost func(lo, hi int64)) {
	for lo < hi {
		p, ok := t.runs.floor(lo)
		if ok {
			_, leaves := t.runLen(t.runs.val(p))
			ok = t.runs.key(p)+leaves > lo
		}
		if !ok {
			if p, ok = t.runs.from(lo); !ok || t.runs.key(p) >= hi {
				return
			}
		}
		r := t.runs.val(p)
		start := t.runs.key(p)
		count, _ := t.runLen(r)
		span := t.spec.span(r.level)
		from := max(0, lo-start) / span
		to := min(count, (hi-start+span-1)/span)
		t.cut(p, from*int64(t.spec.cvSize), to*int64(t.spec.cvSize))
		lost(start+from*span, min(t.n, start+to*span))
		lo = start + to*span
	}
}

// sum returns the value of the node of the whole tree. All leaves must be
// known, be more than one, and be in nodes, not in holes.
func (t *nodes) sum() []byte {
	s := t.spec
	height := s.levels(t.n)
	// Of each level, the nodes that still lack siblings.
	pending := make([][]byte, height)
	cv := make([]byte, s.cvSize)
	push := func(level int, cv []byte) {
		for {
			pending[level] = append(pending[level], cv...)
			if level == height-1 || len(pending[level]) < s.cvSize<<s.arityBits {
				return
			}
			s.parent(cv, pending[level])
			pending[level] = pending[level][:0]
			level++
		}
	}

	p, ok := t.runs.from(0)
	var known int64
	for ; ok; p, ok = t.runs.next(p) {
		r := t.runs.val(p)
		if t.runs.key(p) != known {
			break
		}
		_, leaves := t.runLen(r)
		known = min(t.n, known+leaves)
		for node := range slices.Chunk(r.cvs, s.cvSize) {
			push(r.level, append(cv[:0], node...))
		}
	}
	if known != t.n {
		panic("digest of a tree with unknown leaves")
	}
	for level := range height - 1 {
		switch children := pending[level]; {
		case len(children) == 0:
			continue
		case len(children) == s.cvSize && s.promote:
			copy(cv, children)
		default:
			s.parent(cv, children)
		}
		push(level+1, cv)
	}
	top := s.top
	if top == nil {
		top = s.parent
	}
	top(cv, pending[height-1])
	return cv
}
