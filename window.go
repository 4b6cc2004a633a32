// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"cmp"
	"slices"
	"time"
)

// The reorder window of linear digests: hash.go has the design.

// offer takes bytes of the image from offset on. It returns how many of them
// are taken care of, the rest does not fit in the window.
func (l *linear) offer(offset int64, p []byte) int {
	end := offset + int64(len(p))
	for lo := offset; lo < end; {
		c, at, ok := l.take(lo, end)
		if !ok {
			return int(at - offset)
		}
		if c == nil {
			break
		}
		from := p[c.lo-offset : c.hi-offset]
		at = c.lo % pageSize
		for _, page := range c.pages {
			from = from[copy(page.data[at:], from):]
			at = 0
		}
		lo = c.hi
		l.copied(c)
	}
	return len(p)
}

// take claims the first range within [lo, hi) that is not taken, or a part of
// it. It returns nil if there is none, and where it begins and false if there
// is no room.
func (l *linear) take(lo, hi int64) (*copying, int64, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lo, hi = l.taken.missing(lo, hi)
	if lo == hi || l.failure != nil {
		return nil, hi, true
	}
	if !l.isRoomInLists(lo, hi) {
		return nil, lo, false
	}
	var c *copying
	if n := len(l.spareCopies); n > 0 {
		c = l.spareCopies[n-1]
		l.spareCopies = l.spareCopies[:n-1]
	} else {
		c = &copying{pages: make([]*page, 0, copyPages)}
	}
	c.lo, c.hi, c.pages, c.void = lo, lo, c.pages[:0], false
	for c.hi < hi && len(c.pages) < copyPages {
		start := c.hi - c.hi%pageSize
		page := l.pageAt(start)
		if page == nil {
			break
		}
		page.users++
		c.pages = append(c.pages, page)
		c.hi += min(hi-c.hi, pageSize-c.hi%pageSize)
	}
	if c.lo == c.hi {
		l.spareCopies = append(l.spareCopies, c)
		return nil, lo, false
	}
	l.taken.add(c.lo, c.hi)
	l.copies = append(l.copies, c)
	return c, lo, true
}

// copyPages is how many pages a thread claims at a time.
const copyPages = 16

// pageAt returns the page that begins at start, or nil if there is no room.
func (l *linear) pageAt(start int64) *page {
	if p, ok := l.pages.floor(start); ok && l.pages.key(p) == start {
		return *l.pages.val(p)
	}
	if !l.isRoomFor(start) {
		return nil
	}
	page := l.newPage()
	l.pages.insert(start, page)
	return page
}

// isRoomFor tells whether there is room for a page: within the budget, of
// which a quarter is kept for what is close to the frontier, so that readers
// far ahead do not stop those that move it; and in any case for the page that
// the slowest digest waits for.
func (l *linear) isRoomFor(start int64) bool { return l.isRoom(start, pageSize) }

func (l *linear) isRoom(start, need int64) bool {
	limit := l.memory.limit
	if start-l.frontier > limit/4 {
		limit -= limit / 4
	}
	inUse := l.memory.used.Load() - l.memory.spare.Load()
	return inUse+need <= limit || start <= l.slowest() && l.slowest() == l.frontier
}

// copied makes the bytes of a claim ready.
func (l *linear) copied(c *copying) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.void {
		l.taken.remove(c.lo, c.hi)
	} else {
		l.ready.add(c.lo, c.hi)
		l.advance()
	}
	for _, page := range c.pages {
		l.release(page)
	}
	if c.void {
		l.removeEmpty(c.lo, c.hi)
		l.moved()
	}
	i := slices.Index(l.copies, c)
	l.copies = slices.Delete(l.copies, i, i+1)
	l.spareCopies = append(l.spareCopies, c)
}

// zero takes a range that reads as zero. Unless needed is set, it is not kept if
// there is no memory for one more fragment.
func (l *linear) zero(lo, hi int64, needed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for lo < hi {
		a, b := l.taken.missing(lo, hi)
		if needed || !l.isFull() || a == l.frontier || l.zeros.touches(a, b) {
			l.taken.add(a, b)
			l.ready.add(a, b)
			l.zeros.add(a, b)
		}
		lo = b
	}
	l.advance()
}

// isRoomInLists tells whether bytes that are not taken may be: pieces that are beside
// none take memory, however small they are.
func (l *linear) isRoomInLists(lo, hi int64) bool {
	return !l.isFull() || lo == l.frontier || l.taken.touches(lo, hi)
}

// isFull tells whether the lists take all the memory that they may.
func (l *linear) isFull() bool {
	return l.taken.ends.memory()+l.ready.ends.memory()+l.zeros.ends.memory() > l.listLimit
}

// advance moves the frontier over what is ready.
func (l *linear) advance() {
	frontier, _ := l.ready.missing(l.frontier, l.size)
	if frontier > l.frontier {
		l.frontier = frontier
		l.data.Broadcast()
		l.moved()
	}
	l.start()
	l.quick.frontier.Store(l.frontier)
	l.quick.ready.Store(l.ready.total)
}

