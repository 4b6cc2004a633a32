// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"

	"nbdkit-digest-filter/nbdkit"
)

// Notes on a source that changes
//
// Bytes that are known are not hashed again when a client reads them again:
// that would cost as much as the first time. But a source that hands out other
// bytes than before, such as a web server on which the image was replaced, must
// not go unnoticed. So of each stretch of an image, a few bytes are looked at
// whenever they pass by, first and later, at a place in it that nobody can
// foresee.
//
// An image that a client writes is not looked at any more: it is meant to
// change, and what of it was known is forgotten as it does.

const (
	markSize = 64 // bytes
	// A stretch is minStretch long, or longer if that takes more than a part of
	// digest-memory.
	minStretch = 16 << 10
	markShare  = 64
)

// marks are what was seen of an image.
type marks struct {
	size    int64
	seed    maphash.Seed
	zero    uint64 // the sum of zeros
	stretch int64

	make sync.Once
	sums []atomic.Uint64 // of each stretch, 0 if it was not seen yet
}

func newMarks(size, memory int64) *marks {
	s := &marks{size: size, seed: maphash.MakeSeed(), stretch: minStretch}
	for size/s.stretch*8 > memory/markShare {
		s.stretch *= 2
	}
	s.zero = s.sum(zeroes[:markSize])
	return s
}

// memory returns how many bytes the sums take.
func (s *marks) memory() int64 { return (s.size/s.stretch + 1) * 8 }

// stretches returns the sums, which nobody needs before there is data.
func (s *marks) stretches() []atomic.Uint64 {
	s.make.Do(func() { s.sums = make([]atomic.Uint64, s.size/s.stretch+1) })
	return s.sums
}

func (s *marks) sum(p []byte) uint64 { return maphash.Bytes(s.seed, p) | 1 }

// place returns where the mark of a stretch begins.
func (s *marks) place(i int64) int64 {
	// A multiplication spreads the index, and the seed hides the place.
	x := (uint64(i) + s.zero) * 0x9e3779b97f4a7c15
	return i*s.stretch + int64(x>>1)%(s.stretch-markSize+1)
}

// look compares the bytes from lo on with what was seen of them before. It
// returns where others are now, or -1.
func (s *marks) look(lo int64, p []byte) int64 {
	return s.each(lo, lo+int64(len(p)), func(at int64) uint64 { return s.sum(p[at-lo:][:markSize]) })
}

// lookZero is look for a range that reads as zero.
func (s *marks) lookZero(lo, hi int64) int64 {
	return s.each(lo, hi, func(int64) uint64 { return s.zero })
}

func (s *marks) each(lo, hi int64, sum func(at int64) uint64) int64 {
	sums := s.stretches()
	for i := lo / s.stretch; i < int64(len(sums)) && i*s.stretch < hi; i++ {
		if at := s.place(i); lo <= at && at+markSize <= hi && !meet(&sums[i], sum(at)) {
			return at
		}
	}
	return -1
}

// meet tells whether a mark is what was seen before, if anything was.
func meet(seen *atomic.Uint64, sum uint64) bool {
	return seen.Load() == sum || seen.CompareAndSwap(0, sum) || seen.Load() == sum
}

// passBy looks at bytes of the image that somebody has read.
func (im *image) passBy(lo int64, data []byte) {
	if s := im.marks.Load(); s != nil {
		if at := s.look(lo, data); at >= 0 {
			im.sourceChanged(at)
		}
	}
}

// passByZero is passBy for what was said to read as zero.
func (im *image) passByZero(lo, hi int64) {
	if s := im.marks.Load(); s != nil {
		if at := s.lookZero(lo, hi); at >= 0 {
			im.sourceChanged(at)
		}
	}
}

// logError is nbdkit's, but in unit tests.
var logError = nbdkit.Error

// sourceChanged ends the computation: what is known may be of bytes that no
// reader will get any more. When a client has begun to write meanwhile, it was
// that.
func (im *image) sourceChanged(at int64) {
	if im.isChanged() || im.refused.Load() {
		return
	}
	if im.fail(fmt.Sprintf("the source has changed: bytes at %d are not what they were", at)) {
		logError("%v has changed: bytes at %d are not what was read before", im, at)
	}
}
