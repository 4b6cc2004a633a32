// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"lukechampine.com/blake3"

	"nbdkit-digest-filter/nbdkit"
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

// Who may be about to replace a wrong image is let in, and may flush, until somebody
// reads it: be it found wrong before, or while the client waits at the door.
func TestClientThatMayReplaceAWrongImage(t *testing.T) {
	defer func(log func(string, ...any)) { logError = log }(logError)
	logError = func(string, ...any) {}
	for _, waits := range []bool{false, true} {
		im, c := newTestImage(t, 2*mib, "digest-expect", "blake3:"+strings.Repeat("00", 32))
		im.setWritable()
		c.write(c.layer.bytes[mib:], mib, true)
		first := im.trees[0].take(0, mib/im.trees[0].spec.leafSize, true) // a thread is hashing
		im.disconnect(c.cursor)
		hash := func() {
			im.trees[0].hash(first, c.layer.bytes[:mib])
			im.settle()
		}
		if !waits {
			hash()
		}
		conn := &conn{image: im, cursor: im.connect()}
		var entered, flushed error
		wait := background(t, func() {
			entered = conn.inspect(im, nbdkit.Next{})
			flushed = conn.Flushed(nbdkit.Next{})
		})
		if waits {
			time.Sleep(20 * time.Millisecond)
			hash()
		}
		wait()
		if entered != nil || flushed != nil || im.snapshot().State != mismatch {
			t.Errorf("waits %v: %v at the door, %v at a flush, and the state is %s", waits, entered, flushed, im.snapshot().State)
		}
		if im.admit(c.layer, nil, true) == nil && conn.inspect(im, nbdkit.Next{}) == nil {
			t.Errorf("waits %v: a reader is let in to a wrong image", waits)
		}
		im.end()
	}
}

// A client that may write makes the verdict wait only if nobody has read or written
// before: what others have written is kept, and who has read is told.
func TestWhoMakesTheVerdictWait(t *testing.T) {
	for name, before := range map[string]func(c *client){
		"nobody": func(c *client) {},
		"reader": func(c *client) { c.read(0, mib) },
		"writer": func(c *client) { c.write(c.layer.bytes[:mib], 0, true) },
	} {
		im, c := newTestImage(t, 4*mib, "digest-expect", "blake3:"+strings.Repeat("00", 32), "digest-unread", "late")
		before(c)
		known := im.progress()
		if err := im.admit(c.layer, nil, false); err != nil {
			t.Fatal(err)
		}
		if im.deferred.Load() != (name == "nobody") {
			t.Errorf("%s was there, and the verdict waits: %v", name, im.deferred.Load())
		}
		other := &client{im: im, layer: c.layer, cursor: im.connect()}
		other.write(c.layer.bytes[2*mib:3*mib], 2*mib, true)
		if now := im.progress(); name == "writer" && now != known+mib {
			t.Errorf("%d bytes of the first writer are known, and %d of both", known, now)
		}
		im.end()
	}
}

// Without an expected digest, or when the image has one that is right, there is no verdict
// that could wait.
func TestVerdictThatNeedNotWait(t *testing.T) {
	for _, expected := range []bool{false, true} {
		im, c := newTestImage(t, 4*mib, "digest", "blake3")
		if expected {
			right := blake3.Sum256(c.layer.bytes)
			im.end()
			im, c = newTestImage(t, 4*mib, "digest-expect", fmt.Sprintf("blake3:%x", right))
			c.read(0, 4*mib)
		}
		im.disconnect(c.cursor)
		if err := im.admit(c.layer, nil, false); err != nil || im.deferred.Load() {
			t.Errorf("expected %v: the verdict waits: %v, %v", expected, im.deferred.Load(), err)
		}
		im.end()
	}
}

// The result of a wrong copy that is being replaced is withdrawn before the first write.
func TestMismatchIsWithdrawnBeforeACopy(t *testing.T) {
	m := &memoryLayer{bytes: bytes.Repeat([]byte("\x8f"), 64<<10)}
	changes := 0
	im := newImage("", int64(len(m.bytes)), testConfig(t, "digest-expect", "blake3:"+strings.Repeat("00", 32)), func() { changes++ })
	im.setWritable()
	c := &client{im: im, layer: m, cursor: im.connect()}
	c.write(m.bytes, 0, true)
	im.disconnect(c.cursor)
	published := changes
	if r := im.snapshot(); r.State != mismatch || published == 0 || !im.deferred.Load() {
		t.Fatalf("the state is %s after %d changes: this test shows nothing", r.State, published)
	}
	c.cursor = im.connect()
	ticket := im.beginWrite(c.cursor, 0, 4096)
	if r := im.snapshot(); r.State != changing || changes != published+1 {
		t.Errorf("the state is %s, and the result changed %d times", r.State, changes-published)
	}
	im.endWrite(m, c.cursor, ticket, 0, make([]byte, 4096), true)
	im.end()
}
