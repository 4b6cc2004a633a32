// SPDX-License-Identifier: BSD-3-Clause

// A filter of the tests: it panics in the method that panic= names, in Begin
// and End for requests at the offset 4096 only.
package main

import "C"

import (
	"syscall"

	"nbdkit-digest-filter/nbdkit"
)

const offset = 4096

type filter struct{ method string }

func init() { nbdkit.Register(new(filter)) }

func main() {}

func (f *filter) fault(method string) {
	if method == f.method {
		var m map[string]int
		m[method] = 1 //lint:ignore SA5000 a panic is what is wanted
	}
}

func (f *filter) Check(params, others []nbdkit.Param, directory string) ([]nbdkit.Param, error) {
	for _, p := range params {
		f.method = p.Value
	}
	f.fault("Check")
	return params, nil
}

func (f *filter) Configure(params, others []nbdkit.Param, directory string) error {
	for _, p := range params {
		f.method = p.Value
	}
	f.fault("Configure")
	return nil
}

func (f *filter) Start(parallel bool) error {
	f.fault("Start")
	return nil
}

func (f *filter) DefaultExport(string) { f.fault("DefaultExport") }

func (f *filter) Open(export string, tls bool) (nbdkit.Conn, error) {
	if export == "broken" {
		f.fault("Open")
	}
	return &conn{f, export}, nil
}

func (f *filter) Finish(next nbdkit.Backend) { f.fault("Finish") }

type conn struct {
	filter *filter
	export string
}

func (c *conn) Prepare(next nbdkit.Next, readonly bool) error {
	if c.export == "broken" {
		c.filter.fault("Prepare")
	}
	return nil
}

func (c *conn) Finalize(next nbdkit.Next) error {
	c.filter.fault("Finalize")
	return nil
}

func (c *conn) Close() { c.filter.fault("Close") }

func (c *conn) Begin(op nbdkit.Op, buf []byte, at, count int64) (uint64, int, error) {
	if at == offset {
		c.filter.fault("Begin")
		if c.filter.method == "Panicked" {
			panic("once")
		}
	}
	return 0, 0, nil
}

func (c *conn) Flushed(next nbdkit.Next) error { return nil }

func (c *conn) End(next nbdkit.Next, op nbdkit.Op, ticket uint64, data []byte, at, count int64, ok bool) error {
	if at == offset {
		c.filter.fault("End")
		if c.filter.method == "ENOSPC" {
			return syscall.ENOSPC
		}
	}
	return nil
}

func (c *conn) EndExtents(next nbdkit.Next, ticket uint64, extents nbdkit.Extents, at, count int64, ok bool) error {
	return c.End(next, nbdkit.AskExtents, ticket, nil, at, count, ok)
}

func (c *conn) Panicked(v any) { c.filter.fault("Panicked") }
