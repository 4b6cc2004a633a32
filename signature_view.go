// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"encoding/binary"
	"io"
)

// What identify reads beyond the prefix. The largest need is that of a VHDX
// with two metadata tables of 64 KiB.
const (
	prefixSize  = 1 << 20 // bytes at the start, which the caller has read
	tailSize    = 1536    // bytes at the end, for footers
	maxReads    = 16
	maxReadSize = 256 << 10
)

// view is the bytes of an image as far as identify may look at them. Offsets
// and lengths come from headers and are not to be trusted: what lies outside
// the image, or costs too much to read, is nil, never a panic and never an
// allocation of the size that a header claims.
type view struct {
	prefix []byte
	tail   []byte
	size   int64
	r      io.ReaderAt
	err    error // the first failure of r
	reads  int   // calls of r
	read   int64 // bytes read from r
	looked int64 // bytes that at has handed out: the measure of work
}

func newView(prefix []byte, size int64, r io.ReaderAt) *view {
	size = max(size, 0)
	v := &view{prefix: prefix[:min(int64(len(prefix)), size)], size: size, r: r}
	v.tail = v.at(v.size-min(v.size, tailSize), min(v.size, tailSize))
	return v
}

// at returns n bytes from offset on, or nil.
func (v *view) at(offset, n int64) []byte {
	if offset < 0 || n < 0 || offset > v.size || n > v.size-offset {
		return nil
	}
	known, tailAt := int64(len(v.prefix)), v.size-int64(len(v.tail))
	switch {
	case offset+n <= known:
		v.looked += n
		return v.prefix[offset : offset+n : offset+n]
	case offset >= tailAt:
		v.looked += n
		return v.tail[offset-tailAt : offset-tailAt+n : offset-tailAt+n]
	}
	from := max(offset, known)
	if v.err != nil || v.reads == maxReads || n > maxReadSize+known || v.read+offset+n-from > maxReadSize {
		return nil
	}
	v.reads++
	v.read += offset + n - from
	v.looked += n
	p := make([]byte, n)
	copied := copy(p, v.prefix[min(offset, known):])
	got, err := v.r.ReadAt(p[copied:], from)
	if got < len(p)-copied {
		if v.err = err; err == nil || err == io.EOF {
			v.err = io.ErrUnexpectedEOF
		}
		return nil
	}
	return p
}

// has tells whether the image has these bytes at offset, which counts from
// the end if it is negative.
func (v *view) has(offset int64, s string) bool {
	if offset < 0 {
		offset += v.size
	}
	return string(v.at(offset, int64(len(s)))) == s
}

// Numbers that lie outside of the image are 0.

func (v *view) u8(offset int64) byte {
	return number(v, offset, 1, func(b []byte) byte { return b[0] })
}
func (v *view) le16(offset int64) uint16 { return number(v, offset, 2, binary.LittleEndian.Uint16) }
func (v *view) le32(offset int64) uint32 { return number(v, offset, 4, binary.LittleEndian.Uint32) }
func (v *view) le64(offset int64) uint64 { return number(v, offset, 8, binary.LittleEndian.Uint64) }
func (v *view) be16(offset int64) uint16 { return number(v, offset, 2, binary.BigEndian.Uint16) }
func (v *view) be32(offset int64) uint32 { return number(v, offset, 4, binary.BigEndian.Uint32) }
func (v *view) be64(offset int64) uint64 { return number(v, offset, 8, binary.BigEndian.Uint64) }

func number[T any](v *view, offset, n int64, decode func([]byte) T) (zero T) {
	if b := v.at(offset, n); b != nil {
		return decode(b)
	}
	return zero
}

// inside tells whether n bytes at an offset that a header gives are in the
// image.
func (v *view) inside(offset, n uint64) bool {
	return offset <= uint64(v.size) && n <= uint64(v.size)-offset
}

// blank tells whether all that was read is zero.
func (v *view) blank() bool {
	v.looked += int64(len(v.prefix))
	return isZero(v.prefix) && isZero(v.tail)
}
