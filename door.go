// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"cmp"
	"crypto/sha256"
	"fmt"

	"nbdkit-digest-filter/nbdkit"
)

// Notes on what a client must pass
//
// Before a client is let in, the first MiB of the image is read, said to be of
// some kind, and refused if that is not what was asked for (signature.go,
// unsafe.go). It is read once for all connections that are open at a time, and
// again for the next client after them: a web server may have been mended, or
// may have broken. What was read counts for the digests, and reads of it are
// answered from memory until somebody writes to the image. If the layer below does
// not say that all connections see the same (multi-conn), it is read for each client,
// and answers that one alone. If everything is to be let in, nobody looks.
//
// What was read at the door may be all of a small image, and a client that may
// write may be about to replace it. So may the next one what a client has written that
// is gone: qemu-img convert makes its target on a connection of its own. So as long as
// no client has read, nothing is judged for good: a mismatch is in the result, and goes
// with the next write. A question about extents that tells the rest
// of a wrong image fails even so, as it may be the last one of a copy: a reader
// goes on to read, and a writer writes zeros where it need not have.

// A start is what was read at the door, and answers reads.
type start struct {
	bytes []byte
	of    *conn // whose it is, or nil if it is everybody's
}

// admit looks at the image on behalf of a new connection, and counts it. The start
// that is read is its own, or everybody's if owner is nil. Each successful call must
// be followed by leave.
func (im *image) admit(next layer, owner *conn, readonly bool) error {
	im.door.Lock()
	defer im.door.Unlock()
	if im.isHopeless() {
		return im.refusal()
	}
	if readonly {
		im.endDeferral()
	} else {
		im.deferVerdict()
	}
	if s := im.start.Load(); im.conf.looks() && (s == nil || s.of != nil || owner != nil) {
		if err := im.look(next, owner, readonly); err != nil {
			return err
		}
	}
	im.guests++
	return nil
}

// deferVerdict is called when a client comes that may write. If another one has
// read, that one gets its verdict.
func (im *image) deferVerdict() {
	im.mu.Lock()
	defer im.mu.Unlock()
	if len(im.conf.expect) == 0 || im.conf.verify == before || im.size == 0 || im.written || im.sums != nil {
		return
	}
	for c := range im.cursors {
		if c.request > 0 {
			return
		}
	}
	im.deferred.Store(true)
	im.wanted = false
}

// endDeferral lets what is known of the image be judged for good.
func (im *image) endDeferral() {
	im.mu.Lock()
	told := im.wantVerdict()
	im.mu.Unlock()
	if told {
		im.announce()
	}
}

// wantVerdict is endDeferral under the lock. It tells whether the image is refused now.
func (im *image) wantVerdict() bool {
	im.wanted = true
	if !im.deferred.Load() {
		return false
	}
	im.deferred.Store(false)
	if im.sums == nil {
		return false
	}
	im.refuse(im.mismatches(im.sums))
	im.done.Store(true)
	return true
}

// forgetOld makes unknown, before the first write of a copy, what is there: a flush in
// the middle is not to be judged by what the copy is yet to replace. Other writes wait
// until that is done.
func (im *image) forgetOld() {
	im.door.Lock()
	defer im.door.Unlock()
	if !im.deferred.Load() {
		return
	}
	for _, k := range im.known {
		k.forget(0, im.size)
	}
	ticket, result := im.beginForgetting(0, 0) // only now do others pass by
	im.withdraw(result)
	im.endForgetting(ticket, result)
}

// refusal tells why no client is let in any more.
func (im *image) refusal() error {
	switch {
	case im.refused.Load():
		return fmt.Errorf("%v is refused: its digest is not the expected one", im)
	case im.isLost():
		return fmt.Errorf("%v is refused: it has no digest to be compared: %s", im, im.snapshot().Error)
	}
	return errNoVerdict
}

