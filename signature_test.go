// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

// strictReader fails the test when it is asked for what the caller has read
// already, for what is not in the image, or for too much.
type strictReader struct {
	t           testing.TB
	r           io.ReaderAt
	known, size int64
	calls       int
	bytes       int64
}

func (s *strictReader) ReadAt(p []byte, offset int64) (int, error) {
	s.calls++
	s.bytes += int64(len(p))
	if offset < s.known || offset > s.size || int64(len(p)) > s.size-offset {
		s.t.Errorf("%d bytes are read at %d: the first %d are known and the image has %d", len(p), offset, s.known, s.size)
	}
	if s.calls > maxReads || s.bytes > maxReadSize {
		s.t.Errorf("read %d is for %d bytes, %d in all", s.calls, len(p), s.bytes)
	}
	return s.r.ReadAt(p, offset)
}

func mustIdentify(t testing.TB, prefix []byte, size int64, r io.ReaderAt) signature {
	t.Helper()
	s, err := identify(prefix, size, &strictReader{t: t, r: r, known: int64(len(prefix)), size: size})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func identifyBytes(t testing.TB, image []byte) signature {
	t.Helper()
	return mustIdentify(t, image[:min(len(image), prefixSize)], int64(len(image)), bytes.NewReader(image))
}

// expectSignature compares the kinds, and wants a danger with these words in
// it, or none at all.
func expectSignature(t *testing.T, s signature, kinds, danger string) {
	t.Helper()
	if s.String() != kinds {
		t.Errorf("it is %s, want %s", s, kinds)
	}
	dangers := strings.Join(s.dangers, "; ")
	if danger == "" && dangers != "" || !strings.Contains(dangers, danger) {
		t.Errorf("the dangers are %q, want %q", dangers, danger)
	}
}
