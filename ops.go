// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"iter"
	"slices"
	"sync/atomic"
)

// The requests in flight of an image: image.go has the invariant that they
// keep.

// An op is a request in flight, or whose data is being hashed.
type op struct {
	lo, hi  int64
	cursor  *cursor // of the connection that reads; nil for the filter itself
	active  bool    // this slot is in use
	below   bool    // the layer below has not answered yet
	writing bool
	tainted bool
	fed     bool // its data may have been hashed
}

// A cursor is where a connection reads.
type cursor struct {
	at      int64 // the end of its last read
	request int   // the number of that read
	writer  bool
	gone    bool // it sends no more requests

	scatter atomic.Int32 // how many of its requests were jumps, lately; of scatterAll
}

const scatterAll = 256

// moveTo notes a request of [lo, hi).
func (c *cursor) moveTo(lo, hi int64) {
	now, jump := c.scatter.Load(), int32(0)
	if c.at >= 0 && (lo-c.at > cursorSlack || c.at-lo > cursorSlack) {
		jump = scatterAll
	}
	c.scatter.Store(now + (jump-now)/8)
	c.at = hi
}

// isScattered tells whether the connection reads here and there, so that nobody
// can tell where next: most of its requests are jumps.
func (c *cursor) isScattered() bool { return c.scatter.Load() > scatterAll/2 }

// noTicket is the ticket of a request that needs no op.
const noTicket = ^uint64(0)

// beginRead lists a client's read of [lo, hi).
func (im *image) beginRead(c *cursor, lo, hi int64) uint64 {
	im.touch()
	if im.done.Load() {
		return noTicket
	}
	im.mu.Lock()
	told := !im.wanted && im.wantVerdict()
	im.requests++
	c.moveTo(lo, hi)
	c.request = im.requests
	ticket := im.list(op{lo: lo, hi: hi, cursor: c, below: true, tainted: im.isWritten(lo, hi)})
	im.mu.Unlock()
	if told {
		im.announce()
	}
	return ticket
}

// endRead takes the data of a read, or nil if it failed. Cursor is nil for
// the filter's own.
func (im *image) endRead(next layer, c *cursor, ticket uint64, lo int64, data []byte) {
	if c != nil {
		im.clientRead.Add(int64(len(data)))
	} else {
		im.filterRead.Add(int64(len(data)))
	}
	if ticket == noTicket {
		im.passBy(lo, data)
		return
	}
	defer im.unlist(ticket)
	if im.answered(ticket) && data != nil {
		im.passBy(lo, data)
		im.feed(next, c, lo, data)
	}
}

