// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func never() bool { return false }

// newTestImage makes an image of random bytes with one client.
func newTestImage(t *testing.T, size int64, params ...string) (*image, *client) {
	t.Helper()
	m := &memoryLayer{bytes: randomBytes(rand.New(rand.NewPCG(1, uint64(size))), size)}
	im := newImage("", size, testConfig(t, params...), func() {})
	return im, &client{im: im, layer: m, cursor: im.connect()}
}

// expectZeros makes an image expect a digest that it does not have.
func expectZeros(t *testing.T, im *image, digest string) {
	t.Helper()
	a, err := parseAlgorithm(digest)
	if err != nil {
		t.Fatal(err)
	}
	im.conf.expect = []expectation{{a, make([]byte, a.size)}}
}

// patience is how long something may take before it is taken to hang.
const patience = time.Minute

// background runs f, and returns what waits for it.
func background(t *testing.T, f func()) (wait func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	return func() {
		t.Helper()
		select {
		case <-done:
		case <-time.After(patience):
			t.Fatal("hangs")
		}
	}
}

// A range that a client is reading is left to it, and read if it fails.
func TestPassWaitsForClients(t *testing.T) {
	for _, digests := range []string{"blake3", "sha256", "sha256,blake3"} {
		for _, fails := range []bool{false, true} {
			im, c := newTestImage(t, 4<<20+5, "digest", digests)
			lo, hi := int64(1<<20+100), int64(2<<20+7)
			ticket := im.beginRead(c.cursor, lo, hi)
			var err error
			wait := background(t, func() { err = im.complete(c.layer, 2, never) })
			for deadline := time.Now().Add(patience); c.layer.served.Load() < im.size-(hi-lo); time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("the rest is not read while a client reads")
				}
			}
			time.Sleep(20 * time.Millisecond)
			if !im.canBeCompleted() || c.layer.served.Load() != im.size-(hi-lo) {
				t.Fatalf("%s: %d bytes are read while a client reads %d of %d", digests, c.layer.served.Load(), hi-lo, im.size)
			}
			var data []byte
			if !fails {
				data = c.layer.bytes[lo:hi]
			}
			im.endRead(c.layer, c.cursor, ticket, lo, data)
			wait()
			if err != nil {
				t.Fatal(err)
			}
			if served := c.layer.served.Load(); !fails && served != im.size-(hi-lo) {
				t.Errorf("%s: %d bytes are read in the end", digests, served)
			}
			expectDigests(t, im, c.layer)
		}
	}
}

// A layer whose extents can be waited for.
type slowExtents struct {
	*memoryLayer
	once          sync.Once
	asked, answer chan struct{}
}

func (s *slowExtents) Extents(offset, size int64, each func(offset, length int64, zero bool)) error {
	s.memoryLayer.Extents(offset, size, each)
	s.once.Do(func() {
		close(s.asked)
		<-s.answer
	})
	return nil
}

// A hole that is written while the layer below tells of it is no hole, be it that the
// write fails.
func TestWriteWhileAskingForExtents(t *testing.T) {
	for _, digests := range []string{"blake3", "sha256"} {
		for _, ok := range []bool{true, false} {
			im, c := newTestImage(t, 1<<20, "digest", digests)
			clear(c.layer.bytes)
			c.layer.holes.add(0, im.size)
			slow := &slowExtents{memoryLayer: c.layer, asked: make(chan struct{}), answer: make(chan struct{})}
			wait := background(t, func() { im.complete(slow, 1, never) })
			<-slow.asked
			c.layer.holes.remove(4096, 8192)
			data := bytes.Repeat([]byte{1}, 4096)
			if !ok {
				c.layer.write(data, 4096)
			}
			c.write(data, 4096, ok)
			// The writer has gone before the layer answers.
			im.disconnect(c.cursor)
			close(slow.answer)
			wait()
			expectDigests(t, im, c.layer)
		}
	}
}

func TestPassEndsWhenAWriterComes(t *testing.T) {
	im, c := newTestImage(t, 8<<20, "digest", "blake3")
	ticket := im.beginRead(c.cursor, 0, 4096) // never ends: the pass cannot
	wait := background(t, func() {
		if err := im.complete(c.layer, 2, never); err != nil {
			t.Error(err)
		}
	})
	c.write([]byte("x"), 5, true)
	wait()
	if s := im.snapshot().State; s != changing {
		t.Errorf("state is %s", s)
	}
	im.endRead(c.layer, c.cursor, ticket, 0, nil)
	im.disconnect(c.cursor)
	expectDigests(t, im, c.layer)
}

func TestPassEndsAtShutdown(t *testing.T) {
	im, c := newTestImage(t, 8<<20, "digest", "sha256")
	im.beginRead(c.cursor, 0, 4096)
	var shutdown atomic.Bool
	wait := background(t, func() {
		if err := im.complete(c.layer, 2, shutdown.Load); !errors.Is(err, errInterrupted) {
			t.Errorf("the error is %v", err)
		}
	})
	time.Sleep(10 * time.Millisecond)
	shutdown.Store(true)
	wait()
}

