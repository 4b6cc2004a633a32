// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"fmt"
	"syscall"

	"nbdkit-digest-filter/nbdkit"
)

// A conn is one client's connection: it tells the image of its requests.
type conn struct {
	filter *filter
	export string
	tls    bool
	image  *image
	cursor *cursor
}

func (c *conn) Prepare(next nbdkit.Next, readonly bool) error {
	size, err := next.Size()
	if err != nil {
		return err
	}
	if err := c.filter.conf.checkSize(size); err != nil {
		return fmt.Errorf("export %q is refused: %w", c.export, err)
	}
	if !readonly {
		writable, err := next.CanWrite()
		if err != nil {
			return err
		}
		readonly = !writable
	}
	im, err := c.filter.image(c.export, size)
	if err != nil {
		return err
	}
	cursor := im.connect() // first, so that nobody who leaves meanwhile is the last one
	if err := c.enter(im, next, readonly); err != nil {
		c.retire(next, im, cursor)
		im.disconnect(cursor)
		c.filter.release(im)
		return err
	}
	if c.tls {
		im.overTLS.Store(true)
	}
	c.image, c.cursor = im, cursor
	return nil
}

// enter passes the door of an image. It calls leave when it fails behind it.
func (c *conn) enter(im *image, next nbdkit.Next, readonly bool) error {
	if !readonly {
		im.setWritable()
	}
	owner := c
	if shared, err := next.CanMultiConn(); err != nil {
		return err
	} else if shared {
		owner = nil
	}
	if err := im.admit(next, owner, readonly); err != nil {
		return err
	}
	err := c.inspect(im, next)
	if err != nil {
		im.leave()
	}
	return err
}

// inspect compares an image of which all is known at the door: a client that
// reads nothing, or the start that is kept, has no request that could fail.
func (c *conn) inspect(im *image, next nbdkit.Next) error {
	if im.size == 0 {
		im.touch() // there is nothing to ask for
		im.endDeferral()
		im.settle()
	}
	if im.conf.verify == before {
		return im.verify(next, c.filter.readers())
	}
	if im.deferred.Load() {
		return nil
	}
	if im.verdict() != nil && !im.deferred.Load() {
		return im.refusal()
	}
	return nil
}

func (c *conn) Finalize(next nbdkit.Next) error {
	c.retire(next, c.image, c.cursor)
	return nil
}

// retire completes an export that has a name, when its last client leaves, or is refused:
// at shutdown, the layers below are opened on behalf of no client, and do not
// learn from nbdkit which export is meant, as the nbd plugin must of the default one, too;
// nor do they have TLS, and where that may make a difference that nobody could see, the
// default export is completed here as well. The retry filter in front may be about to
// open it again, while the client waits for a request: then nobody can tell.
func (c *conn) retire(next nbdkit.Next, im *image, cursor *cursor) {
	if c.export == "" && !c.filter.isDynamic && (!c.tls || im.isSeen()) || c.filter.isRetried || !im.retire(cursor) {
		return
	}
	c.filter.finish(next, im)
}

func (c *conn) Close() {
	if c.image != nil {
		c.image.disconnect(c.cursor)
		c.image.leave()
		c.filter.release(c.image)
	}
}

func (c *conn) Begin(op nbdkit.Op, buf []byte, offset, count int64) (ticket uint64, answered int, err error) {
	if c.image.isHopeless() {
		return 0, 0, c.image.errHopeless()
	}
	switch op {
	case nbdkit.Read:
		// Listed first, so that a write that comes meanwhile is noticed.
		ticket = c.image.beginRead(c.cursor, offset, offset+count)
		if !c.image.isRestDue() { // which End reads
			answered = c.image.fromStart(c, buf, offset)
		}
		if answered == len(buf) {
			return c.endKept(ticket, offset, count)
		}
		return ticket, answered, nil
	case nbdkit.AskExtents:
		return c.image.beginExtents(offset, offset+count), 0, nil
	}
	if (c.filter.isCached || c.filter.isMixed) && !c.filter.stale.Load() {
		c.filter.stale.Store(true)
	}
	ticket = c.image.beginWrite(c.cursor, offset, offset+count)
	c.filter.overwritten(c.image, offset, offset+count)
	return ticket, 0, nil
}

// endKept ends a read that is answered from the start that is kept.
func (c *conn) endKept(ticket uint64, offset, count int64) (again uint64, answered int, err error) {
	c.image.endRead(nil, c.cursor, ticket, offset, nil)
	// Another request of the connection may just have left the rest to this one: then
	// it is read like any other, and End reads the rest.
	if c.image.isRestDue() {
		return c.image.beginRead(c.cursor, offset, offset+count), 0, nil
	}
	c.image.clientRead.Add(count)
	return 0, int(count), c.image.verdict()
}

// errMismatch fails the requests of an image that is not the expected one. The
// log has told why, once.
var errMismatch = fmt.Errorf("digest mismatch: %w: %w", nbdkit.ErrSilent, syscall.EIO)

func (c *conn) End(next nbdkit.Next, op nbdkit.Op, ticket uint64, data []byte, offset, count int64, ok bool) error {
	if op != nbdkit.Read {
		c.filter.overwritten(c.image, offset, offset+count)
	}
	switch op {
	case nbdkit.Read:
		c.image.endRead(next, c.cursor, ticket, offset, data)
		if ok {
			return c.verdict(next)
		}
	case nbdkit.Write:
		c.image.endWrite(next, c.cursor, ticket, offset, data, ok)
	case nbdkit.Zero:
		c.image.endZero(ticket, offset, offset+count, ok)
	case nbdkit.Trim:
		c.image.endTrim(next, ticket, offset, offset+count, ok)
	}
	return nil
}

func (c *conn) EndExtents(next nbdkit.Next, ticket uint64, extents nbdkit.Extents, offset, count int64, ok bool) error {
	zeros := extents.Zeros()
	if !ok {
		zeros = func(func(int64, int64) bool) {}
	}
	c.image.endExtents(ticket, offset, offset+count, zeros)
	if ok {
		return c.verdict(next)
	}
	return nil
}

// verdict ends a request that may be the last one of a copy.
func (c *conn) verdict(next nbdkit.Next) error {
	if err := c.image.readEarly(next, c.cursor); err != nil {
		return err
	}
	return c.image.verdict()
}

// Flushed gives the verdict of a copy that was written: nbdcopy --flush fails if it
// does. qemu-img flushes when it closes the image, and ignores the error.
func (c *conn) Flushed(next nbdkit.Next) error {
	if c.image.deferred.Load() {
		return nil // no client that is here has written
	}
	return c.image.verdictOfWriter()
}

func (c *conn) Panicked(v any) {
	if c.image != nil {
		c.image.fail(fmt.Sprintf("internal error: %v", v))
	}
}
