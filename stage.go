// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"slices"
	"sync/atomic"
)

// Notes on small requests
//
// A few leaves fill a part of the lanes only (lanes.h), and each request goes
// through the lock of the tree twice. So the leaves of small requests are copied
// to a stage, while they are hot, and the request that fills it hashes those of
// all. Until then they are unknown. Whoever wants to know what is unknown has the
// stage hashed first; and the request with which the image may be complete waits
// until nothing is on a stage, as the digest is due with it.
//
// forget marks what it overlaps on a stage as void. Once the leaves of a stage
// are claimed, it marks the claims.

const (
	// stageSize is how many bytes are hashed together.
	stageSize = 64 << 10
	// stagedMax is the longest request that is worth it.
	stagedMax = stageSize / 4
	// maxStages bounds the stages of a tree: one is filled while others are
	// hashed, or wait for a thread that has not copied its leaves yet.
	maxStages = 16
	// stageShare bounds the part of the budget that a tree's stages take.
	stageShare = 16
)

// A stage holds leaves of several requests.
type stage struct {
	buf   []byte
	used  int64 // bytes of buf
	slots []slot

	// filling counts the requests that copy their leaves, and one more as long
	// as others may come. Who makes it 0 hashes them.
	filling atomic.Int32

	nodes []staged // that are hashed together
	odd   []staged // leaves that are not a whole node any more
	index []int64  // of each leaf of nodes
	cvs   []byte
}

// A slot is the leaves [lo, hi) of one request; their bytes begin at an offset
// of the buffer.
type slot struct {
	lo, hi, at int64
	void       bool
}

// staged is what is claimed of a slot.
type staged struct {
	*claim
	from int64 // where its bytes begin
}

// stages are those of a tree.
type stages struct {
	mu    mutex    // guards all below; the tree's is taken first
	open  *stage   // the one that is filled, or nil
	live  []*stage // those whose leaves are not claimed yet
	spare []*stage
	made  int

	bytes atomic.Int64 // that are on a stage and not known yet
}

// stage takes the bytes of the image from offset on, if they are few whole leaves,
// and there is room. If not, they are for add.
func (t *tree) stage(offset int64, p []byte) bool {
	leaf, n := t.spec.leafSize, int64(len(p))
	if t.spec.together == nil || n > stagedMax || leaf*lanes > stageSize || offset%leaf != 0 || n%leaf != 0 || t.isSingle() {
		return false
	}
	if t.known() == t.size {
		return true
	}
	s, at := t.stages.reserve(t.memory, offset/leaf, n/leaf, n)
	if s == nil {
		return false
	}
	copy(s.buf[at:], p)
	t.filled(s)
	return true
}

// reserve makes room for leaves, of n bytes.
func (st *stages) reserve(memory *budget, first, leaves, n int64) (s *stage, at int64) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if s = st.open; s == nil {
		if s = st.next(memory); s == nil {
			return nil, 0
		}
		s.filling.Store(1)
		st.open = s
		st.live = append(st.live, s)
	}
	at = s.used
	if at+n > stageSize {
		return nil, 0
	}
	s.used += n
	st.bytes.Add(n)
	s.slots = append(s.slots, slot{lo: first, hi: first + leaves, at: at})
	if s.used+n > stageSize {
		st.open = nil // no others come: that one is this request
	} else {
		s.filling.Add(1)
	}
	return s, at
}

// next returns an empty stage, or nil if all are being hashed or there is no
// memory.
func (st *stages) next(memory *budget) *stage {
	if n := len(st.spare); n > 0 {
		s := st.spare[n-1]
		st.spare = st.spare[:n-1]
		return s
	}
	if int64(st.made) >= min(maxStages, memory.limit/stageShare/stageSize) || !memory.take(stageSize) {
		return nil
	}
	st.made++
	return &stage{buf: make([]byte, stageSize)}
}

// filled ends what filling counts.
func (t *tree) filled(s *stage) {
	if s.filling.Add(-1) == 0 {
		t.hashStage(s)
	}
}

// flush has the open stage hashed, by those that still copy to it if there are
// any.
func (t *tree) flush() {
	if t.stages.bytes.Load() == 0 {
		return
	}
	if s := t.stages.shut(); s != nil {
		t.filled(s)
	}
}

func (st *stages) shut() *stage {
	st.mu.Lock()
	defer st.mu.Unlock()
	s := st.open
	st.open = nil
	return s
}

// flushLast waits until nothing is on a stage, if with that all leaves are known or
// being hashed: whoever waits for the digest counts on them.
func (t *tree) flushLast() {
	for {
		staged := t.stages.bytes.Load()
		if staged == 0 || t.covered.Load()+staged < t.size {
			return
		}
		t.flush()
		yield() // to those that hash what was on a stage
	}
}

// void gives up what of the leaves [lo, hi) is on a stage.
func (st *stages) void(lo, hi int64) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, s := range st.live {
		for i := range s.slots {
			if p := &s.slots[i]; p.lo < hi && lo < p.hi {
				p.void = true
			}
		}
	}
}

// hashStage makes the leaves of a stage known. To fold them may take long, and nobody
// who waits for what is on a stage needs that.
func (t *tree) hashStage(s *stage) {
	t.hashStaged(s)
	t.fold()
}

