// SPDX-License-Identifier: BSD-3-Clause

package main

import "iter"

// extents is a set of int64s, kept as ranges [lo, hi) that neither overlap
// nor touch. Mostly they are bytes of an image; a tree counts leaves. The
// zero value is the empty set.
type extents struct {
	ends  ordered[int64] // lo → hi
	total int64          // the sum of hi - lo
}

// add makes [lo, hi) part of the set.
func (e *extents) add(lo, hi int64) {
	if lo >= hi {
		return
	}
	p, ok := e.ends.floor(lo)
	if ok && *e.ends.val(p) >= lo {
		end := e.ends.val(p)
		if *end >= hi {
			return
		}
		e.total += hi - *end
		*end = hi
	} else {
		p = e.ends.insertAfter(p, ok, lo, hi)
		e.total += hi - lo
	}
	// Ranges that begin inside the new one, or where it ends, join it.
	for {
		q, ok := e.ends.next(p)
		if !ok || e.ends.key(q) > hi {
			return
		}
		end := *e.ends.val(q)
		e.total -= min(end, hi) - e.ends.key(q)
		if end > hi {
			*e.ends.val(p) = end
			e.ends.remove(q)
			return
		}
		e.ends.remove(q)
		p, _ = e.ends.floor(lo)
	}
}

// remove takes [lo, hi) out of the set.
func (e *extents) remove(lo, hi int64) {
	for lo < hi {
		p, ok := e.ends.floor(lo)
		if !ok || *e.ends.val(p) <= lo {
			if p, ok = e.ends.from(lo); !ok {
				return
			}
		}
		first, end := e.ends.key(p), *e.ends.val(p)
		if first >= hi {
			return
		}
		if first < lo {
			*e.ends.val(p) = lo
		} else {
			e.ends.remove(p)
		}
		e.total -= min(end, hi) - max(first, lo)
		if end > hi {
			e.ends.insert(hi, end)
			return
		}
		lo = end
	}
}

// missing returns the first range within [lo, hi) that is not in the set. It
// is empty if there is none.
func (e *extents) missing(lo, hi int64) (int64, int64) {
	if lo >= hi {
		return hi, hi
	}
	p, ok := e.ends.floor(lo)
	if ok {
		lo = max(lo, *e.ends.val(p))
		p, ok = e.ends.next(p)
	} else {
		p, ok = e.ends.from(lo)
	}
	if lo >= hi {
		return hi, hi
	}
	if ok {
		hi = min(hi, e.ends.key(p))
	}
	return lo, hi
}

// covers tells whether all of [lo, hi) is in the set.
func (e *extents) covers(lo, hi int64) bool {
	lo, hi = e.missing(lo, hi)
	return lo == hi
}

// touches tells whether [lo, hi) is beside a range of the set, so that it would not be
// one of its own.
func (e *extents) touches(lo, hi int64) bool { return e.covers(lo-1, lo) || e.covers(hi, hi+1) }

// within returns the parts of [lo, hi) that are in the set, in order. The
// set must not change meanwhile.
func (e *extents) within(lo, hi int64) iter.Seq2[int64, int64] {
	return func(yield func(int64, int64) bool) {
		p, ok := e.ends.floor(lo)
		if !ok {
			p, ok = e.ends.from(lo)
		}
		for ; ok; p, ok = e.ends.next(p) {
			a, b := max(e.ends.key(p), lo), min(*e.ends.val(p), hi)
			if a < b && !yield(a, b) || a >= hi {
				return
			}
		}
	}
}

func (e *extents) clear() {
	e.ends.clear()
	e.total = 0
}
