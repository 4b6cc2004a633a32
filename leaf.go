package main

import (
	"slices"
	"sync"
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
// A thread's claim tells which leaves it has taken. forget marks a claim that
// it overlaps as void, and the thread drops what it has hashed.

// A budget bounds the bytes that are buffered for one image.
type budget struct {
	limit int64
	used  atomic.Int64
}

// take reserves n bytes, if there is room.
func (b *budget) take(n int64) bool {
	if b.used.Add(n) > b.limit {
		b.used.Add(-n)
		return false
	}
	return true
}

func (b *budget) give(n int64) { b.used.Add(-n) }

// tree computes one tree digest of an image.
type tree struct {
	spec   *treeSpec
	size   int64 // bytes of the image
	memory *budget

	mu      sync.Mutex         // guards all below
	taken   extents            // leaves that are taken or known
	pending int64              // leaves that are taken
	nodes   nodes              // of the known leaves
	single  []byte             // the digest, of an image of one leaf
	claims  []*claim           // those in force, and void ones in use
	parts   map[int64]*partial // by the index of the leaf

	spareClaims []*claim
	spareParts  []*partial
}

// A claim is the right to hash the leaves [lo, hi), and to replace the known
// nodes of [carryLo, carryHi) by their parent.
type claim struct {
	lo, hi           int64
	carryLo, carryHi int64
	void             bool
	cvs              []byte // scratch
	children         []byte // scratch
}

func newTree(spec *treeSpec, size int64, memory *budget) *tree {
	t := &tree{
		spec:   spec,
		size:   size,
		memory: memory,
		nodes:  newNodes(spec, spec.leaves(size)),
		parts:  make(map[int64]*partial),
	}
	if size == 0 {
		t.hash(t.take(0, 1), nil)
	}
	return t
}

// add takes the bytes of the image from offset on.
func (t *tree) add(offset int64, p []byte) {
	leaf := t.spec.leafSize
	if head := offset % leaf; head != 0 {
		n := min(int64(len(p)), leaf-head)
		t.addPart(offset, p[:n])
		offset, p = offset+n, p[n:]
	}
	first := offset / leaf
	end := first + int64(len(p))/leaf
	tail := int64(len(p)) % leaf
	if tail > 0 && offset+int64(len(p)) == t.size {
		end, tail = end+1, 0
	}
	for lo := first; lo < end; {
		c := t.take(lo, end)
		if c == nil {
			break
		}
		lo = c.hi
		t.hash(c, p[(c.lo-first)*leaf:min(int64(len(p)), (c.hi-first)*leaf)])
	}
	if tail > 0 {
		t.addPart(end*leaf, p[int64(len(p))-tail:])
	}
}

// take claims the first unknown leaves within [lo, hi). It returns nil if
// there are none.
func (t *tree) take(lo, hi int64) *claim {
	t.mu.Lock()
	defer t.mu.Unlock()
	lo, hi = t.taken.missing(lo, hi)
	if lo == hi {
		return nil
	}
	t.taken.add(lo, hi)
	t.pending += hi - lo
	t.dropParts(lo, hi)
	var c *claim
	if n := len(t.spareClaims); n > 0 {
		c = t.spareClaims[n-1]
		t.spareClaims = t.spareClaims[:n-1]
	} else {
		c = &claim{
			cvs:      make([]byte, t.spec.cvSize<<max(t.spec.arityBits, 6)),
			children: make([]byte, t.spec.cvSize<<t.spec.arityBits),
		}
	}
	c.lo, c.hi, c.carryLo, c.carryHi, c.void = lo, hi, 0, 0, false
	t.claims = append(t.claims, c)
	return c
}

// drop ends a claim. Leaves that it has not hashed are unknown again.
func (t *tree) drop(c *claim) {
	t.taken.remove(c.lo, c.hi)
	t.taken.remove(c.carryLo, c.carryHi)
	t.pending -= c.hi - c.lo
	i := slices.Index(t.claims, c)
	t.claims = slices.Delete(t.claims, i, i+1)
	t.spareClaims = append(t.spareClaims, c)
}

// hash makes the leaves of a claim known; data are their bytes.
func (t *tree) hash(c *claim, data []byte) {
	s := t.spec
	if t.nodes.n == 1 {
		s.single(c.cvs[:s.cvSize], data)
		t.storeSingle(c)
		return
	}
	for lo, hi := c.lo, c.hi; lo < hi; {
		// The largest node that begins at lo and ends before hi, and as
		// many of its siblings as there are.
		level := 0
		for level < t.nodes.maxLevel && lo&(s.span(level+1)-1) == 0 && lo+s.span(level+1) <= hi {
			level++
		}
		span := s.span(level)
		group := span << s.arityBits
		count := min((hi-lo)/span, (group-lo&(group-1))/span)
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

// commit stores sibling nodes that a claim has hashed, and merges them with
// known ones. It tells whether the claim still holds.
func (t *tree) commit(c *claim, level int, first int64, cvs []byte) bool {
	span := t.spec.span(level)
	next := first + int64(len(cvs)/t.spec.cvSize)*span
	merge, ok := t.store(c, level, first, next, cvs)
	for merge {
		cv := c.cvs[:t.spec.cvSize]
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
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.void {
		t.drop(c)
		return false, false
	}
	t.nodes.put(level, first, cvs)
	t.pending -= next - c.lo
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

// forget makes the bytes [lo, hi) unknown, and with them the rest of the
// nodes that they are in.
func (t *tree) forget(lo, hi int64) {
	if lo >= hi {
		return
	}
	leaf := t.spec.leafSize
	t.mu.Lock()
	defer t.mu.Unlock()
	first, end := lo/leaf, min(t.nodes.n, (hi-1)/leaf+1)
	for _, c := range t.claims {
		if c.lo < end && first < c.hi || c.carryLo < end && first < c.carryHi {
			c.void = true
		}
	}
	t.nodes.forget(first, end, t.taken.remove)
	if t.single != nil {
		t.single = nil
		t.taken.clear()
	}
	t.dropParts(first, end)
}

// unknown returns the first range within [lo, hi) that is still to be added.
func (t *tree) unknown(lo, hi int64) (int64, int64) {
	leaf := t.spec.leafSize
	t.mu.Lock()
	defer t.mu.Unlock()
	for lo < hi {
		a, b := t.taken.missing(lo/leaf, min(t.nodes.n, (hi-1)/leaf+1))
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
func (t *tree) known() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	leaves := t.taken.total - t.pending
	if leaves == t.nodes.n {
		return t.size
	}
	return min(t.size, leaves*t.spec.leafSize)
}

// complete tells whether all bytes are known.
func (t *tree) complete() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.completeLocked()
}

func (t *tree) completeLocked() bool {
	return t.taken.total == t.nodes.n && t.pending == 0 && len(t.claims) == 0
}

// sum returns the digest of the image, or nil if it is not complete.
func (t *tree) sum() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case !t.completeLocked():
		return nil
	case t.nodes.n == 1:
		return t.single
	}
	return t.nodes.sum()
}
