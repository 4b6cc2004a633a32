// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// Verdicts for those who write a copy.

// A client reads, and then another one's copy is wrong: that is not the last word, as
// nobody has read it since.
func TestMismatchOfAWriterAfterAReader(t *testing.T) {
	var log []string
	defer func(old func(string, ...any)) { logError = old }(logError)
	logError = func(format string, args ...any) { log = append(log, fmt.Sprintf(format, args...)) }
	const size = 256 << 10
	im, c := newTestImage(t, size, "digest-expect", "blake3:"+sumOfTestImage(t, size, "blake3"))
	right := bytes.Clone(c.layer.bytes)
	c.read(0, 4096)
	for _, data := range [][]byte{make([]byte, size), right} {
		writer := &client{im: im, layer: c.layer, cursor: im.connect()}
		writer.write(data, 0, true)
		im.disconnect(writer.cursor)
	}
	if r := im.snapshot(); r.State != complete || len(log) > 0 {
		t.Errorf("the image is %s, the log has %q", r.State, log)
	}
	im.end()
}

// A disk that was zeroed is compared at the flush.
func TestFlushOfZeros(t *testing.T) {
	const size = 4 * mib
	for _, digest := range []string{"blake3", "blkhash", "sha256"} {
		im, c := newTestImage(t, size, "digest", digest, "digest-expect", digest+":"+sumOfTestImage(t, size, digest))
		im.setWritable()
		im.endZero(im.beginWrite(c.cursor, 0, size), 0, size, true)
		if im.verdictOfWriter() == nil {
			t.Errorf("%s: a flush of zeros in place of an image ends well", digest)
		}
		im.end()
	}
}

// A copy is made by two connections, one after the other: its flush compares all of it.
func TestFlushOfACopyOfTwoConnections(t *testing.T) {
	const size = 4 * mib
	im, c := newTestImage(t, size, "digest-expect", "blake3:"+strings.Repeat("00", 32))
	for i := range int64(2) {
		if err := im.admit(c.layer, nil, false); err != nil {
			t.Fatal(err)
		}
		one := &client{im: im, layer: c.layer, cursor: im.connect()}
		lo := i * size / 2
		one.write(c.layer.bytes[lo:lo+size/2], lo, true)
		if err := im.verdictOfWriter(); (err == nil) != (i == 0) {
			t.Errorf("the flush of connection %d ends with %v", i, err)
		}
		im.disconnect(one.cursor)
		im.leave()
	}
	im.end()
}
