// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"nbdkit-digest-filter/nbdkit"
)

// Notes on the end pass
//
// At shutdown, or when a client asks for the final digest, the filter reads
// what it does not know yet: it asks for extents first, so that holes cost
// nothing, and reads the rest in large pieces, in order, several at a time if
// the layers below are parallel.
//
// Other clients may be at work meanwhile. What they are reading is left to
// them, and looked at again when they have ended. An extent that reads as zero
// is like data: it is asked for, and taken, within an op, so that a write in
// between taints it. Where the layer below does not tell extents, though it could be
// asked, there may be data.

const (
	endReaders  = 4
	endReadSize = ownRead
	// The end pass asks for extents so far ahead: twice as far as the last time if one
	// was as long as that, else as little as it can. A hole is taken at once as far as that:
	// where a digest hashes it, a signal is heeded within a second or so.
	minAhead = 2 * endReadSize
	maxAhead = 1 << 30
	// endBlindSize is what is taken for data when its extent cannot be told. The layer
	// below logs each time that it fails, so it is not asked too often.
	endBlindSize = 1 << 30
	// othersPause is how long requests of clients are waited for at a time.
	othersPause = 2 * time.Millisecond
)

// errInterrupted is returned by an endPass that was told to stop.
var errInterrupted = errors.New("interrupted")

// An endPass reads what is unknown of an image.
type endPass struct {
	im          *image
	next        layer
	interrupted func() bool

	mu       sync.Mutex // guards all below
	position int64      // what is unknown before it is being read
	dataEnd  int64      // [position, dataEnd) is known to hold data
	ahead    int64      // how far to look for extents, in multiples of endReadSize
	passedBy bool       // something was left to a client
	err      error
}

// run reads what is unknown with several readers, or on the caller's thread if
// it is one. It returns the first error.
func (e *endPass) run(readers int) error {
	// A pass leaves out what found no room in memory, and what clients are
	// reading. Each makes the linear digests' frontier move, so that the next
	// one gets further.
	for last := int64(-1); ; {
		e.im.drain(e.interrupted)
		lo, hi := e.im.firstUnknown(0)
		if lo == hi {
			e.im.cutHoles(e.interrupted)
			if e.err == nil && e.interrupted() && !e.im.finishedOrFailed() {
				e.err = errInterrupted
			}
		}
		switch {
		case e.err == nil && lo == hi && e.im.isHashing() && !e.interrupted():
			// By a client that has just gone, or that has others' leaves on its
			// stage, or by another reader that has the last bytes.
			time.Sleep(othersPause)
			continue
		case e.err != nil || lo == hi:
			e.im.settle() // what was still hashed just before
			return e.err
		case e.passedBy:
			time.Sleep(othersPause)
		case lo == last:
			return nil
		}
		if lo != last {
			e.im.endPause()
		}
		last = lo
		e.position, e.dataEnd, e.ahead, e.passedBy = lo, 0, minAhead, false
		e.pass(readers)
	}
}

// finish reads what clients have left, until another one begins to write: that one
// will leave, too.
func (im *image) finish(next layer, readers int) {
	pass := endPass{im: im, next: next, interrupted: func() bool {
		return nbdkit.Hurried() || !im.canBeCompleted()
	}}
	before, _ := im.quiet()
	err := pass.run(readers)
	now, _ := im.quiet()
	switch {
	case im.finishedOrFailed(), !nbdkit.Hurried() && (errors.Is(err, errInterrupted) || now != before):
	case err != nil:
		nbdkit.Error("%v cannot be completed: %v", im, err)
	case im.canBeCompleted():
		nbdkit.Error("%v is not complete: %d of %d bytes are known; more digest-memory may help", im, im.progress(), im.size)
	}
}

// isHashing tells whether the digest is not there yet, although nothing is unknown,
// because threads are at work.
func (im *image) isHashing() bool {
	return !im.finishedOrFailed() && slices.ContainsFunc(im.known, knowledge.isHashing)
}

func (e *endPass) pass(readers int) {
	if readers == 1 {
		e.read()
		return
	}
	// Threads of their own, because on that of a client some layers, such as
	// nbdkit's delay filter, fail a read when the client has gone.
	var wg sync.WaitGroup
	for range readers {
		wg.Go(e.read)
	}
	wg.Wait()
}

func (e *endPass) read() {
	defer func() {
		if v := recover(); v != nil {
			err := fmt.Errorf("internal error in the end pass: %v", v)
			e.im.fail(err.Error()) // what it has listed stays there
			e.fail(err)
		}
	}()
	for {
		p, err := e.claim()
		if err == nil && p.lo < p.hi {
			err = e.im.take(e.next, p)
		}
		if err != nil {
			e.fail(err)
			return
		}
		if p.lo == p.hi {
			return
		}
	}
}

