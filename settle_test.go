// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"nbdkit-digest-filter/nbdkit"
)

// Two clients begin to write when the digest is known and in the sidecar: neither
// changes anything before it is gone from there, as nbdkit may be killed at any time.
func TestNobodyWritesBeforeTheResultIsWithdrawn(t *testing.T) {
	im, c := newTestImage(t, mib, "digest", "blake3")
	c.read(0, mib)
	if im.snapshot().State != complete {
		t.Fatal("the image is not complete")
	}
	gate, there := make(chan struct{}), make(chan struct{}, 2)
	var gone atomic.Int32
	im.changed = func() {
		there <- struct{}{}
		<-gate
		gone.Add(1)
	}
	write := func(lo int64) (wait func()) {
		cursor := im.connect()
		return background(t, func() {
			ticket := im.beginWrite(cursor, lo, lo+512)
			if gone.Load() == 0 {
				t.Errorf("a write at %d begins before the result is withdrawn", lo)
			}
			im.endWrite(c.layer, cursor, ticket, lo, make([]byte, 512), true)
		})
	}
	first := write(0)
	<-there
	second := write(mib / 2)
	time.Sleep(20 * time.Millisecond)
	close(gate)
	first()
	second()
	// A later one has nothing to withdraw.
	n := gone.Load()
	write(4096)()
	if gone.Load() != n {
		t.Error("the result is withdrawn again")
	}
	im.end()
}

// A request that fails for a mismatch does so when that is in the sidecar: the client
// may look there at once.
func TestMismatchIsPublishedFirst(t *testing.T) {
	logError = func(string, ...any) {}
	for _, digest := range []string{"blake3", "sha256", "blake3,sha256"} {
		im, c := newTestImage(t, mib, "digest", digest, "digest-expect", "blake3:"+strings.Repeat("00", 32))
		there, gate := make(chan struct{}), make(chan struct{})
		var published atomic.Bool
		im.changed = func() {
			close(there)
			<-gate
			published.Store(true)
		}
		first := background(t, func() { c.read(0, mib) })
		<-there
		var waits []func()
		other := &conn{image: im, cursor: im.connect()}
		for name, request := range map[string]func() error{
			"a request in flight": im.verdict,
			"a new request": func() error {
				_, _, err := other.Begin(nbdkit.Read, make([]byte, 512), 0, 512)
				return err
			},
			"a flush":      im.verdictOfWriter,
			"a new client": func() error { return other.inspect(im, nbdkit.Next{}) },
		} {
			waits = append(waits, background(t, func() {
				if err := request(); err == nil || !published.Load() {
					t.Errorf("%s: %s ends with %v, and published is %v", digest, name, err, published.Load())
				}
			}))
		}
		time.Sleep(20 * time.Millisecond)
		close(gate)
		first()
		for _, wait := range waits {
			wait()
		}
		im.end()
	}
}

// brokenHash is one that a setting of Go's forbids.
type brokenHash struct{ hash.Hash }

func (brokenHash) Write([]byte) (int, error) { panic("not allowed") }

// A hash that fails is told as a fault, once, with and without an expectation.
func TestHashThatFailsIsTold(t *testing.T) {
	for _, params := range [][]string{{"digest", "sha256"}, {"digest", "sha256,blake3"}, {"digest-expect", "sha256:" + emptySHA256}} {
		lines := make(chan string, 100)
		defer func(old func(string, ...any)) { logError = old }(logError)
		logError = func(format string, args ...any) { lines <- fmt.Sprintf(format, args...) }
		conf := testConfig(t, params...)
		conf.digests[0].new = func() hash.Hash { return brokenHash{sha256.New()} }
		im := newImage("", mib, conf, func() {})
		c := &client{im: im, layer: &memoryLayer{bytes: make([]byte, mib)}, cursor: im.connect()}
		c.read(0, mib)
		for !im.linear.failed.Load() {
			time.Sleep(time.Millisecond)
		}
		im.settle()
		im.settle()
		if r := im.snapshot(); r.State != failed || !strings.Contains(r.Error, "not allowed") {
			t.Errorf("%v: the state is %s: %s", params, r.State, r.Error)
		}
		if !im.isHopeless() && len(conf.expect) > 0 {
			t.Errorf("%v: requests go on without a digest", params)
		}
		select {
		case line := <-lines:
			if len(lines) > 0 || !strings.Contains(line, "not allowed") {
				t.Errorf("%v: the log has %q, and %d lines more", params, line, len(lines))
			}
		case <-time.After(patience):
			t.Errorf("%v: the log has nothing", params)
		}
	}
}