func (t *tree) hashStaged(s *stage) {
	defer t.stages.recycle(s)
	level := t.claimStage(s)
	leaf, size := t.spec.leafSize, t.spec.cvSize
	for _, odd := range s.odd {
		t.hash(odd.claim, s.buf[odd.from:][:(odd.hi-odd.lo)*leaf])
	}
	if len(s.nodes) > 0 {
		s.gather(leaf)
		n := len(s.index)
		s.cvs = slices.Grow(s.cvs[:0], n*size)
		cvs := s.cvs[:n*size]
		t.spec.together(cvs, s.buf[:int64(n)*leaf], s.index)
		for range level {
			cvs = t.spec.reduce(cvs, s.nodes[0].merged)
		}
		t.storeStage(s, level, cvs)
	}
	if t.hasHoles.Load() {
		for _, p := range s.slots {
			t.cutHole(p.lo - 1)
			t.cutHole(p.hi)
		}
	}
}

// claimStage claims the leaves of a stage that are unknown, each time those of
// one node, and returns the level of these.
func (t *tree) claimStage(s *stage) (level int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stages.leave(s)
	level = s.level(t.spec, min(t.scratchLevel(), t.nodes.tiles.level))
	span := t.spec.span(level)
	for _, p := range s.slots {
		step, areNodes := span, p.isOf(span)
		if !areNodes {
			step = p.hi - p.lo
		}
		for lo := p.lo; lo < p.hi && !p.void; lo += step {
			t.claimLeaves(s, lo, lo+step, p.at+(lo-p.lo)*t.spec.leafSize, areNodes)
		}
	}
	return level
}

// isOf tells whether a slot is whole nodes of so many leaves.
func (p *slot) isOf(span int64) bool { return (p.lo|p.hi)&(span-1) == 0 }

// level returns the level of the nodes that are hashed together: at most most, and lower
// only if no slot has such nodes. Others are hashed one by one then.
func (s *stage) level(spec *treeSpec, most int) int {
	level := most
	for i := range s.slots {
		if s.slots[i].isOf(spec.span(most)) {
			return most
		}
		for !s.slots[i].isOf(spec.span(level)) {
			level--
		}
	}
	return level
}

// claimLeaves claims those of a slot, as a node or not.
func (t *tree) claimLeaves(s *stage, lo, hi, from int64, isNode bool) {
	for at := lo; at < hi; {
		c := t.takeLocked(at, hi, false)
		if c == nil {
			return
		}
		st := staged{c, from + (c.lo-lo)*t.spec.leafSize}
		if isNode && c.lo == lo && c.hi == hi {
			s.nodes = append(s.nodes, st)
		} else {
			s.odd = append(s.odd, st)
		}
		at = c.hi
	}
}

// leave notes that the leaves of a stage are claimed.
func (st *stages) leave(s *stage) {
	st.mu.Lock()
	defer st.mu.Unlock()
	i := slices.Index(st.live, s)
	st.live = slices.Delete(st.live, i, i+1)
}

// gather moves the leaves of nodes to the beginning of the buffer, and lists them.
func (s *stage) gather(leaf int64) {
	end := int64(0)
	for _, n := range s.nodes {
		length := (n.hi - n.lo) * leaf
		if n.from != end {
			copy(s.buf[end:], s.buf[n.from:][:length])
		}
		end += length
		for i := n.lo; i < n.hi; i++ {
			s.index = append(s.index, i)
		}
	}
}

// storeStage makes nodes known, and merges them as long as there are siblings.
func (t *tree) storeStage(s *stage, level int, cvs []byte) {
	for {
		t.storeAll(s, level, cvs)
		if len(s.nodes) == 0 {
			return
		}
		s.cvs = s.cvs[:0]
		for _, n := range s.nodes {
			s.cvs = append(s.cvs, n.children...)
		}
		cvs = t.spec.reduce(s.cvs, s.nodes[0].merged)
		level++
	}
}

// storeAll is store for a node of each claim. It keeps those of which nodes are to
// be merged.
func (t *tree) storeAll(s *stage, level int, cvs []byte) {
	if t.sink != nil {
		for i, n := range s.nodes {
			t.sink.completed(level, n.first(), cvs[i*t.spec.cvSize:][:t.spec.cvSize])
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	kept := s.nodes[:0]
	for i, n := range s.nodes {
		next := n.hi // of a claim of one node
		if merge, _ := t.storeLocked(n.claim, level, n.first(), next, cvs[i*t.spec.cvSize:][:t.spec.cvSize]); merge {
			kept = append(kept, n)
		}
	}
	s.nodes = kept
}

// first returns the first leaf of the node that a claim is about to store.
func (c *claim) first() int64 {
	if c.carryLo < c.carryHi {
		return c.carryLo
	}
	return c.lo
}

// recycle ends a stage.
func (st *stages) recycle(s *stage) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.bytes.Add(-s.used)
	s.used = 0
	s.slots, s.nodes, s.odd, s.index = s.slots[:0], s.nodes[:0], s.odd[:0], s.index[:0]
	st.spare = append(st.spare, s)
}

// drop gives up what is kept for the next request.
func (st *stages) drop(memory *budget) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.made -= len(st.spare)
	memory.give(int64(len(st.spare)) * stageSize)
	st.spare = nil
}
