// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"slices"
	"unsafe"
)

const (
	// blockLen bounds how much an insertion moves; two levels of that size hold
	// a million entries with both moves below 128 KiB.
	blockLen = 128
	// Two neighbours that have at most joinedLen entries become one block: it has
	// room for others, so that the next ones do not cut it again.
	joinedLen = blockLen * 3 / 4
	// joinStep is how often a block that shrinks looks at its neighbours, which
	// are seldom in the cache. So any two have more than joinedLen - 2*joinStep.
	joinStep = 8
)

// ordered is a map with int64 keys in ascending order: a slice of blocks of
// sorted keys. Unlike a map of the language it finds neighbours, and unlike
// a tree of nodes it allocates only when it grows. The zero value is empty.
type ordered[V any] struct {
	firsts []int64 // the first key of each block: a search stays in few cache lines
	blocks []*block[V]
	near   int       // the block where a key was looked for last
	spare  *block[V] // the last block that became empty
	count  int       // entries
}

type block[V any] struct {
	keys []int64
	vals []V
}

// place is the position of an entry. Insertions and deletions make it void.
type place struct{ block, i int }

// search returns the index of the greatest of sorted keys that is at most key,
// if the first one is. It has no branch for the processor to guess.
func search(keys []int64, key int64) (i int) {
	for n := len(keys); n > 1; {
		half := n / 2
		isAbove := (key - keys[i+half]) >> 63 // 0, or -1
		i += half &^ int(isAbove)
		n -= half
	}
	return i
}

// lineKeys is how many keys a line of the cache holds.
const lineKeys = 8

// searchBlock is search for a block, which is seldom in the cache: it does not
// wait for one line before it asks for the next.
func searchBlock(keys []int64, key int64) (i int) {
	for j := lineKeys; j < len(keys); j += lineKeys {
		isAbove := (key - keys[j]) >> 63
		i += lineKeys &^ int(isAbove)
	}
	line := keys[i:min(i+lineKeys, len(keys))]
	for _, k := range line[1:] {
		isAbove := (key - k) >> 63
		i += 1 &^ int(isAbove)
	}
	return i
}

// floor returns the place of the greatest key that is at most key.
func (o *ordered[V]) floor(key int64) (place, bool) {
	if len(o.firsts) == 0 || key < o.firsts[0] {
		return place{}, false
	}
	if !o.isNear(key) {
		o.near = search(o.firsts, key)
	}
	return place{o.near, searchBlock(o.blocks[o.near].keys, key)}, true
}

// isNear tells whether the block where a key was looked for last is that of this
// one, as it is when an entry is looked for and then changed.
func (o *ordered[V]) isNear(key int64) bool {
	i := o.near
	return i < len(o.firsts) && o.firsts[i] <= key && (i+1 == len(o.firsts) || key < o.firsts[i+1])
}

// from returns the place of the smallest key that is at least key.
func (o *ordered[V]) from(key int64) (place, bool) {
	p, ok := o.floor(key)
	if !ok {
		return place{}, len(o.blocks) > 0
	}
	if o.key(p) == key {
		return p, true
	}
	return o.next(p)
}

func (o *ordered[V]) next(p place) (place, bool) {
	if p.i+1 < len(o.blocks[p.block].keys) {
		return place{p.block, p.i + 1}, true
	}
	return place{p.block + 1, 0}, p.block+1 < len(o.blocks)
}

func (o *ordered[V]) key(p place) int64 { return o.blocks[p.block].keys[p.i] }

// val returns a pointer that is valid as long as the place is.
func (o *ordered[V]) val(p place) *V { return &o.blocks[p.block].vals[p.i] }

// insert adds a key that is not in the map and returns its place.
func (o *ordered[V]) insert(key int64, v V) place {
	p, ok := o.floor(key)
	return o.insertAfter(p, ok, key, v)
}

// insertAfter is insert for a key of which floor has returned p and ok.
func (o *ordered[V]) insertAfter(p place, ok bool, key int64, v V) place {
	switch {
	case ok:
		p.i++
	case len(o.blocks) == 0:
		o.blocks = append(o.blocks, o.newBlock())
		o.firsts = append(o.firsts, key)
	}
	b := o.blocks[p.block]
	if len(b.keys) == blockLen {
		// A full block that grows at its end is the common, ascending case:
		// start a new one rather than leave a half-empty one behind.
		cut := blockLen / 2
		if p.i == blockLen {
			cut = blockLen - 1
		}
		right := o.newBlock()
		right.keys = append(slices.Grow(right.keys, blockLen), b.keys[cut:]...)
		right.vals = append(slices.Grow(right.vals, blockLen), b.vals[cut:]...)
		clear(b.vals[cut:])
		b.keys, b.vals = b.keys[:cut], b.vals[:cut]
		o.blocks = slices.Insert(o.blocks, p.block+1, right)
		o.firsts = slices.Insert(o.firsts, p.block+1, right.keys[0])
		if p.i > cut {
			p = place{p.block + 1, p.i - cut}
			b = right
		}
	}
	o.count++
	b.keys = slices.Insert(b.keys, p.i, key)
	b.vals = slices.Insert(b.vals, p.i, v)
	o.firsts[p.block] = b.keys[0]
	return p
}

// newBlock returns a block without entries.
func (o *ordered[V]) newBlock() *block[V] {
	b := o.spare
	o.spare = nil
	if b == nil {
		b = new(block[V])
	}
	return b
}

func (o *ordered[V]) remove(p place) {
	o.count--
	b := o.blocks[p.block]
	b.keys = slices.Delete(b.keys, p.i, p.i+1)
	b.vals = slices.Delete(b.vals, p.i, p.i+1)
	if len(b.keys) == 0 {
		o.removeBlock(p.block)
		return
	}
	o.firsts[p.block] = b.keys[0]
	if len(b.keys) <= joinedLen && len(b.keys)%joinStep == 0 {
		o.join(p.block)
		o.join(p.block - 1)
	}
}

// join moves the entries of the block behind the one at i to that one, if both
// have few.
func (o *ordered[V]) join(i int) {
	if i < 0 || i+1 >= len(o.blocks) {
		return
	}
	b, next := o.blocks[i], o.blocks[i+1]
	if len(b.keys)+len(next.keys) > joinedLen {
		return
	}
	b.keys = append(b.keys, next.keys...)
	b.vals = append(b.vals, next.vals...)
	clear(next.vals)
	next.keys, next.vals = next.keys[:0], next.vals[:0]
	o.removeBlock(i + 1)
}

// removeBlock removes a block without entries.
func (o *ordered[V]) removeBlock(i int) {
	o.spare = o.blocks[i]
	o.blocks = slices.Delete(o.blocks, i, i+1)
	o.firsts = slices.Delete(o.firsts, i, i+1)
}

// memory returns about how many bytes the map takes: those of whole blocks, but
// for the only one, which grows with its entries.
func (o *ordered[V]) memory() int64 {
	var v V
	entry := int64(unsafe.Sizeof(v) + unsafe.Sizeof(int64(0)))
	if len(o.blocks) <= 1 {
		return entry * int64(o.count)
	}
	const perBlock = 16 // of the lists of blocks
	return entry*blockLen*int64(len(o.blocks)) + perBlock*int64(cap(o.blocks))
}

func (o *ordered[V]) clear() {
	o.count = 0
	o.firsts = o.firsts[:0]
	for len(o.blocks) > 0 {
		b := o.blocks[len(o.blocks)-1]
		clear(b.vals)
		b.keys, b.vals = b.keys[:0], b.vals[:0]
		o.blocks = o.blocks[:len(o.blocks)-1]
		o.spare = b
	}
}
