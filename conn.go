package main

import (
	"fmt"

	"nbdkit-digest-filter/nbdkit"
)

// A conn is one client's connection: it tells the image of its requests.
type conn struct {
	filter *filter
	export string
	image  *image
	cursor *cursor
}

func (c *conn) Prepare(next nbdkit.Next, readonly bool) error {
	size, err := next.Size()
	if err != nil {
		return err
	}
	for _, a := range c.filter.conf.digests {
		if err := a.checkSize(size); err != nil {
			return err
		}
	}
	c.image = c.filter.image(c.export, size)
	if !readonly {
		writable, err := next.CanWrite()
		if err != nil {
			return err
		}
		if writable {
			c.image.setWritable()
		}
	}
	c.cursor = c.image.connect()
	if size == 0 {
		c.image.touch() // there is nothing to ask for
		c.image.settle()
	}
	return nil
}

func (c *conn) Finalize(next nbdkit.Next) error { return nil }

func (c *conn) Close() {
	if c.image != nil {
		c.image.disconnect(c.cursor)
	}
}

func (c *conn) Begin(op nbdkit.Op, offset, count int64) (ticket uint64) {
	switch op {
	case nbdkit.Read:
		return c.image.beginRead(c.cursor, offset, offset+count)
	case nbdkit.AskExtents:
		return c.image.beginExtents(offset, offset+count)
	}
	return c.image.beginWrite(c.cursor, offset, offset+count)
}

func (c *conn) End(next nbdkit.Next, op nbdkit.Op, ticket uint64, data []byte, offset, count int64, ok bool) error {
	switch op {
	case nbdkit.Read:
		c.image.endRead(next, c.cursor, ticket, offset, data)
		if ok {
			c.image.readEarly(next)
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
		c.image.readEarly(next)
	}
	return nil
}

func (c *conn) Panicked(v any) {
	if c.image != nil {
		c.image.fail(fmt.Sprintf("internal error: %v", v))
	}
}
