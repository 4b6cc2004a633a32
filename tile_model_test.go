// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// A tree that is full of tiles is none the fuller when they are dissolved, or cells of
// them overwritten.
func TestMemoryOfWhatWasInTiles(t *testing.T) {
	const size, limit = 64 << 30, 16 * mib
	for _, write := range []bool{true, false} {
		tr := newTree(treeOf(t, "blake3"), size, roomy(), limit)
		if tr.nodes.tiles.cells == 0 {
			t.Skip("leaves are not hashed together here")
		}
		tr.setWritable()
		p := randomBytes(rand.New(rand.NewPCG(8, 6)), cellSize)
		span, end := tr.nodes.tiles.span()*tr.spec.leafSize, int64(0)
		for ; tr.listed() < limit-limit/7; end += 2 * cellSize {
			tr.stage(end, p)
		}
		tr.flush()
		for at := int64(0); at < end; at += span {
			if write {
				tr.forget(at, at+cellSize)
			} else {
				tr.addHole((at+cellSize)/tr.spec.leafSize, (at+2*cellSize)/tr.spec.leafSize, true)
			}
		}
		if listed := tr.listed(); listed > limit+limit/4 {
			t.Errorf("%d bytes are listed of %d, write: %v", listed, int64(limit), write)
		}
	}
}

// As long as nothing is forgotten, what is covered stays so, whatever becomes of tiles.
func TestWhatIsCoveredStaysSo(t *testing.T) {
	for name, size := range map[string]int64{"fsverity/sha256/1k": 64 << 10, "blake3": 256 << 10, "dmverity/sha256/512": 32 << 10} {
		for range 200 {
			tr, image := tiledTree(t, name, size)
			for at := int64(0); at < size-cellSize; at += cellSize {
				tr.add(at, image[at:at+cellSize], true)
			}
			leaves := int64(1) << tr.nodes.tiles.shift
			for first := (size - cellSize) / tr.spec.leafSize; first < tr.nodes.n-leaves; first += leaves {
				tr.hash(tr.take(first, first+leaves, true), image[first*tr.spec.leafSize:][:leaves*tr.spec.leafSize])
			}
			last := tr.take(tr.nodes.n-leaves, tr.nodes.n, true) // another thread hashes it
			var stop, fell atomic.Bool
			begun := make(chan struct{})
			watched := background(t, func() {
				close(begun)
				for !stop.Load() {
					if !tr.isDue() {
						fell.Store(true)
					}
				}
			})
			<-begun
			tr.hash(last, image[size-leaves*tr.spec.leafSize:])
			stop.Store(true)
			watched()
			if fell.Load() {
				t.Fatalf("%s: all was being hashed, and for a moment it was not", name)
			}
		}
	}
}

// checkTiles compares what is counted of a tree with what is there, when nobody is at
// work.
func checkTiles(t *testing.T, tr *tree, name string) {
	t.Helper()
	tr.flush()
	if tr.pending != 0 || len(tr.claims) > 0 {
		t.Fatalf("%s: %d leaves are pending, and there are %d claims", name, tr.pending, len(tr.claims))
	}
	ts := &tr.nodes.tiles
	total, taken, bytes := int64(0), tr.nodes.holes.total, 0
	for p, ok := ts.list.from(0); ok; p, ok = ts.list.next(p) {
		first, tile := ts.list.key(p), *ts.list.val(p)
		if lo, hi := tr.taken.missing(first, first+ts.span()); lo != first || hi != first+ts.span() {
			t.Fatalf("%s: a tile at %d has leaves that are in the lists", name, first)
		}
		n := tile.known.count()
		if n == 0 || n == ts.cells || tile.taken != tile.known || int(n)*tr.spec.cvSize != len(tile.cvs) {
			t.Fatalf("%s: a tile has %d cells of %d, and %d bytes", name, n, ts.cells, len(tile.cvs))
		}
		total += n << ts.shift
		bytes += cap(tile.cvs)
	}
	for p, ok := tr.nodes.runs.from(0); ok; p, ok = tr.nodes.runs.next(p) {
		r := tr.nodes.runs.val(p)
		_, leaves := tr.nodes.runLen(r)
		taken += min(leaves, tr.nodes.n-tr.nodes.runs.key(p))
		bytes += cap(r.cvs)
	}
	if tr.outer != nil {
		taken += tr.outer.folded
	}
	if total != ts.total || taken != tr.taken.total || bytes != tr.nodes.bytes {
		t.Fatalf("%s: counted are %d leaves in tiles, %d in lists, %d bytes of values; there are %d, %d, %d",
			name, ts.total, tr.taken.total, tr.nodes.bytes, total, taken, bytes)
	}
}

