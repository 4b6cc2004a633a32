// SPDX-License-Identifier: BSD-3-Clause

// Package nbdkit is a small binding for filters of the NBD server nbdkit.
//
// A program registers its filter in an init function, describes it in C
// (struct filter_about in filter.h) and is built with -buildmode=c-shared
// and the linker script init.ld. nbdkit-filter(3) explains the callbacks.
package nbdkit

import (
	"errors"
	"syscall"
)

// A Filter is what a program puts between nbdkit's clients and the next
// layer. Its methods are called by several threads at once, except
// Check, Configure, Start and Finish.
type Filter interface {
	// Check looks at the filter's parameters, and at those for the layers
	// below, in a child process before nbdkit forks, so that an error reaches
	// the user's terminal. It returns those that Configure gets. What is in a
	// file must be among them: it can have gone by then, or be out of reach for
	// the user that nbdkit becomes. Relative paths start from directory.
	Check(params, others []Param, directory string) ([]Param, error)

	// Configure takes the parameters in the process that serves: those that
	// Check has returned, and those for the layers below.
	Configure(params, others []Param, directory string) error

	// Start is called once in the process that serves, before the first
	// client. If parallel is false, the layers below take one request at a
	// time, and only from a client's own callbacks and in Finish.
	Start(parallel bool) error

	// DefaultExport is told the name that the layer below has for the default
	// export, if that is not "", before Open is called with it.
	DefaultExport(name string)

	// Open is called for each connection.
	Open(export string, tls bool) (Conn, error)

	// Finish is called once, at shutdown. nbdkit may still be closing connections.
	Finish(next Backend)
}

// Param is one key=value of the command line.
type Param struct{ Key, Value string }

// A Conn is one client's connection to one export.
//
// An error from any method is logged and makes nbdkit's callback fail; the
// client gets the syscall.Errno that it wraps, or EIO.
type Conn interface {
	// Prepare is called before the first request. Next is valid until
	// Finalize returns.
	Prepare(next Next, readonly bool) error
	Finalize(next Next) error
	Close()

	// Begin is called before a request goes to the next layer. What it
	// returns is handed to End. Buf is where the data of a read goes: the
	// next layer is asked for what is behind the bytes that Begin has
	// answered. If that is all, End is not called. With an error, the request
	// fails.
	Begin(op Op, buf []byte, offset, count int64) (ticket uint64, answered int, err error)

	// End is called when the next layer has answered. Data is what was read
	// or written, valid until End returns, and nil for other requests. If
	// the layer failed (ok is false), an error from End changes nothing.
	End(next Next, op Op, ticket uint64, data []byte, offset, count int64, ok bool) error

	// EndExtents is End for AskExtents.
	EndExtents(next Next, ticket uint64, extents Extents, offset, count int64, ok bool) error

	// Flushed is called when a flush has succeeded.
	Flushed(next Next) error

	// Panicked is told of a panic in any of the methods above. The request
	// that it happened in fails with EIO.
	Panicked(v any)
}

// ErrSilent fails a request of which the log need not tell, with EIO.
var ErrSilent = errors.New("input/output error")

var registered Filter

// Register sets the filter. It must be called from an init function.
func Register(f Filter) { registered = f }

// errno is what a client is told about err.
func errno(err error) syscall.Errno {
	var e syscall.Errno
	if errors.As(err, &e) && e != 0 {
		return e
	}
	return syscall.EIO
}