func TestPassTellsWhatCannotBeRead(t *testing.T) {
	im, c := newTestImage(t, 8<<20, "digest", "blake3")
	c.layer.fail = func(lo, hi int64) bool { return lo <= 5<<20 && 5<<20 < hi }
	if err := im.complete(c.layer, 2, never); err == nil {
		t.Error("there is no error")
	}
	c.layer.fail = nil
	expectDigests(t, im, c.layer)
}

// Passes beside clients that read, write, come and go.
func TestPassesBesideClients(t *testing.T) {
	t.Parallel()
	for _, digests := range []string{"blake3", "sha256", "sha256,blake3"} {
		for seed := range uint64(3) {
			im, c := newTestImage(t, 3<<20+77, "digest", digests, "digest-memory", "4M")
			var wg sync.WaitGroup
			for i := range uint64(3) {
				wg.Go(func() {
					r := rand.New(rand.NewPCG(seed, i))
					for range 20 {
						one := &client{im: im, layer: c.layer, cursor: im.connect()}
						for range 5 {
							lo := r.Int64N(im.size)
							hi := min(im.size, lo+1+r.Int64N(100000))
							if i == 0 && r.IntN(4) == 0 {
								one.write(randomBytes(r, hi-lo), lo, true)
							} else {
								one.read(lo, hi)
							}
						}
						im.disconnect(one.cursor)
					}
				})
			}
			for range 2 {
				wg.Go(func() {
					for range 5 {
						if err := im.complete(c.layer, 2, never); err != nil {
							t.Error(err)
						}
						im.snapshot()
					}
				})
			}
			wg.Wait()
			if err := im.complete(c.layer, 2, never); err != nil {
				t.Error(err)
			}
			if s := im.snapshot().State; s != complete {
				t.Errorf("state is %s", s)
			}
			expectDigests(t, im, c.layer)
		}
	}
}

func TestOneAtATimeHasTheTurn(t *testing.T) {
	f := &filter{}
	var at, most atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				done := f.takeTurn("a")
				most.Store(max(most.Load(), at.Add(1)))
				runtime.Gosched()
				at.Add(-1)
				done()
			}
		})
	}
	f.takeTurn("b") // another export, never done
	wg.Wait()
	if most.Load() != 1 {
		t.Errorf("%d have it at once", most.Load())
	}
}

// The size of the source changes meanwhile: the image is of no use to anybody, whatever
// else is wrong.
func TestPassEndsWhenTheSizeChanges(t *testing.T) {
	for _, digest := range []string{"sha256", "blake3"} {
		for _, fails := range []bool{false, true} {
			im, c := newTestImage(t, 8*mib, "digest", digest)
			reading, resized := make(chan bool), make(chan bool)
			var once sync.Once
			c.layer.fail = func(lo, _ int64) bool {
				if lo >= 4*mib {
					once.Do(func() { close(reading); <-resized })
				}
				return fails && lo >= 4*mib
			}
			var err error
			wait := background(t, func() { err = im.complete(c.layer, 1, never) })
			<-reading
			im.end()
			close(resized)
			wait()
			if !errors.Is(err, errResized) {
				t.Errorf("%s: the error is %v", digest, err)
			}
		}
	}
}

// Who asks for the final digest wants to know what is there now, though a client might
// write. But one that has written may not be done when it leaves.
func TestFinalEndsTheDeferral(t *testing.T) {
	logError = func(string, ...any) {}
	for _, written := range []bool{false, true} {
		f := newFilter()
		f.conf = testConfig(t, "digest-expect", "blake3:"+strings.Repeat("00", 32))
		im, err := f.image("", mib)
		if err != nil {
			t.Fatal(err)
		}
		c := &client{im: im, layer: &memoryLayer{bytes: make([]byte, mib)}, cursor: im.connect()}
		im.deferVerdict()
		if written {
			c.write(c.layer.bytes, 0, true)
			f.complete("", nil, never)
			im.disconnect(c.cursor)
			im.drain(never)
		} else {
			im.complete(c.layer, 1, never)
		}
		if written != im.deferred.Load() || written == im.refused.Load() {
			t.Errorf("written %v: deferred is %v, and refused %v", written, im.deferred.Load(), im.refused.Load())
		}
		im.end()
	}
}

// Who waits for the digest of an image that has gone does not wait any longer.
func TestNewImageHasATurnOfItsOwn(t *testing.T) {
	logError = func(string, ...any) {}
	f := newFilter()
	f.conf = testConfig(t)
	im, err := f.image("", mib)
	if err != nil {
		t.Fatal(err)
	}
	defer im.end()
	first := f.takeTurn("")
	wait := background(t, func() { f.takeTurn("")() })
	resized, _ := f.image("", 2*mib)
	defer resized.end()
	wait()
	second := f.takeTurn("")
	first() // which is not the turn of the second
	wait = background(t, func() { f.takeTurn("")() })
	second()
	wait()
}
