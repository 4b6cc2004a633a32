// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"hash"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"nbdkit-digest-filter/nbdkit"
)

// extentlessLayer does not tell extents, though it could be asked.
type extentlessLayer struct {
	*memoryLayer
	err   error
	asked int
}

func (l *extentlessLayer) Extents(int64, int64, func(int64, int64, bool)) error {
	l.asked++
	return l.err
}

// Where extents cannot be told there may be data: it can be read, so there is a digest.
func TestEndPassWithoutExtents(t *testing.T) {
	const size = 9*mib + 13
	for _, err := range []error{nil, errors.New("input/output error")} {
		m := &memoryLayer{bytes: randomBytes(rand.New(rand.NewPCG(8, 8)), size)}
		im := newImage("", size, testConfig(t, "digest", "blake3,sha256"), func() {})
		l := &extentlessLayer{m, err, 0}
		pass := endPass{im: im, next: l, interrupted: never}
		if err := pass.run(2); err != nil {
			t.Error(err)
		}
		if l.asked > 2 {
			t.Errorf("the layer below, which logs each error, was asked %d times", l.asked)
		}
		expectDigests(t, im, m)
	}
}

// An end pass asks for about as many extents as there are, however the layer below tells
// them, and little more often than there are long ones.
func TestEndPassAsksForFewExtents(t *testing.T) {
	const small = 64 * mib / (8 << 10)
	for _, c := range []struct{ size, hole, extent, asked, told int64 }{
		{64 * mib, 0, 8 << 10, 2 * small, small * (minAhead + endReadSize) / (8 << 10)},
		{1<<30 + 64*mib, 1 << 30, 8 << 10, 2 * small, small * (minAhead + endReadSize) / (8 << 10)},
		{1 << 40, 0, 1 << 38, 2 << 40 / maxAhead, 4 << 40 / maxAhead},
	} {
		im := newImage("", c.size, testConfig(t, "digest", "blake3"), func() {})
		l := &stripedLayer{hole: c.hole, extent: c.extent, data: c.extent < mib}
		pass := endPass{im: im, next: l, interrupted: never}
		if err := pass.run(1); err != nil || im.snapshot().State != complete {
			t.Errorf("%v, %s", err, im.snapshot().State)
		}
		if l.asked > c.asked || l.told > c.told {
			t.Errorf("extents of %d bytes behind %d: asked %d times, and told %d: want %d and %d", c.extent, c.hole, l.asked, l.told, c.asked, c.told)
		}
	}
}

// stripedLayer has a hole, and then extents of one length, of zeros or, in turn, of zeros
// and data. It tells all that it is asked for.
type stripedLayer struct {
	hole        int64
	extent      int64
	data        bool
	asked, told int64
}

func (l *stripedLayer) ReadAt(p []byte, _ int64) (int, error) { return len(p), nil }

func (l *stripedLayer) Extents(offset, size int64, each func(offset, length int64, zero bool)) error {
	l.asked++
	for offset < size {
		end := min(size, max(l.hole, offset-offset%l.extent+l.extent))
		l.told++
		each(offset, end-offset, !l.data || offset < l.hole || offset/l.extent%2 == 0)
		offset = end
	}
	return nil
}

// A fault of the filter's own ends the computation: what the thread has listed stays there.
func TestFaultInTheEndPass(t *testing.T) {
	logError = func(string, ...any) {}
	im, c := newTestImage(t, 4*mib, "digest", "blake3")
	c.layer.fail = func(lo, hi int64) bool { panic("a fault") }
	im.disconnect(c.cursor)
	background(t, func() { im.complete(c.layer, 1, never) })()
	c.layer.fail = nil
	background(t, func() { im.finish(c.layer, 1) })()
	if r := im.snapshot(); r.State != failed || !strings.Contains(r.Error, "a fault") {
		t.Errorf("the state is %s: %s", r.State, r.Error)
	}
	im.end()
}

// A hole that is hashed is taken piece by piece, so that a signal is heeded soon.
func TestPassThatIsInterruptedBetweenPiecesOfAHole(t *testing.T) {
	for _, digest := range []string{"blkhash/sha256/1m", "sha256"} {
		im := newImage("", 4<<30, testConfig(t, "digest", digest), func() {})
		whole := &stripedLayer{hole: im.size, extent: im.size}
		before := int64(0)
		pass := endPass{im: im, next: whole, interrupted: func() bool {
			known := im.progress()
			if known-before > 1<<30 {
				t.Errorf("%s: %d bytes of a hole are taken at once", digest, known-before)
			}
			before = known
			return known > 3<<30
		}}
		if err := pass.run(1); !errors.Is(err, errInterrupted) {
			t.Errorf("%s: the pass ends with %v", digest, err)
		}
		im.end()
	}
}

