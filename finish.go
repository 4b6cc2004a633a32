package main

import (
	"errors"
	"fmt"
	"sync"
)

// Notes on the end pass
//
// At shutdown the filter reads what it does not know yet: it asks for extents
// first, so that holes cost nothing, and reads the rest in large pieces, in
// order, several at a time if the layers below are parallel.

const (
	endReaders  = 4
	endReadSize = ownRead
	// endZeroSize bounds a hole that is taken at once by a digest that hashes
	// all of it, so that a signal is heeded within a second or so.
	endZeroSize = 1 << 30
)

// errInterrupted is returned by an endPass that was told to stop.
var errInterrupted = errors.New("interrupted")

// An endPass makes an image complete that has no clients any more.
type endPass struct {
	im          *image
	next        layer
	interrupted func() bool

	mu       sync.Mutex // guards all below
	position int64      // what is unknown before it is being read
	dataEnd  int64      // [position, dataEnd) is known to hold data
	err      error
}

// run reads what is unknown with several readers. It returns the first error.
func (e *endPass) run(readers int) error {
	// A pass leaves out what found no room in memory. Each makes the linear
	// digests' frontier move, so that the next one gets further.
	for last := int64(-1); ; {
		e.im.drain(e.interrupted)
		lo, hi := e.im.firstUnknown(0)
		if lo == hi {
			e.im.cutHoles(e.interrupted)
		}
		if e.err != nil || lo == hi || lo == last {
			return e.err
		}
		last = lo
		e.position, e.dataEnd = lo, 0
		e.im.retry()
		e.pass(readers)
	}
}

func (e *endPass) pass(readers int) {
	var wg sync.WaitGroup
	for range readers {
		wg.Go(func() {
			defer func() {
				if v := recover(); v != nil {
					e.fail(fmt.Errorf("internal error in the end pass: %v", v))
				}
			}()
			e.read()
		})
	}
	wg.Wait()
}

func (e *endPass) read() {
	for {
		lo, hi, zero, err := e.claim()
		if err != nil {
			e.fail(err)
			return
		}
		switch {
		case lo == hi:
			return
		case zero:
			e.im.zero(lo, hi)
		case !e.im.readOwn(e.next, lo, hi) && e.im.failedEarly():
			e.fail(fmt.Errorf("bytes from %d to %d cannot be read", lo, hi))
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

// claim returns the next range to be taken care of, or an empty one.
func (e *endPass) claim() (lo, hi int64, zero bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.interrupted() {
		return 0, 0, false, errInterrupted
	}
	if e.err != nil {
		return 0, 0, false, nil // another reader has said why
	}
	lo, hi = e.im.firstUnknown(e.position)
	if lo == hi {
		return lo, hi, false, nil
	}
	if lo >= e.dataEnd {
		if zero, err = e.look(lo); err != nil {
			return 0, 0, false, err
		}
	}
	if zero {
		hi = min(hi, e.dataEnd)
		if e.im.linear != nil {
			hi = min(hi, lo+min(endZeroSize, e.im.size-lo))
		}
		e.dataEnd = 0
	} else {
		hi = min(hi, e.dataEnd, lo-lo%endReadSize+min(endReadSize, e.im.size-lo+lo%endReadSize))
	}
	e.position = hi
	return lo, hi, zero, nil
}

// look asks the layer below for the extent at offset, with the next ones if
// they are alike, and makes dataEnd its end.
func (e *endPass) look(offset int64) (zero bool, err error) {
	first := true
	joined := true
	err = e.next.Extents(offset, e.im.size, func(at, length int64, z bool) {
		if first {
			zero, first = z, false
		}
		joined = joined && z == zero
		if joined {
			e.dataEnd = at + length
		}
	})
	if err == nil && (first || e.dataEnd <= offset) {
		err = fmt.Errorf("the layer below tells no extent at %d", offset)
	}
	return zero, err
}

// zero takes a range that reads as zero without a read.
func (im *image) zero(lo, hi int64) {
	for lo < hi {
		a, b := im.firstUnknown(lo)
		a, b = min(a, hi), min(b, hi)
		im.holes.Add(b - a)
		if im.linear != nil {
			im.linear.zero(a, b)
		}
		for _, t := range im.trees {
			t.addZero(a, b)
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

func (im *image) failedEarly() bool {
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.noEarly
}

// drain waits until the linear digests have hashed what is ready.
func (im *image) drain(interrupted func() bool) {
	if im.linear != nil {
		im.linear.drain(interrupted)
	}
	im.settle()
}
