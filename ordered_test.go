// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
)

// compareOrdered compares a map with its keys, of which each one's value is its
// negative.
func compareOrdered(t *testing.T, o *ordered[int64], keys []int64) {
	t.Helper()
	if o.count != len(keys) || len(o.firsts) != len(o.blocks) {
		t.Fatalf("%d entries in %d blocks with %d first keys, want %d entries", o.count, len(o.blocks), len(o.firsts), len(keys))
	}
	i := 0
	for p, ok := o.from(-1 << 62); ok; p, ok = o.next(p) {
		if i == len(keys) || o.key(p) != keys[i] || *o.val(p) != -keys[i] || o.firsts[p.block] > keys[i] {
			t.Fatalf("entry %d is %d with %d, in a block that begins with %d", i, o.key(p), *o.val(p), o.firsts[p.block])
		}
		i++
	}
	if i != len(keys) {
		t.Fatalf("%d entries are found of %d", i, len(keys))
	}
}

// lookUp compares what is found of a key.
func lookUp(t *testing.T, o *ordered[int64], keys []int64, key int64) {
	t.Helper()
	i, found := slices.BinarySearch(keys, key)
	if p, ok := o.from(key); ok != (i < len(keys)) || ok && o.key(p) != keys[i] {
		t.Fatalf("from(%d) is wrong", key)
	}
	if !found {
		i--
	}
	if p, ok := o.floor(key); ok != (i >= 0) || ok && o.key(p) != keys[i] {
		t.Fatalf("floor(%d) is wrong", key)
	}
}

// Phases in which keys come, and go, here and there or one beside the other.
func TestOrderedAgreesWithASlice(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 50))
		var o ordered[int64]
		var keys []int64
		for range 12 {
			at, step := r.Int64N(20000), r.Int64N(3)
			grows := r.IntN(2) == 0
			for range r.IntN(2500) {
				key := at
				if step == 0 {
					key = r.Int64N(20000)
				}
				at += step
				lookUp(t, &o, keys, key)
				i, found := slices.BinarySearch(keys, key)
				if found && !grows {
					p, _ := o.floor(key)
					o.remove(p)
					keys = slices.Delete(keys, i, i+1)
				}
				if !found && grows {
					if p := o.insert(key, -key); o.key(p) != key || *o.val(p) != -key {
						t.Fatalf("the place of a new entry %d is that of %d", key, o.key(p))
					}
					keys = slices.Insert(keys, i, key)
				}
				if r.IntN(200) == 0 {
					compareOrdered(t, &o, keys)
				}
			}
			compareOrdered(t, &o, keys)
		}
		o.clear()
		compareOrdered(t, &o, nil)
	}
}

// Blocks of which most entries have gone do not stay, and what they take is counted.
func TestOrderedHoldsNoEmptyBlocks(t *testing.T) {
	const n, keep = 1 << 19, 100
	heap() // what other tests have left in pools goes with the second collection
	for _, order := range []string{"ascending", "descending", "random"} {
		keys := rand.New(rand.NewPCG(1, 51)).Perm(n)
		before := heap()
		var o ordered[int64]
		for i := range int64(n) {
			o.insert(i, i)
		}
		full := heap() - before
		if counted := o.memory(); counted < full*9/10 || counted > full*11/10 {
			t.Errorf("%d bytes are counted of %d", counted, full)
		}
		if order != "random" {
			slices.Sort(keys)
		}
		if order == "descending" {
			slices.Reverse(keys)
		}
		for _, key := range keys {
			if key%keep != 0 {
				p, _ := o.floor(int64(key))
				o.remove(p)
			}
		}
		kept := heap() - before
		if counted := o.memory(); counted < kept*9/10 || counted > kept*11/10+8192 {
			t.Errorf("%s: %d bytes are counted of %d", order, counted, kept)
		}
		if kept > full/keep*4+256<<10 {
			t.Errorf("%s: %d bytes are kept for 1 entry of %d, and all of them took %d", order, kept, keep, full)
		}
		if o.count != n/keep+1 {
			t.Errorf("%s: %d entries", order, o.count)
		}
		runtime.KeepAlive(keys)
	}
}
