package main

import (
	"math/bits"
	"slices"
)

// Notes on the design of tree digests
//
// An image is cut into leaves of equal size, the last one may be short. A
// node covers arity^level leaves, aligned to that number, and has a chaining
// value; level 0 are the leaves. All formats have this in common and differ
// in a few numbers and functions, which a treeSpec holds.
//
// Only maximal complete nodes are kept: as soon as all children of a node
// are known, it takes their place. So an image that is read in order needs
// O(arity * log n) chaining values at any time, and one that is read in
// another order as many as it has fragments. The node of the whole tree
// never forms: its last step (BLAKE3's ROOT flag, a descriptor) is not that
// of other nodes, and sum does it.
//
// At the right edge a node may have fewer children than its arity. These
// are not merged before sum, either.
//
// nodes is a plain value: it holds no lock and no hash state.

// A treeSpec says how one format of hash tree is computed. The functions
// write their result to their first argument, which has cvSize bytes.
type treeSpec struct {
	leafSize  int64 // bytes
	arityBits int   // log₂ of the number of children of a node
	cvSize    int   // bytes of a chaining value

	// subtree hashes a whole node: data is leafSize << (arityBits * level)
	// bytes, or a shorter last leaf; first is the index of its first leaf.
	subtree func(cv, data []byte, first int64)
	// parent hashes a node's children, in order; all but the last node of a
	// level have the full number.
	parent func(cv, children []byte)
	// top hashes the children of the node of the whole tree.
	top func(cv, children []byte)
	// single hashes an image of at most one leaf.
	single func(cv, data []byte)
	// promote: a node that is the only child of its parent is passed up as
	// it is, instead of being hashed once more.
	promote bool
}

// leaves returns how many leaves an image of size bytes has, at least one.
func (s *treeSpec) leaves(size int64) int64 {
	return max(1, size/s.leafSize+min(1, size%s.leafSize))
}

// span returns the number of leaves below a node.
func (s *treeSpec) span(level int) int64 { return 1 << (s.arityBits * level) }

// levels returns the level of the node that covers n leaves.
func (s *treeSpec) levels(n int64) int {
	log := bits.Len64(uint64(n - 1))
	return (log + s.arityBits - 1) / s.arityBits
}

// nodes are the maximal complete nodes of a tree of n leaves.
type nodes struct {
	spec *treeSpec
	n    int64

	// maxLevel bounds the nodes that form: they are forgotten as a whole.
	maxLevel int

	// Chaining values are packed in runs: nodes of one level, one behind the
	// other, by the first leaf. A run stays within one page of nodes, so that
	// children of one parent are always in one run.
	runs ordered[run]
	free [maxPageBits + 1][][]byte // buffers of 1<<i chaining values
}

type run struct {
	level int
	cvs   []byte
}

const maxPageBits = 8

func newNodes(spec *treeSpec, n int64) nodes {
	return nodes{spec: spec, n: n, maxLevel: spec.levels(n) - 1}
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
	shift := t.spec.arityBits*level + t.pageBits()
	p, ok := t.runs.floor(first)
	if ok {
		r := t.runs.val(p)
		_, leaves := t.runLen(r)
		ok = r.level == level && t.runs.key(p)+leaves == first && t.runs.key(p)>>shift == first>>shift
	}
	if !ok {
		p = t.runs.insert(first, run{level: level})
	}
	r := t.runs.val(p)
	t.extend(r, cvs)

	q, ok := t.runs.next(p)
	if !ok {
		return
	}
	_, leaves := t.runLen(r)
	right := t.runs.val(q)
	if key := t.runs.key(q); right.level == level && t.runs.key(p)+leaves == key && key>>shift == first>>shift {
		t.extend(r, right.cvs)
		t.release(right.cvs)
		t.runs.remove(q)
	}
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
		} else {
			buf = make([]byte, 0, t.spec.cvSize<<class)
		}
		old := r.cvs
		r.cvs = append(buf, old...)
		t.release(old)
	}
	r.cvs = append(r.cvs, cvs...)
}

// release keeps a buffer for the next run that grows, a few of each size.
func (t *nodes) release(buf []byte) {
	if cap(buf) == 0 {
		return
	}
	class := bits.Len(uint(cap(buf)/t.spec.cvSize)) - 1
	if len(t.free[class]) < 64 {
		t.free[class] = append(t.free[class], buf[:0])
	}
}

// takeGroup looks for the other children of the parent of the node that
// begins at first. If all are known, it moves them to children.
func (t *nodes) takeGroup(children []byte, level int, first int64) (parent int64, ok bool) {
	if level >= t.maxLevel {
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
	}
	if len(right.cvs) > 0 {
		t.runs.insert(start, right)
	}
}

// forget removes the nodes that cover any of the leaves [lo, hi), and tells
// lost about each range of leaves that is gone with them.
func (t *nodes) forget(lo, hi int64, lost func(lo, hi int64)) {
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
// known, and be more than one.
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
	s.top(cv, pending[height-1])
	return cv
}