// What another client is reading when the last one of an export leaves is waited for, and
// read if that fails.
func TestFinishWaitsForOtherClients(t *testing.T) {
	im, c := newTestImage(t, 4*mib, "digest", "blake3")
	const lo, hi = mib, 2 * mib
	ticket := im.beginRead(c.cursor, lo, hi)
	wait := background(t, func() { im.finish(c.layer, 1) })
	for im.progress() < im.size-(hi-lo) {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond) // for a pass that does not wait
	im.endRead(c.layer, c.cursor, ticket, lo, nil)
	wait()
	if im.canBeCompleted() {
		t.Errorf("what a client could not read is not read at the end: %d of %d bytes are known", im.progress(), im.size)
	}
	expectDigests(t, im, c.layer)
}

// What a client was told of is no copy, and no reason to read the image at the end. But
// what is known is finished.
func TestMapIsNoCopy(t *testing.T) {
	const size = 400 * mib
	for _, holes := range []int64{size / 2, size} {
		im := newImage("", size, testConfig(t, "digest", "blake3"), func() {})
		ticket := im.beginExtents(0, size)
		im.endExtents(ticket, 0, size, func(yield func(int64, int64) bool) { yield(0, holes) })
		if im.isProbed() != (holes < size) {
			t.Errorf("an image of which a client knows %d bytes of holes is a probe: %v", holes, im.isProbed())
		}
		im.end()
	}
}

// All is known, but a hole that no table has would take minutes: a signal ends that.
func TestPassThatIsInterruptedInAHole(t *testing.T) {
	const size = 9 << 40
	im := newImage("", size, testConfig(t, "digest", "blake3"), func() {})
	ticket := im.beginExtents(0, size)
	im.endExtents(ticket, 0, size, func(yield func(int64, int64) bool) { yield(0, size) })
	pass := endPass{im: im, interrupted: func() bool { return true }}
	if err := pass.run(1); !errors.Is(err, errInterrupted) {
		t.Errorf("the pass ends with %v", err)
	}
	im.end()
}

// A client that has trimmed has not just had a look.
func TestTrimIsNoProbe(t *testing.T) {
	im, c := newTestImage(t, 32*mib)
	if !im.isProbed() {
		t.Error("an image that nobody has used is no probe")
	}
	ticket := im.beginWrite(c.cursor, 0, 4096)
	im.endTrim(c.layer, ticket, 0, 4096, true)
	if im.isProbed() {
		t.Error("a trimmed image is a probe")
	}
	im.end()
}

// While what a client has left is read, another one begins to write: it is not waited
// for, and what it may yet change is not read.
func TestWhoWritesEndsThePassOfWhoLeft(t *testing.T) {
	const size = 64 * mib
	im, c := newTestImage(t, size, "digest", "blake3,sha256")
	im.setWritable()
	c.read(0, 8*mib)
	im.disconnect(c.cursor)
	writer := im.connect()
	var once sync.Once
	c.layer.fail = func(lo, hi int64) bool {
		once.Do(func() { im.endWrite(c.layer, writer, im.beginWrite(writer, 0, 512), 0, c.layer.bytes[:512], true) })
		return false
	}
	im.finish(c.layer, 2)
	if own := im.filterRead.Load(); own > 4*endReadSize {
		t.Errorf("the filter read %d bytes beside a client that writes", own)
	}
	im.disconnect(writer)
	im.finish(c.layer, 2)
	expectDigests(t, im, c.layer)
}

// slowHash holds each write until it is let go.
type slowHash struct {
	hash.Hash
	begun, rest chan struct{}
}

func (s *slowHash) Write(p []byte) (int, error) {
	s.begun <- struct{}{}
	<-s.rest
	return s.Hash.Write(p)
}

