// SPDX-License-Identifier: BSD-3-Clause

package main

// The pages of the window: hash.go has the design.

// pageSize is the unit of the window: small enough for scattered metadata,
// large enough that locks and map entries do not count.
const pageSize = 64 << 10

// A page holds bytes of the image until all digests have hashed them.
type page struct {
	data    []byte
	users   int  // threads that copy to it, or hash it
	removed bool // from the window, while it was in use
}

// newPage returns a page that is not in use. Each has memory of its own, so that
// those that nobody needs any more can go one by one.
func (l *linear) newPage() *page {
	last := len(l.spare) - 1
	if last < 0 {
		l.memory.used.Add(pageSize)
		return &page{data: make([]byte, pageSize)}
	}
	p := l.spare[last]
	l.spare = l.spare[:last]
	l.memory.spare.Add(-pageSize)
	return p
}

// removePage takes a page out of the window. If a thread still uses it, it is
// not used for other bytes before that one is done.
func (l *linear) removePage(at place) {
	p := *l.pages.val(at)
	l.pages.remove(at)
	if p.users > 0 {
		p.removed = true
	} else {
		l.keepSpare(p)
	}
}

// removeEmpty removes the pages of [lo, hi) that hold nothing any more.
func (l *linear) removeEmpty(lo, hi int64) {
	for at := lo - lo%pageSize; ; at += pageSize {
		p, ok := l.pages.from(at)
		if !ok || l.pages.key(p) >= hi {
			return
		}
		if at = l.pages.key(p); (*l.pages.val(p)).users == 0 && l.isEmpty(at) {
			l.removePage(p)
		}
	}
}

// isEmpty tells whether the page that begins at start holds no bytes but zeros, which
// need none.
func (l *linear) isEmpty(start int64) bool {
	for lo, hi := range l.taken.within(start, start+pageSize) {
		if !l.zeros.covers(lo, hi) {
			return false
		}
	}
	return true
}

// release ends the use of a page by one thread.
func (l *linear) release(p *page) {
	p.users--
	if p.removed && p.users == 0 {
		p.removed = false
		l.keepSpare(p)
	}
}

// keepSpare keeps a page that was removed, as long as there are clients and nobody
// else needs its memory.
func (l *linear) keepSpare(p *page) {
	if l.resting {
		l.memory.give(pageSize)
		return
	}
	l.spare = append(l.spare, p)
	l.memory.spare.Add(pageSize)
}

// reclaim gives up spare pages of n bytes, or all.
func (l *linear) reclaim(n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropPages(n)
}

func (l *linear) dropPages(n int64) {
	last := len(l.spare)
	for ; n > 0 && last > 0; n -= pageSize {
		last--
		l.spare[last] = nil
		l.memory.spare.Add(-pageSize)
		l.memory.give(pageSize)
	}
	l.spare = l.spare[:last]
}
