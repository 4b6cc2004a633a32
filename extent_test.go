// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"math/rand/v2"
	"testing"
)

// extentModel is the plainest set of integers below its length.
type extentModel []bool

func (m extentModel) set(lo, hi int64, v bool) {
	for i := lo; i < hi; i++ {
		m[i] = v
	}
}

func (m extentModel) missing(lo, hi int64) (int64, int64) {
	for ; lo < hi; lo++ {
		if !m[lo] {
			end := lo
			for end < hi && !m[end] {
				end++
			}
			return lo, end
		}
	}
	return hi, hi
}

func compareExtents(t *testing.T, e *extents, m extentModel, lo, hi int64) {
	t.Helper()
	var total int64
	for _, v := range m {
		if v {
			total++
		}
	}
	if e.total != total {
		t.Fatalf("total is %d, the model has %d", e.total, total)
	}
	if a, b := e.missing(lo, hi); true {
		if c, d := m.missing(lo, hi); a != c || b != d {
			t.Fatalf("missing(%d, %d) = %d, %d, the model says %d, %d", lo, hi, a, b, c, d)
		}
	}
	next := lo
	for a, b := range e.within(lo, hi) {
		if c, d := m.missing(next, a); a > next && (c != next || d != a) {
			t.Fatalf("within(%d, %d) leaves out a part of [%d, %d)", lo, hi, next, a)
		}
		if c, d := m.missing(a, b); a >= b || c != d {
			t.Fatalf("within(%d, %d) has [%d, %d), of which [%d, %d) is missing", lo, hi, a, b, c, d)
		}
		next = b
	}
	if c, d := m.missing(next, hi); next < hi && (c != next || d != hi) {
		t.Fatalf("within(%d, %d) ends at %d", lo, hi, next)
	}
}

func TestExtentsAgreeWithAPlainSet(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		size := 1 + r.Int64N(5000)
		longest := 1 + r.Int64N(max(1, size/(1+r.Int64N(1000))))
		var e extents
		m := make(extentModel, size)
		for range 2000 {
			lo := r.Int64N(size)
			hi := min(size, lo+r.Int64N(longest+1))
			switch r.IntN(5) {
			case 0, 1, 2:
				e.add(lo, hi)
				m.set(lo, hi, true)
			case 3:
				e.remove(lo, hi)
				m.set(lo, hi, false)
			}
			if r.IntN(20) == 0 {
				compareExtents(t, &e, m, lo, hi)
				compareExtents(t, &e, m, 0, size)
			}
		}
		e.clear()
		compareExtents(t, &e, make(extentModel, size), 0, size)
	}
}

// Many single integers in random order fill several blocks and then join to
// one range.
func TestExtentsOfManyFragmentsJoin(t *testing.T) {
	const n = 20000
	r := rand.New(rand.NewPCG(1, 2))
	var e extents
	for _, i := range r.Perm(n) {
		e.add(int64(2*i), int64(2*i+1))
	}
	if e.total != n || len(e.ends.blocks) < n/blockLen {
		t.Fatalf("%d integers in %d blocks, want %d integers", e.total, len(e.ends.blocks), n)
	}
	for _, i := range r.Perm(n) {
		e.add(int64(2*i+1), int64(2*i+2))
	}
	if !e.covers(0, 2*n) || len(e.ends.blocks) != 1 {
		t.Fatalf("%d integers in %d blocks, want one range of %d", e.total, len(e.ends.blocks), 2*n)
	}
}

func TestExtentsUpToTheLargestOffset(t *testing.T) {
	const end = 1<<63 - 1
	var e extents
	e.add(0, end)
	e.remove(end-2, end-1)
	if lo, hi := e.missing(0, end); lo != end-2 || hi != end-1 || e.total != end-1 {
		t.Fatalf("missing is [%d, %d) with a total of %d", lo, hi, e.total)
	}
}

func FuzzExtents(f *testing.F) {
	f.Add([]byte{0, 10, 0, 5, 3, 1, 20, 30, 0})
	f.Fuzz(func(t *testing.T, ops []byte) {
		const size = 256
		var e extents
		m := make(extentModel, size)
		for ; len(ops) >= 3; ops = ops[3:] {
			lo, hi := int64(ops[0]), int64(ops[1])
			if ops[2]&1 == 0 {
				e.add(lo, hi)
				m.set(lo, hi, true)
			} else {
				e.remove(lo, hi)
				m.set(lo, hi, false)
			}
			compareExtents(t, &e, m, lo, hi)
		}
	})
}
