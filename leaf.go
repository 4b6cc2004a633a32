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
	size   int64   // bytes of the image
	memory *budget // of parts
	limit  int64   // bytes of nodes above which fragments are not kept
	sink   sink    // may be nil

	mu      sync.Mutex         // guards all below
	taken   extents            // leaves that are taken or known
	pending int64              // leaves that are taken
	nodes   nodes              // of the known leaves
	single  []byte             // the digest, of an image of one leaf
	claims  []*claim           // those in force, and void ones in use
	parts   map[int64]*partial // by the index of the leaf
	outer   *outer             // nil if the spec has none

	hasHoles atomic.Bool  // nodes.holes is not empty
	ready    atomic.Int64 // bytes that are known, in whole leaves

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
	children, merged []byte // scratch
}

// A sink is told of the nodes of a tree as they complete: count = len(cvs) /
// cvSize of one level, side by side, of which first is the first leaf. It is
// told of inner nodes that were hashed in one step only as a whole, of holes
// by the nodes that they are cut into, and once more of what was forgotten and
// read again. It is called by several threads at once.
type sink interface {
	completed(level int, first int64, cvs []byte)
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
	t.nodes.limit = t.limit
	for t.nodes.maxLevel > 0 && t.spec.span(t.nodes.maxLevel) > writableNode/t.spec.leafSize {
		t.nodes.maxLevel--
	}
	if t.outer != nil {
		t.outer.limit = t.limit
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
		t.cutHole(first-1, copyCost)
		t.cutHole(end, copyCost)
	}
	if t.outer != nil {
		t.fold()
	}
}

// take claims the first unknown leaves within [lo, hi). It returns nil if
// there are none, or if there is no memory for them.
func (t *tree) take(lo, hi int64, needed bool) *claim {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.takeLocked(lo, hi, needed)
}

func (t *tree) takeLocked(lo, hi int64, needed bool) *claim {
	lo, hi = t.taken.missing(lo, hi)
	if lo == hi || !needed && t.isFull() && !t.touches(lo, hi) {
		return nil
	}
	t.taken.add(lo, hi)
	t.dropParts(lo, hi)
	return t.newClaim(lo, hi)
}

// isFull tells whether the nodes take all the memory that they may.
func (t *tree) isFull() bool {
	return t.nodes.memory()+24*int64(t.taken.ends.count) > t.limit
}

// touches tells whether leaves are beside others, so that they add no
// fragment.
func (t *tree) touches(lo, hi int64) bool {
	return lo == 0 || t.taken.covers(lo-1, lo) || hi < t.nodes.n && t.taken.covers(hi, hi+1)
}

// newClaim makes a claim for leaves that are taken.
func (t *tree) newClaim(lo, hi int64) (c *claim) {
	t.pending += hi - lo
	if n := len(t.spareClaims); n > 0 {
		c = t.spareClaims[n-1]
		t.spareClaims = t.spareClaims[:n-1]
	} else {
		c = &claim{
			cvs:      make([]byte, t.spec.cvSize<<t.nodes.pageBits()),
			children: make([]byte, t.spec.cvSize<<t.spec.arityBits),
			merged:   make([]byte, t.spec.cvSize),
		}
	}
	c.lo, c.hi, c.carryLo, c.carryHi, c.void = lo, hi, 0, 0, false
	t.claims = append(t.claims, c)
	t.count()
	return c
}

// count notes how much is known, for those who ask without the lock.
func (t *tree) count() {
	leaves := t.taken.total - t.pending
	ready := t.size
	if leaves < t.nodes.n {
		ready = min(t.size, leaves*t.spec.leafSize)
	}
	t.ready.Store(ready)
}

// drop ends a claim. Leaves that it has not hashed are unknown again.
func (t *tree) drop(c *claim) {
	t.lose(c.lo, c.hi)
	t.lose(c.carryLo, c.carryHi)
	t.pending -= c.hi - c.lo
	i := slices.Index(t.claims, c)
	t.claims = slices.Delete(t.claims, i, i+1)
	t.spareClaims = append(t.spareClaims, c)
	t.count()
}

// lose makes leaves of a claim unknown, except for those that are zero.
func (t *tree) lose(lo, hi int64) {
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
		for i := lo; i < next; i++ {
			part := data[:min(int64(len(data)), s.leafSize)]
			data = data[len(part):]
			cv := cvs[int(i-lo)*s.cvSize:][:s.cvSize]
			if int64(len(part)) == s.leafSize && isZero(part) {
				s.zero(cv, 0, i)
			} else {
				s.leaf(cv, part)
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
	if c.void {
		t.drop(c)
		return false, false
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
func (t *tree) known() int64 { return t.ready.Load() }

// isCovered tells whether all bytes are known, or being hashed.
func (t *tree) isCovered() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.taken.total == t.nodes.n
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
	return t.taken.total == t.nodes.n && t.pending == 0 && len(t.claims) == 0 &&
		(t.outer != nil && !t.outer.busy || t.outer == nil && t.nodes.holes.total == 0)
}

// dropSpare gives up buffers that are kept for the next request.
func (t *tree) dropSpare() {
	t.mu.Lock()
	defer t.mu.Unlock()
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