// A write begins, fails and is gone between two looks of a thread that has just taken the
// digests: they do not hold any more.
func TestDigestsTakenBeforeAWrite(t *testing.T) {
	logError = func(string, ...any) {}
	for _, expect := range []string{"", "blake3:" + strings.Repeat("00", 32)} {
		params := []string{"digest", "blake3"}
		if expect != "" {
			params = append(params, "digest-expect", expect)
		}
		im, c := newTestImage(t, 64<<10, params...)
		c.im.trees[0].add(0, c.layer.bytes, true) // and nobody has looked
		began, _ := im.quiet()
		sums, _ := im.takeSums()
		writer := im.connect()
		im.endWrite(c.layer, writer, im.beginWrite(writer, 0, 512), 0, nil, false)
		im.disconnect(writer)
		if im.setJudged(began, sums) || im.setSums(began, sums) {
			t.Errorf("digests of before a write are the result, with the expectation %q", expect)
		}
		im.end()
	}
}

// What an earlier state of the image was judged right for says nothing of the next one.
func TestWrongAfterItWasRight(t *testing.T) {
	logError = func(string, ...any) {}
	const size, step = 12 * mib, 64 << 10
	im, c := newTestImage(t, size, "digest", "sha256,blake3", "digest-memory", "1M",
		"digest-expect", "blake3:"+sumOfTestImage(t, size, "blake3"))
	order := rand.New(rand.NewPCG(5, 5)).Perm(size / step)
	for _, i := range order {
		c.read(int64(i)*step, int64(i+1)*step)
	}
	if im.linear.complete() || !im.isJudged(im.began) {
		t.Fatal("this test shows nothing")
	}
	writer := &client{im: im, layer: c.layer, cursor: im.connect()}
	writer.write(make([]byte, 4096), 5*mib, true)
	im.disconnect(writer.cursor)
	if im.isCompared() {
		t.Error("what was written was never compared, and is said to be")
	}
	var err error
	for _, i := range order {
		c.read(int64(i)*step, int64(i+1)*step)
		background(t, func() { err = im.verdict() })()
	}
	if err == nil {
		t.Error("a wrong image has no verdict")
	}
	im.end()
}

// A verdict that cannot come is not waited for.
func TestVerdictThatDoesNotCome(t *testing.T) {
	logError = func(string, ...any) {}
	const size = 256 << 10
	wrong := "blake3:" + strings.Repeat("00", 32)
	for name, prepare := range map[string]func(im *image, c *client){
		"a writer is there": func(im *image, c *client) {
			writer := &client{im: im, layer: c.layer, cursor: im.connect()}
			writer.write([]byte("new"), 0, true)
		},
		"the image has ended":   func(im *image, c *client) { im.end() },
		"the image has failed":  func(im *image, c *client) { im.fail("a fault") },
		"a writer may yet come": func(im *image, c *client) { im.deferVerdict() },
	} {
		im, c := newTestImage(t, size, "digest-expect", wrong)
		prepare(im, c)
		im.trees[0].add(0, c.layer.bytes, true)
		background(t, func() { im.settle(); im.verdict() })()
		if t.Failed() {
			t.Fatal(name)
		}
		im.end()
	}
	// Nor is a hole that would take minutes to hash.
	im := newImage("", 9<<40, testConfig(t, "digest-expect", wrong), func() {})
	ticket := im.beginExtents(0, im.size)
	im.endExtents(ticket, 0, im.size, func(yield func(int64, int64) bool) { yield(0, im.size) })
	background(t, func() { im.verdict() })()
	im.end()
}

// Of an image that has gone, or that failed, nothing was verified or compared.
func TestImageThatIsNotCompared(t *testing.T) {
	logError = func(string, ...any) {}
	const size = 2 * mib
	right := "blake3:" + sumOfTestImage(t, size, "blake3")
	im, c := newTestImage(t, size, "digest-expect", right, "digest-verify", "before")
	im.end()
	if im.verify(c.layer, 1) == nil {
		t.Error("an image that has gone is verified")
	}
	im, c = newTestImage(t, size, "digest-expect", right, "digest-expect", "sha256:"+strings.Repeat("00", 32))
	im.trees[0].add(0, c.layer.bytes, true)
	im.settle()
	if im.isCompared() {
		t.Error("one of two digests was compared, and that is taken for both")
	}
	im.end()
	im, c = newTestImage(t, size, "digest", "sha256,blake3", "digest-expect", right)
	im.trees[0].add(0, c.layer.bytes, true)
	im.settle()
	if !im.isCompared() {
		t.Error("the expected digest was not compared")
	}
	im.fail("a fault")
	if im.isCompared() {
		t.Error("an image that failed later is said to be right")
	}
	im.end()
	im, c = newTestImage(t, size, "digest-expect", "blake3:"+strings.Repeat("00", 32))
	c.write(c.layer.bytes, 0, true)
	im.disconnect(c.cursor)
	if im.end(); im.isCompared() {
		t.Error("a wrong copy that nobody has read is said to be right")
	}
}

// A mismatch at the door is final, though the client that has come may write.
func TestVerifyIsFinal(t *testing.T) {
	logError = func(string, ...any) {}
	im, c := newTestImage(t, mib, "digest-verify", "before", "digest-expect", "blake3:"+strings.Repeat("00", 32))
	if im.verify(c.layer, 1) == nil || !im.refused.Load() {
		t.Errorf("a wrong image is refused: %v", im.refused.Load())
	}
	im.end()
}
