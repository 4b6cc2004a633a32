package main

import "slices"

// blockLen bounds how much an insertion moves; two levels of that size hold
// a million entries with both moves below 64 KiB.
const blockLen = 256

// ordered is a map with int64 keys in ascending order: a slice of blocks of
// sorted keys. Unlike a map of the language it finds neighbours, and unlike
// a tree of nodes it allocates only when it grows. The zero value is empty.
type ordered[V any] struct {
	blocks []*block[V]
	spare  *block[V] // the last block that became empty
	count  int       // entries
}

type block[V any] struct {
	keys []int64
	vals []V
}

// place is the position of an entry. Insertions and deletions make it void.
type place struct{ block, i int }

// floor returns the place of the greatest key that is at most key.
func (o *ordered[V]) floor(key int64) (place, bool) {
	lo, hi := 0, len(o.blocks)
	for lo < hi {
		mid := (lo + hi) / 2
		if o.blocks[mid].keys[0] <= key {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == 0 {
		return place{}, false
	}
	i, found := slices.BinarySearch(o.blocks[lo-1].keys, key)
	if !found {
		i--
	}
	return place{lo - 1, i}, true
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
	switch {
	case ok:
		p.i++
	case len(o.blocks) == 0:
		b := o.spare
		o.spare = nil
		if b == nil {
			b = new(block[V])
		}
		o.blocks = append(o.blocks, b)
	}
	b := o.blocks[p.block]
	if len(b.keys) == blockLen {
		// A full block that grows at its end is the common, ascending case:
		// start a new one rather than leave a half-empty one behind.
		cut := blockLen / 2
		if p.i == blockLen {
			cut = blockLen - 1
		}
		right := &block[V]{
			keys: append(make([]int64, 0, blockLen), b.keys[cut:]...),
			vals: append(make([]V, 0, blockLen), b.vals[cut:]...),
		}
		clear(b.vals[cut:])
		b.keys, b.vals = b.keys[:cut], b.vals[:cut]
		o.blocks = slices.Insert(o.blocks, p.block+1, right)
		if p.i > cut {
			p = place{p.block + 1, p.i - cut}
			b = right
		}
	}
	o.count++
	b.keys = slices.Insert(b.keys, p.i, key)
	b.vals = slices.Insert(b.vals, p.i, v)
	return p
}

func (o *ordered[V]) remove(p place) {
	o.count--
	b := o.blocks[p.block]
	b.keys = slices.Delete(b.keys, p.i, p.i+1)
	b.vals = slices.Delete(b.vals, p.i, p.i+1)
	if len(b.keys) == 0 {
		o.blocks = slices.Delete(o.blocks, p.block, p.block+1)
		o.spare = b
	}
}

func (o *ordered[V]) clear() {
	o.count = 0
	for len(o.blocks) > 0 {
		b := o.blocks[len(o.blocks)-1]
		clear(b.vals)
		b.keys, b.vals = b.keys[:0], b.vals[:0]
		o.blocks = o.blocks[:len(o.blocks)-1]
		o.spare = b
	}
}
