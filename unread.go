// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"slices"
	"sync"
	"time"

	"nbdkit-digest-filter/nbdkit"
)

// Notes on the bytes that no client asks for
//
// A client that reads a compressed qcow2 leaves gaps that it never asks for,
// and a linear digest cannot pass them. So a gap that the client has passed
// over is read by the filter (digest-unread=early), within the request of
// that client: there it holds whatever locks the layers below need. What a
// probe of the header or of the last sector leaves unread is not such a gap,
// nor is a range that another connection is about to read.

const (
	// A gap is passed over when so many times its length, and at least
	// passedMin, has been read behind it, or a third of digest-memory.
	passedFactor = 8
	passedMin    = 1 << 20

	// A connection is at work where it read last, for so many requests of
	// all connections.
	cursorLife = 256
	// Requests of a client that reads in order, but has several in flight,
	// overtake each other by so many bytes.
	cursorSlack = 4 << 20

	// ownRead is the most that the filter reads in one request.
	ownRead = 1 << 20

	// ownPerRequest is how much of what was passed over the filter reads, about,
	// while one request of a client waits.
	ownPerRequest = ownRead

	// failedPause is how much clients read at least before the filter reads a gap
	// again, when it could not read one.
	failedPause = 8 << 20

	// stallTime is how long readers far ahead wait for those behind.
	stallTime = 250 * time.Millisecond
)

var ownBuffers = sync.Pool{New: func() any { return new([ownRead]byte) }}

// feedSlowly hands data to the linear digests that did not fit in the window
// at once. It waits as long as the frontier moves, or may be expected to.
func (im *image) feedSlowly(next layer, c *cursor, lo int64, data []byte) {
	l := im.linear
	if c != nil && c.isScattered() {
		// Its next requests will not move the frontier to here.
		l.dropped.Add(int64(len(data)))
		return
	}
	waited, woken, own := time.Duration(0), false, int64(0)
	defer func() {
		if woken {
			l.passOn()
		}
	}()
	for {
		frontier, busy := l.state()
		n := l.offer(lo, data)
		lo, data = lo+int64(n), data[n:]
		if len(data) == 0 {
			return
		}
		if n > 0 {
			waited = 0
			continue
		}
		if !busy {
			if c != nil && own < ownPerRequest {
				if n := im.readGap(next); n > 0 {
					own += n
					continue
				}
			}
			if im.expected(frontier) {
				waited = 0
			} else if im.isStalled() || waited >= stallTime {
				im.setStalled(frontier)
				l.dropped.Add(int64(len(data)))
				return
			}
		}
		const tick = 10 * time.Millisecond
		if l.waitForRoom(lo, int64(len(data)), tick) {
			waited, woken = 0, true
		} else {
			waited += tick
		}
	}
}

// expected tells whether a request that brings the byte at offset is with the
// layer below.
func (im *image) expected(offset int64) bool {
	im.mu.Lock()
	defer im.mu.Unlock()
	return slices.ContainsFunc(im.ops, func(o op) bool {
		return o.below && o.lo <= offset && offset < o.hi
	})
}

// isStalled tells whether the frontier is where no client moves it: waiting
// for it once was in vain, and clients have hardly moved it since.
func (im *image) isStalled() bool {
	frontier, _ := im.linear.state()
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.stalled && frontier < im.stalledAt+im.memory.limit/4
}

func (im *image) setStalled(frontier int64) {
	im.mu.Lock()
	defer im.mu.Unlock()
	im.stalled, im.stalledAt = true, frontier
}

// keepStalled notes that it was not a client that has moved the frontier.
func (im *image) keepStalled() {
	frontier, _ := im.linear.state()
	im.mu.Lock()
	defer im.mu.Unlock()
	im.stalledAt = max(im.stalledAt, frontier)
}

// readEarly reads what clients have passed over, and the rest of the image
// when little is left, within a request of the connection whose cursor it is. An
// error is that request's.
func (im *image) readEarly(next layer, c *cursor) error {
	if im.conf.unread != early || im.done.Load() ||
		!im.isLittleLeft() && (im.noteFlow() || !im.takeLook()) {
		return nil
	}
	for own := int64(0); own < ownPerRequest; {
		n := im.readGap(next)
		if n == 0 {
			break
		}
		own += n
	}
	return im.readRest(next, c)
}

// noteFlow notes, without a lock, where the linear digests are. It tells whether they
// move on by themselves, and the end is far.
func (im *image) noteFlow() bool {
	l := im.linear
	if l == nil {
		return false
	}
	frontier, ready := l.quick.frontier.Load(), l.quick.ready.Load()
	moved := im.lastFrontier.Swap(frontier) != frontier
	return (moved || ready-frontier < passedMin) && im.size-ready > im.restLimit()
}

// takeLook tells whether clients have read so much since a gap was looked for that it
// is worth another look: the caller's.
func (im *image) takeLook() bool {
	read, last := im.clientRead.Load(), im.lookedAt.Load()
	return read-last >= passedMin/4 && im.lookedAt.CompareAndSwap(last, read)
}

