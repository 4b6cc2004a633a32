package main

import (
	"errors"
	"math/rand/v2"
	"testing"
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
