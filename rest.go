// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"fmt"
	"slices"
	"time"

	"nbdkit-digest-filter/nbdkit"
)

// Notes on the rest of an image
//
// When little is left of an image, the request in hand waits while the filter
// reads it, so that this request carries the verdict: it may be the last one of
// a copy. If the connection has other requests in flight, that falls to the last
// of them. If the filter cannot read the rest, there is no verdict: a request that
// might be the last one fails.
//
// What another client or the filter is reading of the rest is waited for, but
// not longer than restWait: a client whose request hangs must not make others
// hang, so little is read twice. A request waits when its own op has ended, so
// no two can wait for each other.

const (
	// The rest of an image is read when it is at most restMax bytes or
	// 1/restShare of the image.
	restMax   = 1 << 20
	restShare = 1000
	restPause = 2 * time.Millisecond
	restWait  = time.Second

	// Near where a client reads, the rest must be smaller than that share, unless
	// a verdict is due.
	nearShare = 64

	// copySlack is about what threads copy to the window at a time.
	copySlack = 8 << 20
)

// restLimit is how many bytes may be the rest of an image.
func (im *image) restLimit() int64 { return max(restMax, im.size/restShare) }

// littleLimit is restLimit for an image that may be small: most of it is not a rest,
// unless a verdict is due and clients have read at least half, so that they did not
// just have a look. What was read before the last write does not count: qemu-img reads
// what it has made of a container, to go on with it.
func (im *image) littleLimit() int64 {
	limit := im.restLimit()
	if len(im.conf.expect) > 0 && im.asked() >= im.size/2 {
		return limit
	}
	return min(limit, im.size/passedFactor)
}

// asked returns how many bytes clients have asked for since the last write. What they
// asked for twice counts twice.
func (im *image) asked() int64 {
	return im.clientRead.Load() - im.readBefore.Load() + im.holes.Load()
}

// isLittleLeft tells, mostly without a lock, whether there may be a rest.
func (im *image) isLittleLeft() bool {
	limit := im.restLimit()
	for _, d := range im.awaited {
		little := d.isNearEnd(limit)
		if !little && len(im.conf.expect) == 0 {
			return false
		}
		if little && len(im.conf.expect) > 0 {
			return true
		}
	}
	return len(im.conf.expect) == 0
}

// isRestDue tells whether the end of a request is to read the rest, as it may be
// the last one of a copy.
func (im *image) isRestDue() bool {
	if len(im.conf.expect) == 0 || im.conf.unread != early || im.done.Load() || !im.isLittleLeft() {
		return false
	}
	_, due := im.littleLeft()
	return due
}

// isNearEnd tells whether at most limit bytes are left, or may be. What moves on
// meanwhile is read first where it comes from: so it may count twice, but is not missed.
func (t *tree) isNearEnd(limit int64) bool {
	parts, staged := t.partBytes.Load(), t.stages.bytes.Load()
	return t.size-t.covered.Load()-staged-parts <= limit
}

func (l *linear) isNearEnd(limit int64) bool {
	left := l.size - l.quick.ready.Load()
	return left <= limit || left <= limit+copySlack && l.left() <= limit
}

// readRest reads what is left of the image, if that is so little that the
// request in hand can wait for it.
func (im *image) readRest(next layer, c *cursor) error {
	r, ok := im.rest(c)
	if ok && im.isNear(r.lo, r.hi) {
		// A request may have been received, and its thread not have run
		// since. If it comes too late, little is read twice.
		if len(im.conf.expect) == 0 && r.left > im.size/nearShare {
			return nil
		}
		time.Sleep(restPause)
		r, ok = im.rest(c)
	}
	for start := time.Now(); ok; r, ok = im.rest(c) {
		if nbdkit.Hurried() {
			return im.unread(r.lo, r.hi, errInterrupted)
		}
		ticket, listed := im.beginRest(r.lo, r.hi, time.Since(start) >= restWait || nbdkit.Stopping())
		if !listed {
			time.Sleep(othersPause)
		} else if err := im.readListed(next, ticket, r.lo, r.hi); r.isUnread() {
			return im.unread(r.lo, r.hi, err)
		}
	}
	return nil
}

// unread returns the error for a request that waits for the verdict when the rest
// cannot be read, or a second signal came. Without an expectation that is for the end.
func (im *image) unread(lo, hi int64, err error) error {
	switch {
	case err == nil || len(im.conf.expect) == 0:
		return nil
	case nbdkit.Stopping():
		return errNoVerdict // some layers refuse to work then
	}
	// Not its own error: what the client has asked for may well be there.
	return fmt.Errorf("%v: bytes from %d to %d cannot be read, so that its digest cannot be compared", im, lo, hi)
}

// A lack is the first unknown range of a digest of which little is left.
type lack struct {
	lo, hi int64
	left   int64 // how much that is
	digest awaited
}

// isUnread tells whether the range is as unknown as it was, though somebody has read
// it. What other digests lack is no measure: they can come to lack little meanwhile.
func (l lack) isUnread() bool {
	lo, hi := l.digest.unknown(l.lo, l.lo+1)
	return lo < hi
}

// littleLeft returns the first lack of the expected digests. If none is expected,
// little must be left of all.
func (im *image) littleLeft() (first lack, ok bool) {
	limit := im.littleLimit()
	first.lo = im.size
	for _, d := range im.awaited {
		lo, hi := d.unknown(0, im.size) // what is on a stage is not left
		n := limit + 1
		if d.isNearEnd(limit) {
			n = d.left()
		}
		switch {
		case n <= limit && lo < first.lo:
			first = lack{lo, hi, max(first.left, n), d}
		case n > limit && len(im.conf.expect) == 0:
			return lack{}, false
		}
	}
	return first, first.lo < im.size
}

// rest returns a piece of what is unknown, if that is little, and no other
// request of the connection may bring it.
func (im *image) rest(c *cursor) (r lack, ok bool) {
	if r, ok = im.littleLeft(); !ok {
		return r, false
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.isPaused() && len(im.conf.expect) == 0 || im.writers > 0 || slices.ContainsFunc(im.ops, func(o op) bool {
		return o.active && (o.cursor == c || len(im.conf.expect) == 0)
	}) {
		return r, false
	}
	// A client that reads on from here will reach the end by itself, and
	// would read it twice.
	if r.left > min(64<<10, im.size/nearShare) && im.readsOn(c, r.lo, r.hi) {
		return r, false
	}
	if end := im.unclaimed(r.lo, r.hi); end > r.lo {
		r.hi = end
	}
	r.hi = min(r.hi, r.lo+ownRead)
	return r, true
}

// readsOn tells whether a client may be expected to go on in [lo, hi). If a
// verdict is due, that another one does is no reason to go without; nor is where this
// one is, once it may have asked for all, and what it read found no room.
func (im *image) readsOn(c *cursor, lo, hi int64) bool {
	if len(im.conf.expect) > 0 {
		return lo <= c.at && c.at < hi && im.asked() < im.size
	}
	return im.atWork(lo, hi, 0)
}

// isNear tells whether a connection may be about to read in [lo, hi).
func (im *image) isNear(lo, hi int64) bool {
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.atWork(lo, hi, cursorSlack)
}

// beginRest is beginOwn, and if it is time that somebody reads this, whoever
// else is about to.
func (im *image) beginRest(lo, hi int64, anyway bool) (ticket uint64, ok bool) {
	if anyway {
		return im.beginLook(lo, hi), true
	}
	return im.beginOwn(lo, hi)
}
