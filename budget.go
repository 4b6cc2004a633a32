// SPDX-License-Identifier: BSD-3-Clause

package main

import "sync/atomic"

// A budget bounds the bytes that are buffered for one image, with those that are
// kept to be used again.
type budget struct {
	limit int64
	used  atomic.Int64

	spare   atomic.Int64  // of those used, bytes that reclaim can give back
	reclaim func(n int64) // nil if there is never a spare

	spareParts atomic.Int64 // of those used, bytes of trees' spare parts
}

// take reserves n bytes, if there is room, or can be made.
func (b *budget) take(n int64) bool {
	if b.tryTake(n) {
		return true
	}
	if b.spare.Load() == 0 {
		return false
	}
	b.reclaim(n)
	return b.tryTake(n)
}

func (b *budget) tryTake(n int64) bool {
	if b.used.Add(n) > b.limit {
		b.used.Add(-n)
		return false
	}
	return true
}

func (b *budget) give(n int64) { b.used.Add(-n) }