func (e *endPass) fail(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err == nil {
		e.err = err
	}
}

// A piece is an unknown range, listed as an op of the filter's own.
type piece struct {
	lo, hi int64
	ticket uint64
	zero   bool // it reads as zero
}

// claim returns the next piece to be taken, or an empty one.
func (e *endPass) claim() (piece, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for {
		if e.interrupted() {
			return piece{}, errInterrupted
		}
		if e.err != nil {
			return piece{}, nil // another reader has said why
		}
		lo, hi := e.im.firstUnknown(e.position)
		if lo == hi {
			return piece{}, nil
		}
		ticket, end, ok := e.im.beginFree(lo, hi)
		if !ok {
			e.position, e.passedBy = end, true
			continue
		}
		p := piece{lo: lo, hi: end, ticket: ticket}
		// Listed now, so nobody else begins to read it; but somebody may have
		// just ended.
		if first, end := e.im.firstUnknown(lo); first != lo {
			e.im.unlist(ticket)
			continue
		} else {
			p.hi = min(p.hi, end)
		}
		e.cut(&p)
		e.im.shrink(ticket, p.hi)
		e.position = p.hi
		return p, nil
	}
}

// cut makes a piece as long as is good to be taken at once, all of it a hole
// or data.
func (e *endPass) cut(p *piece) {
	if p.lo >= e.dataEnd {
		p.zero = e.look(p.lo)
	}
	if p.zero {
		p.hi = min(p.hi, e.dataEnd)
		e.dataEnd = 0
	} else {
		ahead := p.lo % endReadSize
		p.hi = min(p.hi, e.dataEnd, p.lo-ahead+min(endReadSize, e.im.size-p.lo+ahead))
	}
}

// look asks the layer below for the extent at offset, with the next ones if
// they are alike, and makes dataEnd its end, or that of what it has looked at. To ask for
// all of the image each time would be quadratic in what it is made of.
func (e *endPass) look(offset int64) (zero bool) {
	start := offset - offset%endReadSize
	end := start + min(e.ahead, e.im.size-start)
	first := true
	joined := true
	var err error
	if e.im.trustsExtents() {
		err = e.next.Extents(offset, end, func(at, length int64, z bool) {
			if first {
				zero, first = z, false
			}
			joined = joined && z == zero
			if joined {
				e.dataEnd = at + length
			}
		})
	}
	if err != nil || first || e.dataEnd <= offset {
		e.dataEnd = offset + min(endBlindSize, e.im.size-offset)
		return false
	}
	if e.dataEnd >= end {
		e.ahead = min(2*e.ahead, maxAhead)
	} else {
		e.ahead = minAhead
	}
	return zero
}

// take makes a piece known.
func (im *image) take(next layer, p piece) error {
	if p.zero {
		defer im.unlist(p.ticket)
		if im.answered(p.ticket) {
			im.passByZero(p.lo, p.hi)
			im.zero(p.lo, p.hi, true)
		}
		return nil
	}
	buf := ownBuffers.Get().(*[ownRead]byte)
	defer ownBuffers.Put(buf)
	data := buf[:p.hi-p.lo]
	_, err := next.ReadAt(data, p.lo)
	if err != nil {
		data = nil
		err = fmt.Errorf("bytes from %d to %d cannot be read", p.lo, p.hi)
	}
	im.endRead(next, nil, p.ticket, p.lo, data)
	return err
}

// zero takes a range that reads as zero without a read. What the filter asked
// for by itself is needed: it must not be in vain.
func (im *image) zero(lo, hi int64, needed bool) {
	for lo < hi {
		a, b := im.firstUnknown(lo)
		a, b = min(a, hi), min(b, hi)
		im.holes.Add(b - a)
		if im.linear != nil {
			im.linear.zero(a, b, needed)
		}
		for _, t := range im.trees {
			t.addZero(a, b, needed)
		}
		lo = b
	}
	im.settle()
}

// cutHoles does what was too much to be done while a client waits.
func (im *image) cutHoles(interrupted func() bool) {
	for _, t := range im.trees {
		t.cutHoles(-1, interrupted)
	}
	im.settle()
}

// drain waits until the linear digests have hashed what is ready.
func (im *image) drain(interrupted func() bool) {
	if im.linear != nil {
		im.linear.drain(interrupted)
	}
	im.settle()
}
