package main

import (
	"slices"
	"time"
)

// The reorder window of linear digests: hash.go has the design.

// offer takes bytes of the image from offset on. It returns how many of them
// are taken care of, the rest does not fit in the window.
func (l *linear) offer(offset int64, p []byte) int {
	done := 0
	for done < len(p) {
		at := offset + int64(done)
		piece := p[done:min(int64(len(p)), int64(done)+pageSize-at%pageSize)]
		if !l.offerInPage(at, piece) {
			break
		}
		done += len(piece)
	}
	return done
}

func (l *linear) offerInPage(offset int64, p []byte) bool {
	end := offset + int64(len(p))
	for lo := offset; lo < end; {
		c, ok := l.take(lo, end)
		if !ok {
			return false
		}
		if c == nil {
			break
		}
		copy(c.page[c.lo%pageSize:], p[c.lo-offset:c.hi-offset])
		lo = c.hi
		l.copied(c)
	}
	return true
}

// take claims the first range within [lo, hi), a part of one page, that is
// not taken. It returns nil if there is none, and false if there is no room.
func (l *linear) take(lo, hi int64) (*copying, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lo, hi = l.taken.missing(lo, hi)
	if lo == hi || l.failure != nil {
		return nil, true
	}
	page := l.page(lo - lo%pageSize)
	if page == nil {
		return nil, false
	}
	l.taken.add(lo, hi)
	c := new(copying)
	if n := len(l.spareCopies); n > 0 {
		c = l.spareCopies[n-1]
		l.spareCopies = l.spareCopies[:n-1]
	}
	*c = copying{lo: lo, hi: hi, page: page}
	l.copies = append(l.copies, c)
	return c, true
}

// page returns the page that begins at start, or nil if there is no room.
func (l *linear) page(start int64) (page []byte) {
	if p, ok := l.pages.floor(start); ok && l.pages.key(p) == start {
		return *l.pages.val(p)
	}
	if !l.roomFor(start) {
		return nil
	}
	if n := len(l.spare); n > 0 {
		page = l.spare[n-1]
		l.spare = l.spare[:n-1]
	} else {
		page = make([]byte, pageSize)
	}
	l.pages.insert(start, page)
	return page
}

// roomFor reserves a page. A quarter of the window is kept for what is close
// to the frontier, so that readers far ahead do not stop those that move it.
func (l *linear) roomFor(start int64) bool {
	switch ahead := start - l.frontier; {
	case ahead <= 0:
		l.memory.used.Add(pageSize)
		return true
	case ahead > l.memory.limit/4 && l.memory.used.Load() > l.memory.limit/4*3-pageSize:
		return false
	}
	return l.memory.take(pageSize)
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
	i := slices.Index(l.copies, c)
	l.copies = slices.Delete(l.copies, i, i+1)
	l.spareCopies = append(l.spareCopies, c)
}

// zero takes a range that reads as zero.
func (l *linear) zero(lo, hi int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for lo < hi {
		a, b := l.taken.missing(lo, hi)
		l.taken.add(a, b)
		l.ready.add(a, b)
		l.zeros.add(a, b)
		lo = b
	}
	l.advance()
}

// advance moves the frontier over what is ready.
func (l *linear) advance() {
	frontier, _ := l.ready.missing(l.frontier, l.size)
	if frontier > l.frontier {
		l.frontier = frontier
		l.data.Broadcast()
		l.moved()
	}
}

// moved wakes those who wait for room or for the end.
func (l *linear) moved() {
	l.version++
	if l.wake != nil {
		close(l.wake)
		l.wake = nil
	}
}

// forget makes the bytes [lo, hi) unknown. If some of them were hashed, the
// digests begin anew, and what is in no page any more is unknown, too.
func (l *linear) forget(lo, hi int64) {
	if lo >= hi {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if slices.ContainsFunc(l.hashers, func(h *hasher) bool { return lo < h.pos+h.busy }) {
		lo, hi = 0, l.restart(hi)
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
	l.moved()
}

// restart makes the digests begin anew. It drops the pages that hold bytes
// before hi or bytes that were hashed, and returns where the last of them
// ends.
func (l *linear) restart(hi int64) int64 {
	hi = max(hi, l.slowest()+1)
	for _, h := range l.hashers {
		hi = max(hi, h.pos+h.busy)
		h.pos, h.busy = 0, 0
		if h.working {
			h.stale = true
		} else {
			h.sum.Reset()
		}
	}
	// A page may be in use by a thread that hashes it or copies to it: it is
	// left to that thread, and not used again.
	hi += (pageSize - hi%pageSize) % pageSize
	for {
		p, ok := l.pages.from(0)
		if !ok || l.pages.key(p) >= hi {
			return min(l.size, hi)
		}
		l.pages.remove(p)
		l.memory.give(pageSize)
	}
}

// drop counts bytes that were read but could not be kept.
func (l *linear) drop(n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropped += n
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
	return l.ready.total, min(l.dropped, l.size-l.ready.total)
}

// wait returns when bytes came or were hashed since version was read, or
// after the timeout. It tells which of the two it was.
func (l *linear) wait(version int, timeout time.Duration) bool {
	wake := l.watch(version)
	if wake == nil {
		return true
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-wake:
		return true
	case <-timer.C:
		return false
	}
}

func (l *linear) watch(version int) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if version != l.version {
		return nil
	}
	if l.wake == nil {
		l.wake = make(chan struct{})
	}
	return l.wake
}

// state returns the frontier, whether bytes before it wait to be hashed, and
// a version for wait.
func (l *linear) state() (frontier int64, busy bool, version int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.frontier, l.failure == nil && l.slowest() < l.frontier, l.version
}
