// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"math/bits"
	"slices"
)

// Notes on tiles
//
// The nodes of small requests that come here and there have no neighbours for long:
// each would be a range and a run of its own, in lists that are out of the cache
// whenever they are needed. So the first one that comes to a tile of the image of
// which nothing is known makes two bitmaps for all of it. The tile's cells are nodes
// of about cellSize, and the values of those that are known are packed in one buffer.
//
// What is in a tile is in no list of the tree. A large request or a hole dissolves
// it: its cells become ranges and runs, and claims of them go on as any others. So
// does the last cell. Only then are cells merged. That is done under the lock: it
// takes a few microseconds for a tile, and a claim for each node would take longer.

const (
	// cellSize is what small requests have, most of them: a page of memory.
	cellSize = 4 << 10
	// maxCells bounds the cells of a tile: those below one node of fs-verity
	// with SHA-256 and blocks of 4 KiB.
	maxCells = 128
)

// A tile is a piece of the image of which a part is known.
type tile struct {
	taken, known cellSet
	run          // of the chaining values of those that are known
}

// A cellSet is a set of the cells of a tile.
type cellSet [maxCells / 64]uint64

func (c *cellSet) has(i int64) bool { return c[i/64]>>(i%64)&1 != 0 }
func (c *cellSet) add(i int64)      { c[i/64] |= 1 << (i % 64) }
func (c *cellSet) remove(i int64)   { c[i/64] &^= 1 << (i % 64) }

// below counts the cells before i.
func (c *cellSet) below(i int64) int {
	n := bits.OnesCount64(c[i/64] & (1<<(i%64) - 1))
	if i >= 64 {
		n += bits.OnesCount64(c[0])
	}
	return n
}

func (c *cellSet) count() int64 {
	return int64(bits.OnesCount64(c[0]) + bits.OnesCount64(c[1]))
}

// next returns the first cell from i on that is in the set, or is not if want is
// false, or n if there is none before.
func (c *cellSet) next(i, n int64, want bool) int64 {
	for ; i < n; i = i/64*64 + 64 {
		word := c[i/64]
		if !want {
			word = ^word
		}
		if word >>= i % 64; word != 0 {
			return min(n, i+int64(bits.TrailingZeros64(word)))
		}
	}
	return n
}

// tiles are those of a tree.
type tiles struct {
	level int            // of a cell
	shift int            // log₂ of the leaves of a cell
	cells int64          // of a tile
	list  ordered[*tile] // by the first leaf
	total int64          // leaves that are taken or known
}

func newTiles(s *treeSpec) (ts tiles) {
	cells := int64(1) << max(s.arityBits, 6)
	if s.together == nil || cells > maxCells {
		return tiles{level: maxLevels} // nothing is hashed on a stage, or no node fits
	}
	for s.arityBits > 0 && s.span(ts.level+1)*s.leafSize <= cellSize {
		ts.level++
	}
	ts.shift, ts.cells = s.arityBits*ts.level, cells
	return ts
}

// span returns how many leaves a tile has.
func (ts *tiles) span() int64 { return ts.cells << ts.shift }

// at returns the tile that a leaf is in, and its place, if there is one.
func (ts *tiles) at(leaf int64) (place, *tile) {
	if p, ok := ts.list.floor(leaf); ok && leaf < ts.list.key(p)+ts.span() {
		return p, *ts.list.val(p)
	}
	return place{}, nil
}

// cell returns the number of the cell that a leaf is in.
func (ts *tiles) cell(leaf int64) int64 { return leaf & (ts.span() - 1) >> ts.shift }

// within returns the first tile that has leaves of [lo, hi).
func (ts *tiles) within(lo, hi int64) (place, *tile) {
	if ts.list.count == 0 || lo >= hi {
		return place{}, nil
	}
	if at, p := ts.at(lo); p != nil {
		return at, p
	}
	if at, ok := ts.list.from(lo); ok && ts.list.key(at) < hi {
		return at, *ts.list.val(at)
	}
	return place{}, nil
}

