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
	c.image = c.filter.image(c.export, size)
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
	case nbdkit.ExtentsOp:
		c.image.touch()
		return noTicket
	}
	return c.image.beginWrite(c.cursor, offset, offset+count)
}

func (c *conn) End(next nbdkit.Next, op nbdkit.Op, ticket uint64, data []byte, offset, count int64, ok bool) error {
	switch op {
	case nbdkit.ExtentsOp:
		return nil
	case nbdkit.Write, nbdkit.Zero, nbdkit.Trim:
		c.image.endWrite(ticket, count, ok)
		return nil
	}
	c.image.endRead(next, c.cursor, ticket, offset, data)
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
