// SPDX-License-Identifier: BSD-3-Clause

package nbdkit

/*
#include "filter.h"
*/
import "C"

import (
	"errors"
	"io"
	"os"
	"runtime/cgo"
	"runtime/debug"
	"syscall"
	"unsafe"
)

// The functions that C calls. A panic in a method of the filter's is recovered from: a
// fault there costs one request, not the server.

//export goCheck
func goCheck(pipe C.int) (r C.int) {
	return guard("checking the parameters", nil, nil, func() error {
		if registered == nil {
			return errors.New("no filter is registered")
		}
		params, err := registered.Check(parameters(C.filter_params), parameters(C.filter_others), C.GoString(C.filter_directory))
		if err != nil {
			return err
		}
		return handOn(params, os.NewFile(uintptr(pipe), "pipe"))
	})
}

// handOn writes what take_params reads.
func handOn(params []Param, pipe io.Writer) error {
	var b []byte
	for _, p := range params {
		for _, s := range []string{p.Key, p.Value} {
			b = append(append(b, s...), 0)
		}
	}
	_, err := pipe.Write(append(b, 0)) // an empty key ends the list
	return err
}

//export goStart
func goStart(parallel C.int) C.int {
	return guard("start", nil, nil, func() error {
		if err := registered.Configure(parameters(C.filter_params), parameters(C.filter_others), C.GoString(C.filter_directory)); err != nil {
			return err
		}
		return registered.Start(parallel != 0)
	})
}

func parameters(list C.struct_filter_params) (params []Param) {
	for _, p := range unsafe.Slice(list.list, list.nr) {
		params = append(params, Param{C.GoString(p.key), C.GoString(p.value)})
	}
	return params
}

//export goFinish
func goFinish(backend *C.nbdkit_backend) {
	guard("shutdown", nil, nil, func() error {
		registered.Finish(Backend{backend})
		return nil
	})
}

// goEnter is the first call of a thread: enter.c says what it is for.
//
//export goEnter
func goEnter() {}

//export goDefaultExport
func goDefaultExport(name *C.char) {
	guard("default_export", nil, nil, func() error {
		registered.DefaultExport(C.GoString(name))
		return nil
	})
}

//export goOpen
func goOpen(export *C.char, tls C.int) (handle C.uintptr_t) {
	guard("open", nil, nil, func() error {
		conn, err := registered.Open(C.GoString(export), tls != 0)
		if err == nil {
			handle = C.uintptr_t(cgo.NewHandle(conn))
		}
		return err
	})
	return handle
}

//export goClose
func goClose(handle C.uintptr_t) {
	conn := connection(handle)
	guard("close", conn, nil, func() error {
		conn.Close()
		return nil
	})
	cgo.Handle(handle).Delete()
}

//export goPrepare
func goPrepare(next *C.nbdkit_next, handle C.uintptr_t, readonly C.int) C.int {
	conn := connection(handle)
	return guard("prepare", conn, nil, func() error {
		return conn.Prepare(Next{next}.prepared(), readonly != 0)
	})
}

//export goFinalize
func goFinalize(next *C.nbdkit_next, handle C.uintptr_t) C.int {
	conn := connection(handle)
	return guard("finalize", conn, nil, func() error {
		return conn.Finalize(Next{next})
	})
}

// The next two are on the path of every request, so they do without guard's
// closures.

//export goBegin
func goBegin(handle C.uintptr_t, op C.enum_filter_op, buf unsafe.Pointer, count C.uint32_t, offset C.uint64_t,
	ticket *C.uint64_t, answered *C.uint32_t, err *C.int) (r C.int) {
	conn := connection(handle)
	defer func() {
		if v := recover(); v != nil {
			r = panicked(Op(op).String(), conn, err, v)
		}
	}()
	var data []byte
	if buf != nil {
		data = unsafe.Slice((*byte)(buf), int(count))
	}
	t, n, e := conn.Begin(Op(op), data, int64(offset), int64(count))
	*ticket, *answered = C.uint64_t(t), C.uint32_t(n)
	if e != nil {
		return fail(err, e)
	}
	return 0
}

//export goFlushed
func goFlushed(next *C.nbdkit_next, handle C.uintptr_t, err *C.int) C.int {
	conn := connection(handle)
	return guard("flush", conn, err, func() error { return conn.Flushed(Next{next}) })
}

//export goEnd
func goEnd(next *C.nbdkit_next, handle C.uintptr_t, op C.enum_filter_op, ticket C.uint64_t,
	buf unsafe.Pointer, count C.uint32_t, offset C.uint64_t, ok C.int, err *C.int) (r C.int) {
	conn := connection(handle)
	defer func() {
		if v := recover(); v != nil {
			r = panicked(Op(op).String(), conn, err, v)
		}
	}()
	var data []byte
	if buf != nil && ok != 0 {
		data = unsafe.Slice((*byte)(buf), int(count))
	}
	e := conn.End(Next{next}, Op(op), uint64(ticket), data, int64(offset), int64(count), ok != 0)
	if e != nil && ok != 0 {
		return fail(err, e)
	}
	return 0
}

//export goEndExtents
func goEndExtents(next *C.nbdkit_next, handle C.uintptr_t, ticket C.uint64_t,
	extents *C.struct_nbdkit_extents, count C.uint32_t, offset C.uint64_t, ok C.int, err *C.int) (r C.int) {
	conn := connection(handle)
	defer func() {
		if v := recover(); v != nil {
			r = panicked(AskExtents.String(), conn, err, v)
		}
	}()
	e := conn.EndExtents(Next{next}, uint64(ticket), Extents{extents}, int64(offset), int64(count), ok != 0)
	if e != nil && ok != 0 {
		return fail(err, e)
	}
	return 0
}

func connection(handle C.uintptr_t) Conn {
	return cgo.Handle(handle).Value().(Conn)
}

// guard calls f and turns an error or a panic into nbdkit's -1.
func guard(what string, conn Conn, err *C.int, f func() error) (r C.int) {
	defer func() {
		if v := recover(); v != nil {
			r = panicked(what, conn, err, v)
		}
	}()
	if e := f(); e != nil {
		return fail(err, e)
	}
	return 0
}

func fail(err *C.int, e error) C.int {
	if !errors.Is(e, ErrSilent) {
		Error("%v", e)
	}
	if err != nil {
		*err = C.int(errno(e))
	}
	return -1
}

func panicked(what string, conn Conn, err *C.int, v any) C.int {
	Error("internal error in %s: %v", what, v)
	Debug("%s", debug.Stack())
	if conn != nil {
		func() {
			defer func() { _ = recover() }()
			conn.Panicked(v)
		}()
	}
	if err != nil {
		*err = C.int(syscall.EIO)
	}
	return -1
}