// Whatever threads do, what is counted is what is there.
func TestTilesAndThreads(t *testing.T) {
	t.Parallel()
	const zeros, zerosEnd = mib, mib + 300<<10
	for seed := range uint64(3) {
		for _, name := range append([]string{"merkle/sha256/64k", "fsverity/sha512/1k"}, tiled...) {
			a, _ := parseAlgorithm(name)
			size := int64(2*mib + 12*cellSize)
			if a.multiple == 0 && seed == 1 {
				size += 345
			}
			tr := newTree(a.tree(nil), size, roomy(), []int64{64 * mib, 20000, 60000}[seed])
			if seed != 1 {
				tr.setWritable()
			}
			image := randomBytes(rand.New(rand.NewPCG(8, seed)), size)
			clear(image[zeros:zerosEnd])
			var wg sync.WaitGroup
			for thread := range uint64(4) {
				wg.Go(func() {
					r := rand.New(rand.NewPCG(seed, thread))
					for range 150 {
						at := r.Int64N(size/cellSize) * cellSize
						switch r.IntN(8) {
						case 0:
							tr.forget(at, min(size, at+r.Int64N(64<<10)))
						case 1:
							tr.add(at, image[at:min(size, at+r.Int64N(200<<10))], false)
						case 2:
							lo := zeros + r.Int64N(zerosEnd-zeros)
							tr.addZero(lo, min(zerosEnd, lo+r.Int64N(64<<10)), r.IntN(2) == 0)
						case 3:
							tr.unknown(at, size)
						default:
							stageSome(tr, r, image)
						}
					}
				})
			}
			wg.Wait()
			checkTiles(t, tr, name)
			wantSum(t, tr, image)
			tr.forget(0, size)
			checkTiles(t, tr, name)
			if tr.total() > 0 {
				t.Errorf("%s: all is forgotten, and %d leaves are left", name, tr.total())
			}
		}
	}
}

// A write takes the cells that it touches, and no others.
func TestWriteTakesItsCells(t *testing.T) {
	const size = 4 * mib
	for _, name := range tiled {
		tr, image := tiledTree(t, name, size)
		for at := int64(0); at < size; at += 2 * cellSize {
			tr.stage(at, image[at:at+cellSize])
		}
		tr.flush()
		cell := tr.spec.leafSize << tr.nodes.tiles.shift
		known := tr.known()
		r := rand.New(rand.NewPCG(8, 7))
		for i := range r.Perm(size / (2 * cellSize)) {
			lo := int64(i)*2*cellSize + r.Int64N(2*cellSize)
			hi := min(size, lo+r.Int64N(3*cellSize))
			for at := lo - lo%cell; at < hi; at += cell {
				if a, b := tr.missing(at/tr.spec.leafSize, at/tr.spec.leafSize+1); a == b {
					known -= cell
				}
			}
			if tr.forget(lo, hi); tr.known() != known {
				t.Fatalf("%s: after a write from %d to %d, %d bytes are known, want %d", name, lo, hi, tr.known(), known)
			}
		}
		checkTiles(t, tr, name)
		wantSum(t, tr, image)
	}
}

// A request that is no cells is hashed beside those that are, which stay in tiles.
func TestStageOfCellsAndOthers(t *testing.T) {
	const cells = 9
	tr, image := tiledTree(t, "blake3", 4*mib)
	tr.stage(2*mib+1024, image[2*mib+1024:2*mib+2048])
	for i := range int64(cells) {
		at := mib + 2*i*cellSize
		tr.stage(at, image[at:at+cellSize])
	}
	tr.flush()
	if total := tr.nodes.tiles.total * tr.spec.leafSize; total != cells*cellSize {
		t.Errorf("%d bytes are in tiles, want %d", total, cells*cellSize)
	}
	checkTiles(t, tr, "blake3")
	wantSum(t, tr, image)
}

// What is left of a tile moves to a smaller buffer.
func TestTileShrinks(t *testing.T) {
	tr, image := tiledTree(t, "blake3", 4*mib)
	for i := range int64(33) {
		at := mib + i*cellSize
		tr.stage(at, image[at:at+cellSize])
	}
	tr.flush()
	before := tr.nodes.bytes
	if tr.forget(mib, mib+30*cellSize); tr.nodes.bytes > before/8 {
		t.Errorf("3 cells of 33 are left, and take %d of %d bytes", tr.nodes.bytes, before)
	}
	checkTiles(t, tr, "blake3")
	wantSum(t, tr, image)
}
