// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// tiledTree returns a tree that has tiles, and its image.
func tiledTree(t *testing.T, name string, size int64) (*tree, []byte) {
	t.Helper()
	tr := newTree(treeOf(t, name), size, roomy(), 64*mib)
	if tr.nodes.tiles.cells == 0 {
		t.Skip("leaves are not hashed together here")
	}
	return tr, randomBytes(rand.New(rand.NewPCG(8, 1)), size)
}

var tiled = []string{"blake3", "merkle/sha256/1k", "fsverity/sha256/4k", "fsverity/sha256/1k", "dmverity/sha256/512", "blkhash/sha256/4k"}

// readCells has so many cells at random places read in small requests.
func readCells(tr *tree, image []byte, r *rand.Rand, count int) {
	for range count {
		at := r.Int64N(int64(len(image))/cellSize) * cellSize
		tr.stage(at, image[at:at+cellSize])
	}
	tr.flush()
}

func wantSum(t *testing.T, tr *tree, image []byte) {
	t.Helper()
	completed(tr, image)
	whole := newTree(tr.spec, tr.size, roomy(), 64*mib)
	whole.add(0, image, true)
	if got, want := tr.sum(), whole.sum(); got == nil || !bytes.Equal(got, want) {
		t.Errorf("the digest is %x, want %x", got, want)
	}
}

// Reads here and there are in tiles, and in nothing else, until these are whole: then
// they are nodes, and there is no tile any more.
func TestSmallReadsAreInTiles(t *testing.T) {
	const size = 4 * mib
	for _, name := range tiled {
		tr, image := tiledTree(t, name, size)
		r := rand.New(rand.NewPCG(8, 2))
		readCells(tr, image, r, 100)
		ts := &tr.nodes.tiles
		if ts.list.count == 0 || ts.total == 0 {
			t.Errorf("%s: nothing is in tiles", name)
		}
		if known := tr.known(); known != ts.total*tr.spec.leafSize+tr.taken.total*tr.spec.leafSize {
			t.Errorf("%s: %d bytes are known, and %d leaves in tiles", name, known, ts.total)
		}
		if name == "blake3" && tr.nodes.runs.count > 0 {
			t.Errorf("%s: %d runs of nodes are in the lists", name, tr.nodes.runs.count)
		}
		for _, i := range r.Perm(size / cellSize) {
			at := int64(i) * cellSize
			tr.stage(at, image[at:at+cellSize])
		}
		tr.flush()
		if ts.list.count > 0 || ts.total > 0 {
			t.Errorf("%s: all is known, and %d tiles are left", name, ts.list.count)
		}
		if tr.spec.outer == nil && tr.nodes.runs.count > tr.spec.levels(tr.nodes.n) {
			t.Errorf("%s: %d runs are left, as if nothing had been merged", name, tr.nodes.runs.count)
		}
		if !tr.complete() {
			t.Errorf("%s: all is known, and the tree is not complete", name)
		}
		bytes := 0
		for p, ok := tr.nodes.runs.from(0); ok; p, ok = tr.nodes.runs.next(p) {
			bytes += cap(tr.nodes.runs.val(p).cvs)
		}
		if tr.nodes.bytes != bytes {
			t.Errorf("%s: chaining values are said to take %d bytes, and take %d", name, tr.nodes.bytes, bytes)
		}
		wantSum(t, tr, image)
	}
}

// What is missing is what a plain list of leaves says.
func TestMissingOfTilesAndLists(t *testing.T) {
	const size = 4 * mib
	for _, name := range tiled {
		tr, image := tiledTree(t, name, size)
		r := rand.New(rand.NewPCG(8, 3))
		known := make([]bool, tr.nodes.n)
		note := func(lo, hi int64) {
			for i := lo / tr.spec.leafSize; i < hi/tr.spec.leafSize; i++ {
				known[i] = true
			}
		}
		for range 40 {
			for range r.IntN(40) {
				at := r.Int64N(size/cellSize) * cellSize
				tr.stage(at, image[at:at+cellSize])
				note(at, at+cellSize)
			}
			tr.flush()
			lo := r.Int64N(size/cellSize) * cellSize
			hi := min(size, lo+(1+r.Int64N(5))*cellSize)
			switch r.IntN(3) {
			case 0:
				tr.add(lo, image[lo:hi], true)
				note(lo, hi)
			case 1:
				if a, b := tr.unknown(lo, lo+1); a == lo && b > a {
					clear(image[lo : lo+cellSize])
					tr.addZero(lo, lo+cellSize, true)
					note(lo, lo+cellSize)
				}
			}
			for range 50 {
				lo := r.Int64N(tr.nodes.n)
				hi := lo + r.Int64N(tr.nodes.n-lo)
				a, b := tr.missing(lo, hi)
				for i := lo; i < a; i++ {
					if !known[i] {
						t.Fatalf("%s: leaf %d of [%d, %d) is not said to be missing, but %d to %d", name, i, lo, hi, a, b)
					}
				}
				for i := a; i < b; i++ {
					if known[i] {
						t.Fatalf("%s: leaf %d of [%d, %d) is said to be missing, from %d to %d", name, i, lo, hi, a, b)
					}
				}
				if a > b || b > hi || a == b && a != hi || b < hi && !known[b] {
					t.Fatalf("%s: [%d, %d) of [%d, %d) is said to be missing", name, a, b, lo, hi)
				}
			}
		}
		wantSum(t, tr, image)
	}
}