// missing returns the first range within [lo, hi) that is not in a cell that is
// taken. It is empty if there is none.
func (ts *tiles) missing(lo, hi int64) (int64, int64) {
	for lo < hi {
		at, p := ts.within(lo, hi)
		if p == nil {
			return lo, hi
		}
		first := ts.list.key(at)
		if first <= lo {
			i := p.taken.next(ts.cell(lo), ts.cells, false)
			lo = max(lo, first+i<<ts.shift)
			if i == ts.cells || lo >= hi {
				continue
			}
		}
		return lo, ts.nextTaken(lo, hi)
	}
	return hi, hi
}

// nextTaken returns the first leaf within [lo, hi) that is in a cell that is taken,
// or hi.
func (ts *tiles) nextTaken(lo, hi int64) int64 {
	for at := lo; ; {
		place, p := ts.within(at, hi)
		if p == nil {
			return hi
		}
		first := ts.list.key(place)
		i := int64(0)
		if first < at {
			i = ts.cell(at)
		}
		if i = p.taken.next(i, ts.cells, true); i < ts.cells {
			return max(lo, min(hi, first+i<<ts.shift))
		}
		if at = first + ts.span(); at >= hi {
			return hi
		}
	}
}

// knows tells whether a leaf is in a cell that is known.
func (ts *tiles) knows(leaf int64) bool {
	_, p := ts.at(leaf)
	return p != nil && p.known.has(ts.cell(leaf))
}

// memory returns about how many bytes the tiles take, but for chaining values. A cell
// counts for what it would take in the lists of the tree.
func (ts *tiles) memory() int64 {
	const perTile, perCell = 64, 48
	return ts.list.memory() + perTile*int64(ts.list.count) + perCell*(ts.total>>ts.shift)
}

// tileFor returns the tile of which leaves that are unknown are one cell, or nil if they
// are for the lists of the tree.
func (t *tree) tileFor(lo, hi int64) *tile {
	ts := &t.nodes.tiles
	if cell := int64(1) << ts.shift; hi-lo != cell || lo&(cell-1) != 0 || ts.cells == 0 || t.sink != nil {
		return nil
	}
	if _, p := ts.at(lo); p != nil {
		return p
	}
	return t.newTile(lo &^ (ts.span() - 1))
}

// newTile makes a tile that begins at a leaf, if nothing of it is known, all of it
// can be, and there is memory.
func (t *tree) newTile(first int64) *tile {
	ts := &t.nodes.tiles
	end := first + ts.span()
	if lo, hi := t.taken.missing(first, end); lo > first || hi < end ||
		end > t.size/t.spec.leafSize || t.isFull() {
		return nil
	}
	p := &tile{run: run{level: ts.level}}
	ts.list.insert(first, p)
	return p
}

// takeCell takes a cell of a tile.
func (t *tree) takeCell(p *tile, leaf int64) {
	ts := &t.nodes.tiles
	p.taken.add(ts.cell(leaf))
	ts.total += 1 << ts.shift
}

// storeCell makes the cell of a claim known, and ends the claim.
func (t *tree) storeCell(c *claim, cv []byte) {
	ts, p := &t.nodes.tiles, c.tile
	i := ts.cell(c.lo)
	at := p.known.below(i) * t.spec.cvSize
	t.nodes.extend(&p.run, cv)
	copy(p.cvs[at+len(cv):], p.cvs[at:])
	copy(p.cvs[at:], cv)
	p.known.add(i)
	if p.known.count() == ts.cells {
		t.dissolve(ts.at(c.lo))
	}
	t.pending -= c.hi - c.lo
	c.lo = c.hi
	t.drop(c)
}