func (im *image) look(next layer, owner *conn, readonly bool) error {
	prefix := make([]byte, min(im.size, prefixSize))
	ticket := im.beginLook(0, int64(len(prefix)))
	if len(prefix) > 0 {
		if _, err := next.ReadAt(prefix, 0); err != nil {
			im.unlist(ticket)
			return fmt.Errorf("the start of %v cannot be read: %w", im, err)
		}
	}
	im.answered(ticket) // nobody needs to wait for it
	// Before anything else: what is refused may have taken the place of what clients read.
	sum := sha256.Sum256(prefix)
	if im.seen != nil && *im.seen != sum && !im.isChanged() {
		first := im.fail("the source has changed: its start is not what it was")
		if len(im.conf.expect) > 0 {
			im.unlist(ticket)
			return fmt.Errorf("%v is refused: its start is not what an earlier client read", im)
		}
		if first {
			logError("%v has changed: its start is not what an earlier client read", im)
		}
	}
	s, err := identify(prefix, im.size, peek{im, next})
	if err == nil {
		err = im.check(s, readonly)
	}
	if err != nil {
		im.unlist(ticket) // nothing of it counts
		return err
	}
	im.setSignature(s)
	changed := im.isChanged()
	if !changed {
		im.seen = &sum
	}
	if im.isDestination(s, readonly) || changed && !readonly {
		im.unlist(ticket)
		return nil // the copy will change it
	}
	im.endRead(next, nil, ticket, 0, prefix)
	im.mu.Lock()
	defer im.mu.Unlock()
	if !im.written {
		im.start.Store(&start{prefix, owner})
	}
	return nil
}

// isSeen tells whether the start of the image was looked at, and has not been written
// since.
func (im *image) isSeen() bool {
	im.door.Lock()
	defer im.door.Unlock()
	return im.seen != nil && !im.isChanged()
}

// isSameWithoutTLS tells whether a layer that is opened without TLS has the image that
// clients have: if they have TLS, it must begin as was seen at the door. A plugin may
// make something of that.
func (im *image) isSameWithoutTLS(next nbdkit.Next) bool {
	if !im.overTLS.Load() {
		return true
	}
	if !im.isSeen() {
		return false // that cannot be told
	}
	im.door.Lock()
	defer im.door.Unlock()
	if size, err := next.Size(); err != nil || size != im.size {
		return false
	}
	prefix := make([]byte, min(im.size, prefixSize))
	_, err := next.ReadAt(prefix, 0)
	return err == nil && sha256.Sum256(prefix) == *im.seen
}

func (im *image) isChanged() bool {
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.written
}

// fromStart answers the beginning of a connection's read from memory, if it can, and
// returns how many bytes that is.
func (im *image) fromStart(c *conn, buf []byte, offset int64) int {
	s := im.start.Load()
	if s == nil || s.of != nil && s.of != c || offset >= int64(len(s.bytes)) {
		return 0
	}
	return copy(buf, s.bytes[offset:])
}

// examine looks at an image on behalf of a query, if no client was let in to it yet: one
// to which none would be has no digest, as that would be taken for a good one's.
func (im *image) examine(next layer) error {
	im.mu.Lock()
	seen := im.signature != nil || im.written
	im.mu.Unlock()
	if seen {
		return nil
	}
	if err := im.admit(next, nil, true); err != nil {
		return err
	}
	im.leave()
	return nil
}

// leave ends what admit has begun.
func (im *image) leave() {
	im.door.Lock()
	defer im.door.Unlock()
	if im.guests--; im.guests == 0 {
		im.start.Store(nil)
		im.dropSpare()
	}
}

// restUnlessVisited gives up what a query that has read the image has kept for
// clients, if there are none.
func (im *image) restUnlessVisited() {
	im.door.Lock()
	defer im.door.Unlock()
	if im.guests == 0 {
		im.dropSpare()
	}
}

// check tells why an image must not be served.
func (im *image) check(s signature, readonly bool) error {
	if im.isDestination(s, readonly) {
		return nil
	}
	kind, danger := im.conf.signature.check(s, im.size), error(nil)
	if im.conf.refuseUnsafe {
		danger = s.unsafe()
	}
	switch {
	case kind != nil && danger != nil:
		return fmt.Errorf("%v is refused: %w; and %w", im, kind, danger)
	case kind != nil || danger != nil:
		return fmt.Errorf("%v is refused: %w", im, cmp.Or(kind, danger))
	}
	return nil
}

// isDestination tells whether a copy may be about to be written. Nothing can be
// written to an empty image: it is what a server has in place of one.
func (im *image) isDestination(s signature, readonly bool) bool {
	return !readonly && s.kinds[0].name == "blank" && im.size > 0
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
	return im.list(op{lo: lo, hi: hi, below: true, tainted: im.isWritten(lo, hi)})
}

// A peek reads what tells the kind of an image, far from its start. It counts for no
// digest: clients are not answered from memory there, so what they get is what they
// read later.
type peek struct {
	im   *image
	next layer
}

func (p peek) ReadAt(b []byte, offset int64) (int, error) {
	n, err := p.next.ReadAt(b, offset)
	p.im.filterRead.Add(int64(n))
	return n, err
}