// A cell is being hashed when a large request dissolves its tile, or a write takes it
// away.
func TestTileDissolvesWhileACellIsHashed(t *testing.T) {
	const size = 4 * mib
	for _, name := range tiled {
		for _, write := range []bool{false, true} {
			tr, image := tiledTree(t, name, size)
			readCells(tr, image, rand.New(rand.NewPCG(8, 4)), 100)
			at, _ := tr.unknown(mib, size)
			lo := at / tr.spec.leafSize
			c := tr.take(lo, lo+1<<tr.nodes.tiles.shift, false)
			if c.tile == nil || !tr.nodes.tiles.isIn(c) {
				t.Fatalf("%s: leaves %d to %d are in no tile", name, c.lo, c.hi)
			}
			from, to := c.lo*tr.spec.leafSize, c.hi*tr.spec.leafSize
			if write {
				tr.forget(from, to)
			} else {
				tr.add(from-from%(256<<10), image[from-from%(256<<10):][:256<<10], true)
			}
			if tr.nodes.tiles.isIn(c) != write {
				t.Errorf("%s: the cell is in a tile: %v", name, !write)
			}
			tr.hash(c, image[from:to])
			if a, b := tr.unknown(from, to); (a < b) != write {
				t.Errorf("%s: bytes %d to %d are unknown, of a cell from %d to %d, write: %v", name, a, b, from, to, write)
			}
			wantSum(t, tr, image)
		}
	}
}

// The last tile has room for whole leaves only: the end of an image is no cell.
func TestTilesEndBeforeAShortLeaf(t *testing.T) {
	for _, size := range []int64{mib + 1, mib - 1, mib + 256<<10 - 512, 256 << 10, 512 << 10} {
		tr, image := tiledTree(t, "blake3", size)
		for at := int64(0); at < size; at += cellSize {
			end := min(size, at+cellSize)
			if !tr.stage(at, image[at:end]) {
				tr.add(at, image[at:end], false)
			}
		}
		tr.flush()
		if tr.nodes.tiles.list.count > 0 || !tr.complete() {
			t.Errorf("%d bytes: %d tiles are left", size, tr.nodes.tiles.list.count)
		}
		wantSum(t, tr, image)
	}
}

// A hole beside a cell that is known is closed, and cut at once.
func TestHoleBesideATile(t *testing.T) {
	const size = 4 * mib
	for _, name := range []string{"blake3", "merkle/sha256/1k", "fsverity/sha256/1k"} {
		tr, image := tiledTree(t, name, size)
		tile := tr.nodes.tiles.span() * tr.spec.leafSize
		tr.stage(tile-cellSize, image[tile-cellSize:tile])
		tr.flush()
		clear(image[tile:])
		tr.addZero(tile, size, true)
		if tr.hasHoles.Load() {
			t.Errorf("%s: both ends of a hole are known, one of them in a tile, and it is not cut", name)
		}
		wantSum(t, tr, image)
	}
}

// The last that is learnt of an image is a hole in a tile.
func TestHoleCompletesATile(t *testing.T) {
	const size, half, tile = mib, 128 << 10, 256 << 10
	for _, name := range []string{"blake3", "merkle/sha256/1k"} {
		tr, image := tiledTree(t, name, size)
		tr.add(tile, image[tile:], false)
		for at := int64(0); at < half; at += cellSize {
			tr.stage(at, image[at:at+cellSize])
		}
		tr.flush()
		clear(image[half:tile])
		tr.addZero(half, tile, true)
		if !tr.complete() {
			t.Errorf("%s: all is known, and the tree is not complete", name)
		}
		wantSum(t, tr, image)
	}
}