// loseCell makes the cell of a claim unknown.
func (t *tree) loseCell(c *claim) {
	ts := &t.nodes.tiles
	at, p := ts.at(c.lo)
	p.taken.remove(ts.cell(c.lo))
	ts.total -= 1 << ts.shift
	if p.taken.count() == 0 {
		t.removeTile(at, p)
	}
}

// forgetCells makes the cells that have leaves of [lo, hi) unknown. Claims of them are
// void: they keep their cells until they end.
func (t *tree) forgetCells(lo, hi int64) {
	ts := &t.nodes.tiles
	for at, p := ts.within(lo, hi); p != nil; at, p = ts.within(lo, hi) {
		first := ts.list.key(at)
		i, end := ts.cell(max(lo, first)), ts.cell(min(hi, first+ts.span())-1)+1
		for i = p.known.next(i, end, true); i < end; i = p.known.next(i, end, true) {
			from := p.known.below(i) * t.spec.cvSize
			p.cvs = slices.Delete(p.cvs, from, from+t.spec.cvSize)
			p.known.remove(i)
			p.taken.remove(i)
			ts.total -= 1 << ts.shift
		}
		if p.taken.count() == 0 {
			t.removeTile(at, p)
		} else {
			t.nodes.shrink(&p.run)
		}
		lo = first + ts.span()
	}
}

// removeTile removes a tile. Claims of its cells, if there are any, are for the lists.
func (t *tree) removeTile(at place, p *tile) {
	t.nodes.tiles.list.remove(at)
	t.nodes.release(p.cvs)
	*p = tile{}
}

// isIn tells whether the cell of a claim is in its tile still.
func (ts *tiles) isIn(c *claim) bool { return c.tile != nil && c.tile.taken.has(ts.cell(c.lo)) }

// dissolveIn dissolves the tiles that have leaves of [lo, hi).
func (t *tree) dissolveIn(lo, hi int64) {
	ts := &t.nodes.tiles
	for at, p := ts.within(lo, hi); p != nil; at, p = ts.within(lo, hi) {
		t.dissolve(at, p)
	}
}

// dissolve moves what is in a tile to the lists of the tree.
func (t *tree) dissolve(at place, p *tile) {
	ts := &t.nodes.tiles
	first, cvs := ts.list.key(at), p.cvs
	for i := p.taken.next(0, ts.cells, true); i < ts.cells; {
		n, levels := int64(1), 0
		isKnown := p.known.has(i)
		if isKnown {
			n, levels = t.largestKnown(p, i)
		}
		lo, hi := first+i<<ts.shift, first+(i+n)<<ts.shift
		ts.total -= hi - lo
		t.taken.add(lo, hi)
		if isKnown {
			below := cvs[:int(n)*t.spec.cvSize]
			cvs = cvs[len(below):]
			t.putMerged(levels, lo, below)
		}
		i = p.taken.next(i+n, ts.cells, true)
	}
	t.removeTile(at, p)
}

// largestKnown returns how many cells from i on are one node of which all is known, so
// many levels above them.
func (t *tree) largestKnown(p *tile, i int64) (n int64, levels int) {
	ts, arity := &t.nodes.tiles, t.spec.arityBits
	end := p.known.next(i, ts.cells, false)
	n = 1
	for i&(n<<arity-1) == 0 && i+n<<arity <= end && ts.level+levels < t.nodes.maxLevel {
		n, levels = n<<arity, levels+1
	}
	return n, levels
}

// putMerged puts the node that is so many levels above cells, and those that are
// complete with it.
func (t *tree) putMerged(levels int, first int64, cvs []byte) {
	level := t.nodes.tiles.level + levels
	for range levels {
		cvs = t.spec.reduce(cvs, t.merged)
	}
	t.nodes.put(level, first, cvs)
	for {
		parent, ok := t.nodes.takeGroup(t.children, level, first)
		if !ok {
			return
		}
		t.spec.parent(t.merged, t.children)
		level, first = level+1, parent
		t.nodes.put(level, first, t.merged)
	}
}
