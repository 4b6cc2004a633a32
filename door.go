package main

import (
	"bytes"
	"fmt"

	"nbdkit-digest-filter/nbdkit"
)

// Notes on what a client must pass
//
// Before a client is let in, the first MiB of the image is read, said to be of
// some kind, and refused if that is not what was asked for (signature.go,
// unsafe.go). It is read once for all connections that are open at a time, and
// again for the next client after them: a web server may have been mended, or
// may have broken. What was read counts for the digests, and reads of it on a
// read-only connection are answered from memory.

// admit looks at the image on behalf of a new connection, and counts it. It
// returns the image's first bytes. Each successful call must be followed by
// leave.
func (im *image) admit(next layer, readonly bool) ([]byte, error) {
	im.door.Lock()
	defer im.door.Unlock()
	if im.refused.Load() {
		return nil, fmt.Errorf("%v is refused: its digest is not the expected one", im)
	}
	if im.guests > 0 && readonly && im.prefix != nil {
		im.guests++
		return im.prefix, nil
	}
	prefix := make([]byte, min(im.size, prefixSize))
	ticket := im.beginLook(0, int64(len(prefix)))
	if len(prefix) > 0 {
		if _, err := next.ReadAt(prefix, 0); err != nil {
			im.unlist(ticket)
			return nil, fmt.Errorf("the start of %v cannot be read: %w", im, err)
		}
	}
	s, err := identify(prefix, im.size, &lookingLayer{im, next})
	if err == nil {
		err = im.check(s, readonly)
	}
	if err != nil {
		im.unlist(ticket) // nothing of it counts
		return nil, err
	}
	im.endRead(next, nil, ticket, 0, prefix)
	if readonly {
		if im.seen != nil && !bytes.Equal(im.seen, prefix) {
			im.fail("the source has changed: its start is not what it was")
			nbdkit.Error("%v has changed: its start is not what an earlier client read", im)
		}
		im.seen, im.prefix = prefix, prefix
	}
	im.guests++
	im.setSignature(s)
	return prefix, nil
}

// leave ends what admit has begun.
func (im *image) leave() {
	im.door.Lock()
	defer im.door.Unlock()
	if im.guests--; im.guests == 0 {
		im.prefix = nil
	}
}

// check tells why an image must not be served.
func (im *image) check(s signature, readonly bool) error {
	if !readonly && s.kinds[0].name == "blank" {
		return nil // the destination of a copy
	}
	if err := im.conf.signature.check(s, im.size); err != nil {
		return fmt.Errorf("%v is refused: %w", im, err)
	}
	if im.conf.refuseUnsafe {
		if err := s.unsafe(); err != nil {
			return fmt.Errorf("%v is refused: %w", im, err)
		}
	}
	return nil
}

func (im *image) setSignature(s signature) {
	im.mu.Lock()
	first := im.signature == nil
	im.signature = &s
	im.mu.Unlock()
	if first {
		for _, w := range s.warnings {
			nbdkit.Error("warning: %v: %s", im, w)
		}
	}
}

// beginLook lists a read of the filter's own that other requests may overlap.
func (im *image) beginLook(lo, hi int64) uint64 {
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.list(op{lo: lo, hi: hi, reading: true, tainted: im.isWritten(lo, hi)})
}

// lookingLayer reads what tells the kind of an image, far from its start. It
// counts for the digests, too.
type lookingLayer struct {
	im   *image
	next layer
}

func (l *lookingLayer) ReadAt(p []byte, offset int64) (int, error) {
	ticket := l.im.beginLook(offset, offset+int64(len(p)))
	n, err := l.next.ReadAt(p, offset)
	if err != nil {
		l.im.unlist(ticket)
		return n, err
	}
	l.im.endRead(l.next, nil, ticket, offset, p)
	return n, nil
}
