// SPDX-License-Identifier: BSD-3-Clause

package nbdkit

/*
#cgo CFLAGS: -Wall -Wno-unused-parameter
#cgo pkg-config: nbdkit
#cgo LDFLAGS: -Wl,--unresolved-symbols=ignore-all

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "filter.h"

// Go can neither call function pointers nor variadic functions.

static int
next_prepare (nbdkit_next *next)
{
  return next->prepare (next);
}

static int
next_finalize (nbdkit_next *next)
{
  return next->finalize (next);
}

static int64_t
next_get_size (nbdkit_next *next)
{
  return next->get_size (next);
}

static int
next_can_write (nbdkit_next *next)
{
  return next->can_write (next);
}

static int
next_can_multi_conn (nbdkit_next *next)
{
  return next->can_multi_conn (next);
}

static int
next_can_extents (nbdkit_next *next)
{
  return next->can_extents (next);
}

// Reads of the filter's own keep to the block sizes that the layer below
// asks of clients: whole blocks, and not too many at once.

static int
next_block_size (nbdkit_next *next, uint32_t *minimum, uint32_t *maximum)
{
  uint32_t preferred;

  if (next->block_size (next, minimum, &preferred, maximum) == -1)
    return -1;
  if (*minimum == 0) {          // nothing to say
    *minimum = 1;
    *maximum = UINT32_MAX;
  }
  if (*maximum > *minimum)
    *maximum -= *maximum % *minimum;
  else
    *maximum = *minimum;
  return 0;
}

// What is asked for of a block at either end is copied from a whole one.
static int
pread_blocks (nbdkit_next *next, char *buf, uint32_t count, uint64_t offset,
              uint32_t minimum, uint32_t maximum, int *err)
{
  const int64_t size = next->get_size (next);
  char *block = NULL;
  int r = -1;

  while (count > 0) {
    const uint32_t ahead = offset % minimum;
    uint32_t n = count < maximum ? count : maximum;

    n -= n % minimum;
    if (ahead == 0 && n > 0) {
      if (next->pread (next, buf, n, offset, 0, err) == -1)
        goto out;
    }
    else {
      uint64_t length = size - (offset - ahead); // the last one may be short

      if (block == NULL && (block = malloc (minimum)) == NULL) {
        *err = ENOMEM;
        goto out;
      }
      if (length > minimum)
        length = minimum;
      if (next->pread (next, block, length, offset - ahead, 0, err) == -1)
        goto out;
      n = length - ahead;
      if (n > count)
        n = count;
      memcpy (buf, block + ahead, n);
    }
    buf += n;
    offset += n;
    count -= n;
  }
  r = 0;
 out:
  free (block);
  return r;
}

static int
next_pread (nbdkit_next *next, void *buf, uint32_t count, uint64_t offset, int *err)
{
  uint32_t minimum, maximum;

  if (next_block_size (next, &minimum, &maximum) == -1) {
    *err = EIO;
    return -1;
  }
  if ((offset | count) % minimum == 0 && count <= maximum)
    return next->pread (next, buf, count, offset, 0, err);
  return pread_blocks (next, buf, count, offset, minimum, maximum, err);
}

// The list leaves out what is asked for in front of its start. That could be the one
// extent that would be told, and a list without any is an error.
static int
next_extents (nbdkit_next *next, uint32_t count, uint64_t offset,
              struct nbdkit_extents *extents, int *err)
{
  const uint64_t size = next->get_size (next);
  uint64_t end = offset + count;
  uint32_t minimum, maximum, flags = NBDKIT_FLAG_REQ_ONE;

  if (next_block_size (next, &minimum, &maximum) == -1) {
    *err = EIO;
    return -1;
  }
  if (offset % minimum > 0)
    flags = 0;
  offset -= offset % minimum;
  end += (minimum - end % minimum) % minimum;
  if (end > size)
    end = size;
  return next->extents (next, end - offset, offset, flags, extents, err);
}

static void
error_string (const char *message)
{
  nbdkit_error ("%s: %s", filter_about.name, message);
}

static void
debug_string (const char *message)
{
  nbdkit_debug ("%s: %s", filter_about.name, message);
}
*/
import "C"

import (
	"fmt"
	"iter"
	"math"
	"syscall"
	"unsafe"
)

// Op is what a client asks of the next layer.
type Op int

const (
	Read  Op = C.FILTER_READ
	Write Op = C.FILTER_WRITE
	Zero  Op = C.FILTER_ZERO
	Trim  Op = C.FILTER_TRIM

	// AskExtents is a client's question about extents.
	AskExtents Op = C.FILTER_EXTENTS
)

func (op Op) String() string {
	return [...]string{Read: "read", Write: "write", Zero: "zero", Trim: "trim", AskExtents: "extents"}[op]
}

// Error logs an error line, with the filter's name in front.
func Error(format string, args ...any) {
	s := C.CString(fmt.Sprintf(format, args...))
	C.error_string(s)
	C.free(unsafe.Pointer(s))
}

// Debug logs a line that nbdkit prints when it was started with -v.
func Debug(format string, args ...any) {
	s := C.CString(fmt.Sprintf(format, args...))
	C.debug_string(s)
	C.free(unsafe.Pointer(s))
}

// Stopping tells whether nbdkit got a signal that ends it.
func Stopping() bool { return C.filter_signals > 0 }

// Hurried tells whether nbdkit got a second one: whatever can wait is left out.
func Hurried() bool { return C.filter_signals > 1 }

// Fail makes a foreground nbdkit end with status 1 after a clean shutdown.
func Fail() { C.filter_failed = 1 }

// Stdout returns a descriptor of nbdkit's standard output as it was started
// with, or -1 if that is not for a filter to write to. Check must call it if
// there will be something to write: else the descriptor is closed.
func Stdout() int {
	C.filter_uses_stdout = 1
	return int(C.filter_stdout)
}