// A second signal comes while the last bytes are hashed. What was said then stays: that
// the image is incomplete.
func TestNothingComesAfterTheEnd(t *testing.T) {
	const size = 64 << 10
	conf := testConfig(t, "digest", "sha256")
	slow := &slowHash{sha256.New(), make(chan struct{}, 100), make(chan struct{})}
	conf.digests[0].new = func() hash.Hash { return slow }
	var changes atomic.Int32
	im := newImage("", size, conf, func() { changes.Add(1) })
	c := &client{im: im, layer: &memoryLayer{bytes: make([]byte, size)}, cursor: im.connect()}
	go c.read(0, size)
	<-slow.begun
	im.drain(func() bool { return true })
	im.end()
	if r := im.snapshot(); r.State != incomplete {
		t.Fatalf("the last bytes are not hashed yet, and the state is %s", r.State)
	}
	close(slow.rest)
	for !im.linear.complete() {
		time.Sleep(time.Millisecond)
	}
	im.settle()
	if r := im.snapshot(); r.State != incomplete || changes.Load() > 0 {
		t.Errorf("after the end the state is %s, and was told %d times", r.State, changes.Load())
	}
}

// A thread that publishes late does not replace the last word.
func TestLastWordStays(t *testing.T) {
	conf := testConfig(t, "digest", "blake3", "digest-file", filepath.Join(t.TempDir(), "sums"))
	f := newFilter()
	f.conf = conf
	f.sidecar = newSidecar(conf.file, conf.format, -1)
	im, err := f.image("", mib)
	if err != nil {
		t.Fatal(err)
	}
	c := &client{im: im, layer: &memoryLayer{bytes: make([]byte, mib)}, cursor: im.connect()}
	c.read(0, mib)
	f.Finish(nbdkit.Backend{})
	before, err := os.ReadFile(conf.file)
	if err != nil {
		t.Fatal(err)
	}
	im.fail("a fault that comes late")
	after, err := os.ReadFile(conf.file)
	if err != nil || !bytes.Equal(after, before) {
		t.Errorf("after the last word\n%sthe file is\n%s(%v)", before, after, err)
	}
}

// nbdkit may still be closing the connection of a client that has written when it ends:
// nothing comes of that any more.
func TestWriterThatIsStillConnectedAtTheEnd(t *testing.T) {
	im, c := newTestImage(t, 64<<10, "digest", "blake3,sha256")
	c.write(c.layer.bytes, 0, true)
	im.drain(never)
	if state := im.snapshot().State; state != changing {
		t.Fatalf("with a writer the state is %s: this test shows nothing", state)
	}
	im.clientsGone()
	im.drain(never)
	if state := im.snapshot().State; state != complete {
		t.Errorf("at the end the state is %s", state)
	}
	im.disconnect(c.cursor)
	expectDigests(t, im, c.layer)
}

// A client that might have written has only asked for extents, and all of a small image
// was read at its door: at the end, that is judged.
func TestMismatchThatNobodyHasWrittenOver(t *testing.T) {
	defer func(log func(string, ...any)) { logError = log }(logError)
	logError = func(string, ...any) {}
	im, c := newTestImage(t, 64<<10, "digest-expect", "blake3:"+strings.Repeat("00", 32), "signature", "any")
	im.deferVerdict()
	im.endRead(c.layer, nil, im.beginLook(0, im.size), 0, c.layer.bytes)
	im.endExtents(im.beginExtents(0, im.size), 0, im.size, func(func(int64, int64) bool) {})
	im.drain(never)
	if im.refused.Load() {
		t.Fatal("the image is judged before anybody has read: this test shows nothing")
	}
	im.clientsGone()
	im.drain(never)
	if state := im.snapshot().State; state != mismatch || !im.refused.Load() {
		t.Errorf("at the end the state is %s, and refused is %v", state, im.refused.Load())
	}
	im.end()
}

// Who retires writes no more, and the last one who does is told so. A writer counts once,
// though it is gone only later.
func TestClientsThatRetire(t *testing.T) {
	im, c := newTestImage(t, 64<<10, "digest", "blake3")
	for range 2 {
		writer := &client{im: im, layer: c.layer, cursor: im.connect()}
		writer.write([]byte("new"), 0, true)
		if im.retire(writer.cursor) {
			t.Error("another client is there, and is not seen")
		}
		if im.mayChange() {
			t.Error("a client that sends no more requests may write")
		}
		im.disconnect(writer.cursor)
	}
	if !im.retire(c.cursor) {
		t.Error("the last client is not known as such")
	}
	im.disconnect(c.cursor)
	expectDigests(t, im, c.layer)

	im, c = newTestImage(t, 64<<10, "digest-expect", "blake3:"+sumOfTestImage(t, 64<<10, "blake3"))
	im.deferVerdict() // as c may write
	im.retire(c.cursor)
	if im.mayChange() {
		t.Error("the last client has retired, and may replace what is there")
	}
	im.end()
}
