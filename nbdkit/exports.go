// SPDX-License-Identifier: BSD-3-Clause

package nbdkit

/*
#include "exports.h"
*/
import "C"

import (
	"fmt"
	"io"
	"runtime/cgo"
	"strings"
	"unsafe"
)

// An Exporter is a Filter that has exports of its own.
type Exporter interface {
	Filter

	// List returns what a client that asks for a list of exports is told,
	// given the list of the layer below.
	List(below []Export) []Export

	// OpenOwn opens an export of the filter's own. If this is not one, it
	// returns nil, and the layer below is opened.
	OpenOwn(export string, tls bool) (Content, error)
}

// Export is an export in a list.
type Export struct{ Name, Description string }

// Content is what an export of the filter's own has, for one connection.
// ReadAt is called by several threads at once.
type Content interface {
	io.ReaderAt
	Size() int64
	Describe(below string) string
}

// A Describer is a Conn that has something to add to the description of its
// export, which is empty if the layer below has none.
type Describer interface {
	Describe(below string) string
}

// MaxString is the most bytes that a name or a description can have in NBD.
const MaxString = 4096

// maxExports is how many exports nbdkit lists.
const maxExports = 10000

//export goListExports
func goListExports(below, exports *C.struct_nbdkit_exports) C.int {
	return guard("list_exports", nil, nil, func() error {
		list := make([]Export, C.nbdkit_exports_count(below))
		for i := range list {
			var name, description *C.char
			C.get_export(below, C.size_t(i), &name, &description)
			list[i] = Export{C.GoString(name), C.GoString(description)}
		}
		if e, ok := registered.(Exporter); ok {
			list = e.List(list)
		}
		for _, e := range list[:min(len(list), maxExports)] {
			if err := addExport(exports, e); err != nil {
				return err
			}
		}
		return nil
	})
}

func addExport(exports *C.struct_nbdkit_exports, e Export) error {
	name := C.CString(e.Name)
	defer C.free(unsafe.Pointer(name))
	var description *C.char
	if e.Description != "" {
		description = C.CString(e.Description)
		defer C.free(unsafe.Pointer(description))
	}
	if C.nbdkit_add_export(exports, name, description) == -1 {
		return fmt.Errorf("export %q cannot be listed", e.Name)
	}
	return nil
}

//export goOpenOwn
func goOpenOwn(export *C.char, tls C.int, own *C.int) (handle C.uintptr_t) {
	e, ok := registered.(Exporter)
	if !ok {
		return 0
	}
	if guard("open", nil, nil, func() error {
		content, err := e.OpenOwn(C.GoString(export), tls != 0)
		if content != nil {
			handle = C.uintptr_t(cgo.NewHandle(content))
			*own = 1
		}
		return err
	}) == -1 {
		*own = 1
	}
	return handle
}

//export goOwnSize
func goOwnSize(handle C.uintptr_t) (size C.int64_t) {
	if guard("get_size", nil, nil, func() error {
		size = C.int64_t(content(handle).Size())
		return nil
	}) == -1 {
		return -1
	}
	return size
}

//export goOwnRead
func goOwnRead(handle C.uintptr_t, buf unsafe.Pointer, count C.uint32_t, offset C.uint64_t, err *C.int) C.int {
	return guard("read", nil, err, func() error {
		_, e := content(handle).ReadAt(unsafe.Slice((*byte)(buf), int(count)), int64(offset))
		return e
	})
}

// goDescribe returns what C must free, or NULL if nothing is to be added.
//
//export goDescribe
func goDescribe(handle C.uintptr_t, below *C.char) (s *C.char) {
	guard("export_description", nil, nil, func() error {
		d, ok := cgo.Handle(handle).Value().(Describer)
		if !ok {
			return nil
		}
		was := C.GoString(below)
		if is := d.Describe(was); is != was && !strings.Contains(is, "\x00") && len(is) <= MaxString {
			s = C.CString(is)
		}
		return nil
	})
	return s
}

//export goCloseOwn
func goCloseOwn(handle C.uintptr_t) { cgo.Handle(handle).Delete() }

func content(handle C.uintptr_t) Content {
	return cgo.Handle(handle).Value().(Content)
}

// OpenBelow opens an export of the layer below for reading, from within
// OpenOwn, or ReadAt of the content that it returned, where it must be closed
// as well. A connection can have one such context at a time.
//
// nbdkit looks up the default export only while a connection begins: ReadAt
// may open the export "" only if OpenOwn has done so, or use OpenShared.
func OpenBelow(export string) (*Context, error) {
	// A context of the connection, because plugins that have several exports
	// ask nbdkit for the connection's export.
	return openContext(C.filter_backend, export, 0)
}

// OpenShared opens an export as Backend.Open does: with plugins that ask
// nbdkit for the connection's export, this fails or worse.
func OpenShared(export string) (*Context, error) {
	return openContext(C.filter_backend, export, 1)
}