// StdinIsClient tells whether standard input is the connection to the client.
func StdinIsClient() bool { return C.nbdkit_stdio_safe() == 0 }

// IsBehind tells whether nbdkit's filter of that name is in front of this one.
func IsBehind(filter string) bool {
	name := C.CString(filter)
	defer C.free(unsafe.Pointer(name))
	return C.filter_is_behind(name) != 0
}

// IsInFrontOf tells whether this filter is in front of nbdkit's one of that name.
func IsInFrontOf(filter string) bool {
	name := C.CString(filter)
	defer C.free(unsafe.Pointer(name))
	return C.filter_is_in_front_of(name) != 0
}

// Next is the layer below, as one connection sees it. It may be used by
// several goroutines if the layers below are parallel. The layer itself has
// logged the cause of an error that a method returns.
type Next struct{ p *C.nbdkit_next }

// Size returns the size of the export in bytes.
func (n Next) Size() (int64, error) {
	size := int64(C.next_get_size(n.p))
	if size < 0 {
		return 0, fmt.Errorf("the layer below does not tell its size")
	}
	return size, nil
}

// CanWrite tells whether the export is writable.
func (n Next) CanWrite() (bool, error) {
	r := C.next_can_write(n.p)
	if r < 0 {
		return false, fmt.Errorf("the layer below does not tell whether it can be written")
	}
	return r > 0, nil
}

// CanMultiConn tells whether all connections see the same, as the layer says.
func (n Next) CanMultiConn() (bool, error) {
	r := C.next_can_multi_conn(n.p)
	if r < 0 {
		return false, fmt.Errorf("the layer below does not tell whether its connections see the same")
	}
	return r > 0, nil
}

// prepared asks for the block sizes before several threads do: nbdkit keeps the
// answer from then on.
func (n Next) prepared() Next {
	var minimum, maximum C.uint32_t
	C.next_block_size(n.p, &minimum, &maximum)
	return n
}

// ReadAt fills p, of less than 4 GiB, from offset on. It implements
// io.ReaderAt, but reads all of p or nothing.
func (n Next) ReadAt(p []byte, offset int64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	var err C.int
	if C.next_pread(n.p, unsafe.Pointer(&p[0]), C.uint32_t(len(p)), C.uint64_t(offset), &err) == -1 {
		return 0, fmt.Errorf("reading %d bytes at %d: %w", len(p), offset, syscall.Errno(err))
	}
	return len(p), nil
}

// maxBlock is the largest block that a layer may ask for.
const maxBlock = 64 << 10

// Extents calls each with the extents from offset on, in order and without
// gaps between them: one, and more up to size if the layer tells them all the same.
// Some layers make a list of all before that. An extent that reads as zero has zero
// set.
func (n Next) Extents(offset, size int64, each func(offset, length int64, zero bool)) error {
	// nbdkit must be asked whether it can before it is asked to do it.
	if C.next_can_extents(n.p) <= 0 {
		each(offset, size-offset, false)
		return nil
	}
	list := C.nbdkit_extents_new(C.uint64_t(offset), C.uint64_t(size))
	if list == nil {
		return fmt.Errorf("extents at %d: %w", offset, syscall.ENOMEM)
	}
	defer C.nbdkit_extents_free(list)

	count := min(size-offset, math.MaxUint32&^(1<<20-1))
	var err C.int
	if C.next_extents(n.p, C.uint32_t(count), C.uint64_t(offset), list, &err) == -1 {
		return fmt.Errorf("extents at %d: %w", offset, syscall.Errno(err))
	}
	told := C.nbdkit_extents_count(list)
	if told == 0 {
		// All that the layer has told lies before offset, in the same block.
		each(offset, min(size-offset, maxBlock-offset%maxBlock), false)
	}
	for i := range told {
		e := C.nbdkit_get_extent(list, i)
		each(int64(e.offset), int64(e.length), e._type&C.NBDKIT_EXTENT_ZERO != 0)
	}
	return nil
}

// Extents is the layer below's answer to a client, valid until EndExtents
// returns.
type Extents struct{ p *C.struct_nbdkit_extents }

// Zeros returns the ranges [lo, hi) that read as zero, in order. The first and
// the last may be larger than what was asked for.
func (e Extents) Zeros() iter.Seq2[int64, int64] {
	return func(yield func(int64, int64) bool) {
		for i := range C.nbdkit_extents_count(e.p) {
			x := C.nbdkit_get_extent(e.p, i)
			if x._type&C.NBDKIT_EXTENT_ZERO != 0 && !yield(int64(x.offset), int64(x.offset+x.length)) {
				return
			}
		}
	}
}

// Backend is the layer below outside any connection.
type Backend struct{ p *C.nbdkit_backend }

// Open opens an export for reading. The caller must close it.
func (b Backend) Open(export string) (*Context, error) { return openContext(b.p, export, 1) }

func openContext(backend *C.nbdkit_backend, export string, shared C.int) (*Context, error) {
	name := C.CString(export)
	defer C.free(unsafe.Pointer(name))
	p := C.nbdkit_next_context_open(backend, 1, name, shared)
	if p == nil {
		return nil, fmt.Errorf("the layer below does not open export %q", export)
	}
	if C.next_prepare(p) == -1 {
		C.nbdkit_next_context_close(p)
		return nil, fmt.Errorf("the layer below does not prepare export %q", export)
	}
	return &Context{Next{p}.prepared()}, nil
}

// A Context is a view of the layer below that belongs to the filter.
type Context struct{ Next }

// Close ends the use of the context.
func (c *Context) Close() {
	C.next_finalize(c.p)
	C.nbdkit_next_context_close(c.p)
}