// Bytes of a leaf that is in a cell are known: no buffer is made for them.
func TestPartsOfLeavesInTiles(t *testing.T) {
	const at = mib / 2
	tr, image := tiledTree(t, "blake3", mib)
	tr.stage(at, image[at:at+cellSize])
	tr.flush()
	if tr.add(at+100, image[at+100:at+200], false); len(tr.parts) > 0 {
		t.Error("there is a buffer for bytes that are known")
	}
	if tr.add(at+cellSize, image[at+cellSize:at+cellSize+100], false); len(tr.parts) != 1 {
		t.Error("there is no buffer for bytes that are not known")
	}
	wantSum(t, tr, image)
}

// When memory is nearly full, a cell beside another one of its tile finds room, others
// do not; and no tile is made any more.
func TestRoomInTiles(t *testing.T) {
	const size, at = 64 * mib, 32 * mib
	tr, image := tiledTree(t, "blake3", size)
	tr.stage(0, image[:cellSize])
	for i := range int64(20) {
		tr.stage(at+i*2*cellSize, image[at+i*2*cellSize:][:cellSize])
	}
	tr.flush()
	take := func(offset int64) *claim {
		return tr.take(offset/tr.spec.leafSize, (offset+cellSize)/tr.spec.leafSize, false)
	}
	tr.limit = tr.listed() * 11 / 10 // more than a sixteenth above what there is, less than an eighth
	if take(at+50*cellSize) != nil {
		t.Error("a cell beside none finds room")
	}
	c := take(at + cellSize)
	if c == nil || !tr.nodes.tiles.isIn(c) {
		t.Fatal("a cell beside another one finds no room in its tile")
	}
	tr.hash(c, image[at+cellSize:at+2*cellSize])
	tr.limit = tr.listed()
	first := take(cellSize)
	if first == nil {
		t.Fatal("the first leaves that are unknown find no room")
	}
	tr.hash(first, image[cellSize:2*cellSize])
	tr.add(cellSize, image[cellSize:tr.nodes.tiles.span()*tr.spec.leafSize], true)
	if first = take(mib / 4); first == nil || first.tile != nil {
		t.Fatal("the first leaves that are unknown find no room, or have a tile")
	}
	tr.hash(first, image[mib/4:mib/4+cellSize])
	tr.limit = 64 * mib
	wantSum(t, tr, image)
}

// What tiles are said to take is what they take, or would in the lists.
func TestMemoryOfTiles(t *testing.T) {
	const size = 16 << 30
	for _, perTile := range []int64{1, 9} {
		before := heap()
		tr := newTree(treeOf(t, "blake3"), size, roomy(), 64*mib)
		if tr.nodes.tiles.cells == 0 {
			t.Skip("leaves are not hashed together here")
		}
		p := randomBytes(rand.New(rand.NewPCG(8, 5)), cellSize)
		span := tr.nodes.tiles.span() * tr.spec.leafSize
		for at := int64(0); at < size/2; at += span {
			for i := range perTile {
				tr.stage(at+i*3*cellSize, p)
			}
		}
		tr.flush()
		tr.dropSpare()
		if took, said := heap()-before, tr.listed(); said < took*7/8 || said > took*5/2 {
			t.Errorf("%d cells in each of %d tiles are said to take %d bytes, and take %d", perTile, tr.nodes.tiles.list.count, said, took)
		}
	}
}

// A tile is made only where nothing is known: of the last leaf of this one something is.
func TestNoTileWhereTheLastLeafIsKnown(t *testing.T) {
	tr, image := tiledTree(t, "fsverity/sha256/4k", 4*mib)
	end := tr.nodes.tiles.span() * tr.spec.leafSize
	tr.add(end-4096, image[end-4096:end+4096], true)
	for at := int64(0); at < end-4096; at += cellSize {
		if !tr.stage(at, image[at:at+cellSize]) {
			tr.add(at, image[at:at+cellSize], true)
		}
	}
	wantSum(t, tr, image)
}

// A node has more leaves than a tile can have cells: there are no tiles.
func TestTreesThatAreTooWideForTiles(t *testing.T) {
	spec := treeOf(t, "dmverity/sha256/8k")
	image := randomBytes(rand.New(rand.NewPCG(8, 8)), 512*spec.leafSize)
	tr := newTree(spec, int64(len(image)), roomy(), 64*mib)
	for i := int64(0); i < int64(len(image)); i += 2 * spec.leafSize {
		if p := image[i : i+spec.leafSize]; !tr.stage(i, p) {
			tr.add(i, p, true)
		}
	}
	wantSum(t, tr, image)
}