// beginExtents lists a client's question about the extents of [lo, hi): what
// the layer below says of them may be old when a write crosses it.
func (im *image) beginExtents(lo, hi int64) uint64 {
	im.touch()
	if im.done.Load() {
		return noTicket
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.list(op{lo: lo, hi: hi, tainted: im.isWritten(lo, hi)})
}

// trustsExtents tells whether what is said to be zero is.
func (im *image) trustsExtents() bool { return im.stale == nil || !im.stale.Load() }

// endExtents takes the answer to such a question: each yields the ranges that
// read as zero.
func (im *image) endExtents(ticket uint64, lo, hi int64, each iter.Seq2[int64, int64]) {
	if ticket != noTicket {
		defer im.unlist(ticket)
		if !im.answered(ticket) {
			return
		}
	}
	if !im.trustsExtents() {
		return
	}
	for a, b := range each {
		if a, b = max(a, lo), min(b, hi); a < b {
			im.passByZero(a, b)
			if ticket != noTicket {
				im.zero(a, b, false)
			}
		}
	}
}

// isWritten tells whether a write to a part of [lo, hi) is in flight.
func (im *image) isWritten(lo, hi int64) bool {
	return im.writes > 0 && slices.ContainsFunc(im.ops, func(o op) bool {
		return o.writing && o.lo < hi && lo < o.hi
	})
}

// beginWrite lists a request that changes [lo, hi).
func (im *image) beginWrite(c *cursor, lo, hi int64) uint64 {
	im.touch()
	if im.deferred.Load() {
		im.forgetOld()
	}
	ticket, result := im.listWrite(c, lo, hi)
	for _, k := range im.known {
		k.forget(lo, hi)
	}
	im.withdraw(result)
	return ticket
}

// withdraw takes back what has been said of the image up to a result, if it has
// not been yet. Another thread may be about to: nobody writes before that is done.
func (im *image) withdraw(result int) {
	if result == 0 {
		return
	}
	im.changed()
	im.noteWithdrawn(result)
}

func (im *image) noteWithdrawn(result int) {
	im.mu.Lock()
	defer im.mu.Unlock()
	im.withdrawn = max(im.withdrawn, result)
}

func (im *image) listWrite(c *cursor, lo, hi int64) (ticket uint64, result int) {
	im.mu.Lock()
	defer im.mu.Unlock()
	if !c.writer {
		c.writer = true
		im.writers++
	}
	// Of two writes at once, either may be the last. A read changes nothing, but
	// may see old or new bytes.
	tainted := im.isWritten(lo, hi)
	result = im.taint(lo, hi)
	return im.list(op{lo: lo, hi: hi, below: true, writing: true, tainted: tainted}), result
}

// taint notes a change of [lo, hi). It returns the number of the last result, if
// that is to be withdrawn.
func (im *image) taint(lo, hi int64) (result int) {
	im.written = true
	im.readBefore.Store(im.clientRead.Load())
	im.start.Store(nil)
	im.marks.Store(nil)
	im.began++
	im.done.Store(false)
	im.sums = nil
	im.wanted = false
	im.deferred.Store(false)
	for i := range im.ops {
		if p := &im.ops[i]; p.active && p.lo < hi && lo < p.hi && !p.tainted {
			p.tainted = true
			if p.fed {
				im.doubtful++
			}
		}
	}
	if im.results > im.withdrawn {
		result = im.results
	}
	return result
}

// beginForgetting makes [lo, hi) unknown: a client may have changed it through
// another export. It is listed as a write until endForgetting: nobody may find
// complete what is about to be forgotten. It returns the number of the last result,
// if that is to be withdrawn before.
func (im *image) beginForgetting(lo, hi int64) (ticket uint64, result int) {
	im.mu.Lock()
	result = im.taint(lo, hi)
	ticket = im.list(op{lo: lo, hi: hi, writing: true})
	im.mu.Unlock()
	if hi = min(hi, im.size); lo < hi {
		for _, k := range im.known {
			k.forget(lo, hi)
		}
	}
	return ticket, result
}

func (im *image) endForgetting(ticket uint64, result int) {
	im.noteWithdrawn(result)
	im.unlist(ticket)
}

// endWrite takes the data that was written, if the request was done.
func (im *image) endWrite(next layer, c *cursor, ticket uint64, lo int64, data []byte, ok bool) {
	defer im.unlist(ticket)
	if ok {
		im.clientWritten.Add(int64(len(data)))
		if im.answered(ticket) {
			im.feed(next, c, lo, data)
		}
	}
}

// endZero is endWrite for zeros.
func (im *image) endZero(ticket uint64, lo, hi int64, ok bool) {
	defer im.unlist(ticket)
	if ok {
		im.clientWritten.Add(hi - lo)
		if im.answered(ticket) {
			im.zero(lo, hi, false)
		}
	}
}

// endTrim asks what a trimmed range reads as now.
func (im *image) endTrim(next layer, ticket uint64, lo, hi int64, ok bool) {
	defer im.unlist(ticket)
	if !ok || !im.answered(ticket) || !im.trustsExtents() {
		return
	}
	for at := lo; at < hi; {
		end := at
		err := next.Extents(at, hi, func(offset, length int64, zero bool) {
			end = min(hi, offset+length)
			if zero && im.trustsExtents() {
				im.zero(offset, end, false)
			}
		})
		if err != nil || end <= at {
			return // it stays unknown; the layer below has said why
		}
		at = end
	}
}

func (im *image) list(o op) uint64 {
	o.active = true
	if o.writing {
		im.writes++
	}
	if n := len(im.freeOps); n > 0 {
		i := im.freeOps[n-1]
		im.freeOps = im.freeOps[:n-1]
		im.ops[i] = o
		return uint64(i)
	}
	im.ops = append(im.ops, o)
	return uint64(len(im.ops) - 1)
}

// beginFree lists a read of the filter's own of [lo, hi), or of its beginning
// if another request is further on, and returns where that ends. If a request
// is at lo, it returns where that one ends.
func (im *image) beginFree(lo, hi int64) (ticket uint64, end int64, ok bool) {
	im.mu.Lock()
	defer im.mu.Unlock()
	end = im.unclaimed(lo, hi)
	if end > lo {
		return im.list(op{lo: lo, hi: end, below: true}), end, true
	}
	end = lo + 1
	for _, o := range im.ops {
		if o.active && o.lo <= lo && lo < o.hi {
			end = max(end, o.hi)
		}
	}
	return 0, end, false
}

// shrink makes an op end earlier.
func (im *image) shrink(ticket uint64, hi int64) {
	im.mu.Lock()
	defer im.mu.Unlock()
	im.ops[ticket].hi = hi
}

// answered notes that the layer below has answered, and tells whether its
// answer may be used.
func (im *image) answered(ticket uint64) bool {
	im.mu.Lock()
	defer im.mu.Unlock()
	o := &im.ops[ticket]
	o.below = false
	o.fed = !o.tainted
	return o.fed
}

// unlist ends an op. If it became tainted after its data was taken, that is
// forgotten first.
func (im *image) unlist(ticket uint64) {
	im.mu.Lock()
	o := im.ops[ticket]
	if o.tainted && o.fed {
		im.mu.Unlock()
		for _, k := range im.known {
			k.forget(o.lo, o.hi)
		}
		im.mu.Lock()
	}
	im.remove(ticket)
	im.mu.Unlock()
	if o.tainted || o.writing {
		im.settle()
	}
}

func (im *image) remove(ticket uint64) {
	o := &im.ops[ticket]
	if o.tainted && o.fed {
		im.doubtful--
	}
	if o.writing {
		im.writes--
	}
	*o = op{}
	im.freeOps = append(im.freeOps, int(ticket))
}