// readGap reads one piece of the first gap, if it was passed over, and returns
// its length, or 0.
func (im *image) readGap(next layer) int64 {
	if im.conf.unread != early || nbdkit.Hurried() {
		return 0
	}
	lo, hi, passed := im.passedGap()
	if !passed || !im.readOwn(next, lo, hi) {
		return 0
	}
	if im.linear != nil {
		im.keepStalled()
	}
	return hi - lo
}

// passedGap returns a piece of the first unknown range, if clients have
// passed over it.
func (im *image) passedGap() (lo, hi int64, ok bool) {
	var behind int64
	lo, hi = im.size, im.size
	for _, t := range im.trees {
		if a, b := t.unknown(0, im.size); a < lo {
			lo, hi = a, b
			behind = t.known() + t.partBytes.Load() - a
		}
	}
	if im.linear != nil {
		if a, b := im.linear.unknown(0, im.size); a < lo {
			lo, hi = a, b
			ready, dropped := im.linear.known()
			behind = ready + dropped - a
		}
	}
	stalled := im.linear != nil && im.isStalled()
	length := hi - lo
	near := behind >= passedMin && behind/passedFactor >= length
	if lo == hi || !near && behind < im.conf.memory/3 {
		return 0, 0, false
	}

	im.mu.Lock()
	defer im.mu.Unlock()
	if im.isPaused() || im.writers > 0 {
		return 0, 0, false
	}
	if hi = im.unclaimed(lo, hi); lo == hi {
		return 0, 0, false
	}
	if !stalled && im.atWork(lo, hi, cursorSlack) {
		return 0, 0, false
	}
	hi = min(hi, lo+ownRead)
	// A client that works its way through another part of the image must not
	// pay for the whole gap at once, and one that reads here and there not for
	// all the gaps that it leaves.
	if im.credit.Load() < hi-lo {
		return 0, 0, false
	}
	im.credit.Add(lo - hi)
	return lo, hi, true
}

// unclaimed returns where the first op in [lo, hi) begins, or hi.
func (im *image) unclaimed(lo, hi int64) int64 {
	for _, o := range im.ops {
		if o.active && o.lo < hi && lo < o.hi {
			hi = max(lo, o.lo)
		}
	}
	return hi
}

// atWork tells whether a connection read last in [lo, hi), or at most slack
// bytes from it, and so may be expected to go on there.
func (im *image) atWork(lo, hi, slack int64) bool {
	for c := range im.cursors {
		if lo-slack <= c.at && c.at-slack < hi && im.requests-c.request < cursorLife {
			return true
		}
	}
	return false
}

// firstUnknown returns the first range from offset on that some digest does
// not know.
func (im *image) firstUnknown(offset int64) (lo, hi int64) {
	lo, hi = im.size, im.size
	for _, k := range im.known {
		if a, b := k.unknown(offset, im.size); a < lo {
			lo, hi = a, b
		}
	}
	return lo, hi
}

// readOwn reads [lo, hi), at most ownRead bytes, of which lo was unknown. It
// returns false if that failed, or did not help.
func (im *image) readOwn(next layer, lo, hi int64) bool {
	ticket, ok := im.beginOwn(lo, hi)
	if !ok || im.readListed(next, ticket, lo, hi) != nil {
		return false
	}
	still, _ := im.firstUnknown(lo)
	return still != lo
}

// readListed is readOwn for a read that is listed. If it fails, the layer below has
// logged why.
func (im *image) readListed(next layer, ticket uint64, lo, hi int64) error {
	// Listed now, so nobody else begins to read it; but somebody may have
	// just ended.
	first, end := im.firstUnknown(lo)
	if first != lo {
		im.unlist(ticket)
		return nil
	}
	hi = min(hi, end)
	buf := ownBuffers.Get().(*[ownRead]byte)
	defer ownBuffers.Put(buf)
	data := buf[:hi-lo]
	if _, err := next.ReadAt(data, lo); err != nil {
		im.endRead(next, nil, ticket, lo, nil)
		im.pauseEarly()
		return err
	}
	im.endRead(next, nil, ticket, lo, data)
	return nil
}

// pauseEarly makes the filter read no gap for a while. It gets longer with each time,
// as a source may take its time to fail.
func (im *image) pauseEarly() {
	read := im.clientRead.Load()
	im.mu.Lock()
	defer im.mu.Unlock()
	im.earlyFrom = read + max(failedPause, read/2)
}

func (im *image) isPaused() bool { return im.clientRead.Load() < im.earlyFrom }

// beginOwn lists a read of the filter's own, unless there is another request
// in that range.
func (im *image) beginOwn(lo, hi int64) (ticket uint64, ok bool) {
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.unclaimed(lo, hi) != hi {
		return 0, false
	}
	return im.list(op{lo: lo, hi: hi, below: true, tainted: im.isWritten(lo, hi)}), true
}