// forget makes the bytes [lo, hi) unknown. If some of them were hashed, the
// digests go back, and what is in no page any more is unknown, too.
func (l *linear) forget(lo, hi int64) {
	if lo >= hi {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isFull() {
		hi, _ = l.taken.missing(hi, l.size) // rather than make two pieces of one
	}
	if slices.ContainsFunc(l.hashers, func(h *hasher) bool { return lo < h.pos+h.busy }) {
		lo, hi = l.restart(lo, hi)
	}
	l.taken.remove(lo, hi)
	l.ready.remove(lo, hi)
	l.zeros.remove(lo, hi)
	l.frontier = min(l.frontier, lo)
	for _, c := range l.copies {
		if c.lo < hi && lo < c.hi {
			// Nobody else may copy these bytes before the thread is done.
			c.void = true
			l.taken.add(c.lo, c.hi)
		}
	}
	l.removeEmpty(lo, hi)
	l.advance()
	l.moved()
}

// restart makes the digests that have hashed bytes from lo on go back to
// where they can go on from. It drops the pages from there up to hi, or up to
// the last byte that was hashed, and returns what is unknown now.
func (l *linear) restart(lo, hi int64) (int64, int64) {
	hi = max(hi, l.slowest()+1)
	lo -= lo % pageSize
	for again := true; again; {
		again = false
		for _, h := range l.hashers {
			if end := h.pos + h.busy; end > lo {
				hi = max(hi, end)
				h.back(lo)
				lo = min(lo, h.pos)
				again = true
			}
		}
	}
	hi = min(l.size, hi)
	hi += min((pageSize-hi%pageSize)%pageSize, l.size-hi)
	for {
		p, ok := l.pages.from(lo)
		if !ok || l.pages.key(p) >= hi {
			return lo, hi
		}
		l.removePage(p)
	}
}

// isCovered tells whether all bytes are in the window, being copied to it, or
// hashed, so that the digest will come without another read.
func (l *linear) isCovered() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.taken.total == l.size && l.failure == nil && !l.stopped
}

// isHashing tells whether threads copy bytes to the window, or bytes of it wait to
// be hashed.
func (l *linear) isHashing() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failure == nil && !l.stopped && (len(l.copies) > 0 || l.slowest() < l.frontier)
}

// left returns how many bytes are still to be added.
func (l *linear) left() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size - l.taken.total
}

// unknown returns the first range within [lo, hi) that is still to be added.
func (l *linear) unknown(lo, hi int64) (int64, int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.taken.missing(lo, hi)
}

// known returns how many bytes are ready, and how many more were read but
// not kept.
func (l *linear) known() (ready, dropped int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ready.total, min(l.dropped.Load(), l.size-l.ready.total)
}

// A waiter is a thread that waits for room for need bytes at offset, of those before end.
type waiter struct {
	offset, end, need int64
	room              event
}

// waitForRoom returns true when there may be room for bytes at offset, and
// false after the timeout. A thread for which it returned true calls passOn
// when it has made use of the room.
func (l *linear) waitForRoom(offset, need int64, timeout time.Duration) bool {
	w := l.enqueue(offset, need)
	if w == nil {
		return true
	}
	w.room.wait(timeout)
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.waiters, w); i >= 0 {
		l.waiters = slices.Delete(l.waiters, i, i+1)
	}
	l.spareWaiters = append(l.spareWaiters, w)
	return w.room.happened()
}

// enqueue adds a waiter, in the order of offsets.
func (l *linear) enqueue(offset, need int64) *waiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failure != nil || l.isRoomFor(offset-offset%pageSize) && l.isRoomInLists(l.taken.missing(offset, offset+need)) {
		return nil
	}
	w := new(waiter)
	if n := len(l.spareWaiters); n > 0 {
		w = l.spareWaiters[n-1]
		l.spareWaiters = l.spareWaiters[:n-1]
	}
	w.offset, w.end, w.need = offset, offset+need, min(need, copyPages*pageSize)
	w.room.reset()
	i, _ := slices.BinarySearchFunc(l.waiters, offset, func(w *waiter, offset int64) int {
		return cmp.Compare(w.offset, offset)
	})
	l.waiters = slices.Insert(l.waiters, i, w)
	return w
}

// moved wakes the first waiter if it finds room now, and each one wakes the
// next, so that the threads that hash have little to do with it, and there are
// never many threads at once that take their processors. When all threads wait,
// that begins again when a part of the window is free, unless nothing more will
// become free.
func (l *linear) moved() {
	l.idle.Broadcast()
	if l.failure != nil {
		for l.wakeFirst(0) {
		}
		return
	}
	reserve := l.memory.limit / wakeShare
	if l.slowest() == l.frontier {
		reserve = 0
	}
	l.wakeFirst(reserve)
}

// wakeShare is the part of the window that must be free before a thread that
// waits for room is woken by one that hashes.
const wakeShare = 64

// wakeFirst wakes the first waiter, if there is room for it and for reserve
// bytes. It tells whether it did.
func (l *linear) wakeFirst(reserve int64) bool {
	if len(l.waiters) == 0 {
		return false
	}
	w := l.waiters[0]
	if l.failure == nil && !(l.isRoom(w.offset-w.offset%pageSize, max(w.need, reserve)) &&
		l.isRoomInLists(l.taken.missing(w.offset, w.end))) {
		return false
	}
	l.waiters = slices.Delete(l.waiters, 0, 1)
	w.room.signal()
	return true
}

// passOn wakes the next thread that waits for room.
func (l *linear) passOn() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wakeFirst(0)
}

// drain waits until what is ready is hashed, or interrupted returns true,
// which is asked now and then.
func (l *linear) drain(interrupted func() bool) {
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
				l.idle.Broadcast()
			}
		}
	}()
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.failure == nil && !l.stopped && l.slowest() < l.frontier && !interrupted() {
		l.idle.Wait()
	}
}

// state returns the frontier, and whether bytes before it wait to be hashed.
func (l *linear) state() (frontier int64, busy bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.frontier, l.failure == nil && !l.stopped && l.slowest() < l.frontier
}
