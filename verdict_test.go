// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"nbdkit-digest-filter/nbdkit"
)

// One client's thread is still hashing the last bytes when another one, which
// has read everything, asks whether its copy is good: it must wait, and fail.
func TestVerdictWaitsForBytesThatAnotherClientBrings(t *testing.T) {
	const size = 5 * mib
	var log []string
	logError = func(format string, args ...any) { log = append(log, format) }
	for _, digest := range []string{"blake3", "merkle/sha256/64k", "blkhash/sha256/64k", "sha256"} {
		for _, right := range []bool{true, false} {
			r := rand.New(rand.NewPCG(3, 3))
			m := &memoryLayer{bytes: randomBytes(r, size)}
			im, slow := newTestImage(t, size, "digest", digest)
			quick := &client{im: im, layer: m, cursor: im.connect()}
			slow.layer = m
			a, _ := parseAlgorithm(digest)
			sum := make([]byte, a.size)
			if right {
				other := newImage("", size, testConfig(t, "digest", digest), func() {})
				(&client{im: other, layer: m, cursor: other.connect()}).read(0, size)
				other.drain(never)
				sum, _ = hex.DecodeString(other.snapshot().Digests[0].Hex)
				other.end()
			}
			im.conf.expect = []expectation{{a, sum}}

			// The slow client's thread has taken the last MiB, and is not done.
			var finish func()
			if im.linear != nil {
				c, _, _ := im.linear.take(size-mib, size)
				finish = func() {
					data := m.bytes[c.lo:c.hi]
					at := c.lo % pageSize
					for _, page := range c.pages {
						data = data[copy(page.data[at:], data):]
						at = 0
					}
					im.linear.copied(c)
				}
			} else {
				tr := im.trees[0]
				leaf := tr.spec.leafSize
				c := tr.take((size-mib)/leaf, size/leaf, true)
				finish = func() { tr.hash(c, m.bytes[size-mib:]); im.settle() }
			}
			quick.read(0, size)
			verdict := make(chan error)
			go func() { verdict <- im.verdict() }()
			select {
			case err := <-verdict:
				t.Errorf("%s, %v: the verdict is %v before the digest is known", digest, right, err)
			case <-time.After(50 * time.Millisecond):
				finish()
				if err := <-verdict; (err == nil) != right {
					t.Errorf("%s, %v: the verdict is %v", digest, right, err)
				}
			}
			im.end()
		}
	}
	for _, line := range log {
		if !strings.Contains(line, "%v: %s") {
			t.Errorf("the log has %q", line)
		}
	}
	if len(log) != 4 {
		t.Errorf("the log has %d lines about 4 mismatches", len(log))
	}
}

// Where there will be no digest to compare, no request may make a copy look good.
func TestNothingSucceedsWithoutTheExpectedDigest(t *testing.T) {
	for _, digest := range []string{"blake3", "sha256"} {
		im, _ := newTestImage(t, 4*mib, "digest", digest)
		expectZeros(t, im, digest)
		c := &conn{image: im, cursor: im.connect(), filter: &filter{conf: im.conf}}
		if err := c.Flushed(nbdkit.Next{}); err != nil {
			t.Errorf("%s: a flush fails before anything is known: %v", digest, err)
		}
		im.fail("internal error")
		if err := c.Flushed(nbdkit.Next{}); err == nil {
			t.Errorf("%s: a flush succeeds", digest)
		}
		for _, op := range []nbdkit.Op{nbdkit.Read, nbdkit.Write, nbdkit.Zero, nbdkit.Trim, nbdkit.AskExtents} {
			if _, _, err := c.Begin(op, nil, 0, 4096); err == nil {
				t.Errorf("%s: %v succeeds", digest, op)
			}
		}
		im.end()
	}
}

// An expected digest that is complete is looked at, although another one is not: a
// linear one that was left behind may be known at the end only, or never.
func TestVerdictOnOneOfTwoDigests(t *testing.T) {
	const size, step = 12 * mib, 64 << 10
	sum := sumOfTestImage(t, size, "blake3")
	for _, right := range []bool{true, false} {
		for _, gap := range []int64{0, step / 2} {
			var log []string
			logError = func(format string, args ...any) { log = append(log, fmt.Sprintf(format, args...)) }
			expect := sum
			if !right {
				expect = strings.Repeat("0", len(sum))
			}
			im, c := newTestImage(t, size, "digest", "sha256,blake3", "digest-memory", "1M", "digest-unread", "early", "digest-expect", "blake3:"+expect)
			var err error
			for _, i := range rand.New(rand.NewPCG(5, 5)).Perm(size / step) {
				lo := int64(i) * step
				if i == size/step/2 {
					lo += gap
				}
				c.read(lo, int64(i+1)*step)
				background(t, func() { err = im.verdict() })()
				if err != nil {
					break
				}
			}
			if im.linear.complete() {
				t.Fatalf("right %v, %d bytes left out: sha256 is known", right, gap)
			}
			if (err == nil) != right {
				t.Errorf("right %v, %d bytes left out: the verdict is %v", right, gap, err)
			}
			r := im.snapshot()
			if want := map[bool]state{true: pending, false: mismatch}[right]; r.State != want {
				t.Errorf("right %v: the image is %s", right, r.State)
			}
			if !right && (len(log) != 1 || r.Digests[0].Hex != "" || r.Digests[1].Hex != sum) {
				t.Errorf("the log has %q, the digests are %v", log, r.Digests)
			}
			im.disconnect(c.cursor)
			if right {
				expectDigests(t, im, c.layer)
			}
			im.end()
		}
	}
}

// What a writer leaves is looked at when it has gone, if no request will come.
func TestOneOfTwoDigestsOfAWriterThatHasGone(t *testing.T) {
	const size, step = 12 * mib, 64 << 10
	logError = func(string, ...any) {}
	im, c := newTestImage(t, size, "digest", "sha256,blake3", "digest-memory", "1M", "digest-expect", "blake3:"+strings.Repeat("00", 32))
	for _, i := range rand.New(rand.NewPCG(5, 5)).Perm(size / step) {
		lo := int64(i) * step
		c.write(c.layer.bytes[lo:lo+step], lo, true)
	}
	if im.refused.Load() {
		t.Error("the image is refused while a writer is connected")
	}
	im.disconnect(c.cursor)
	if im.linear.complete() {
		t.Fatal("sha256 is known")
	}
	if r := im.snapshot(); im.refused.Load() || r.State != mismatch {
		t.Errorf("the image is %s, refused %v, before anybody reads it", r.State, im.refused.Load())
	}
	next := &client{im: im, layer: c.layer, cursor: im.connect()}
	next.read(0, step)
	if !im.refused.Load() || !im.announced.Load() {
		t.Error("a wrong image is not refused")
	}
	im.end()
}

// What is known of an image before a client asks for data is of interest then.
func TestMismatchIsToldWhenAClientAsks(t *testing.T) {
	told := 0
	im := newImage("", mib, testConfig(t, "digest-expect", "blake3:"+strings.Repeat("00", 32)), func() { told++ })
	im.zero(0, mib, false)
	im.settle()
	told = 0
	if r := im.snapshot(); r.State != mismatch || im.refused.Load() {
		t.Fatalf("the image is %s, refused %v", r.State, im.refused.Load())
	}
	if im.touch(); told != 1 {
		t.Errorf("it is told %d times", told)
	}
	im.end()
}

// One copy may be the second half of another, or be made again: what the first one
// left is not the last word.
func TestMismatchOfAWriterGoesWithTheNextOne(t *testing.T) {
	const size, step = 4 * mib, 64 << 10
	for _, digest := range []string{"sha256", "blake3"} {
		var log []string
		logError = func(format string, args ...any) { log = append(log, fmt.Sprintf(format, args...)) }
		im, c := newTestImage(t, size, "digest", digest, "digest-expect", digest+":"+sumOfTestImage(t, size, digest))
		first, right := &client{im: im, layer: c.layer, cursor: im.connect()}, slices.Clone(c.layer.bytes)
		for lo := int64(0); lo < size; lo += step {
			first.write(make([]byte, step), lo, true)
		}
		if im.verdictOfWriter() == nil {
			t.Errorf("%s: a flush of a wrong image ends well", digest)
		}
		im.disconnect(first.cursor)
		if r := im.snapshot(); r.State != mismatch || im.isHopeless() || len(log) != 0 {
			t.Errorf("%s: the image is %s, refused %v, the log has %q", digest, r.State, im.isHopeless(), log)
		}
		second := &client{im: im, layer: c.layer, cursor: im.connect()}
		for lo := int64(0); lo < size; lo += step {
			second.write(right[lo:lo+step], lo, true)
			if err := im.verdictOfWriter(); err != nil {
				t.Fatalf("%s: a flush at %d ends with %v", digest, lo, err)
			}
		}
		im.disconnect(second.cursor)
		if r := im.snapshot(); r.State != complete {
			t.Errorf("%s: the image is %s at the end", digest, r.State)
		}
		im.end()
	}
}

// sumOfTestImage is the digest of what newTestImage makes.
func sumOfTestImage(t *testing.T, size int64, digest string) string {
	t.Helper()
	im, c := newTestImage(t, size, "digest", digest)
	defer im.end()
	c.read(0, size)
	im.drain(never)
	return im.snapshot().Digests[0].Hex
}

// A client verifies an image while another reader has its last bytes in hand, and
// is just hashing them, or copying them to where they are hashed.
func TestVerifyBesideAnotherReader(t *testing.T) {
	const size, last = 2 * mib, 64 << 10
	for _, digest := range []string{"blake3", "sha256", "blkhash"} {
		for _, part := range []bool{false, true} {
			if part && digest == "sha256" {
				continue
			}
			im, c := newTestImage(t, size, "digest", digest, "digest-verify", "before",
				"digest-expect", digest+":"+sumOfTestImage(t, size, digest))
			ticket, _, _ := im.beginFree(size-last, size)
			im.answered(ticket)
			data := c.layer.bytes[size-last:]
			var finish func()
			switch {
			case im.linear != nil:
				claim, _, _ := im.linear.take(size-last, size)
				finish = func() {
					copy(claim.pages[0].data, data)
					im.linear.copied(claim)
				}
			case part:
				tr := im.trees[0]
				leaf := tr.spec.leafSize
				im.feed(c.layer, nil, size-last, data[:last-100])
				p, a, b := tr.takePart(size/leaf-1, leaf-100, leaf, true)
				finish = func() {
					copy(p.buf[a:b], data[last-100:])
					claim, _ := tr.partDone(p, b-a, true)
					tr.hash(claim, p.buf)
					tr.sparePart(p)
				}
			default:
				tr := im.trees[0]
				claim := tr.take((size-last)/tr.spec.leafSize, size/tr.spec.leafSize, true)
				finish = func() { tr.hash(claim, data) }
			}
			verified := make(chan error)
			go func() { verified <- im.verify(c.layer, 1) }()
			select {
			case err := <-verified:
				t.Errorf("%s, %v: a right image is refused: %v", digest, part, err)
			case <-time.After(100 * time.Millisecond):
				finish()
				im.unlist(ticket)
				im.settle()
				if err := <-verified; err != nil {
					t.Errorf("%s, %v: a right image is refused: %v", digest, part, err)
				}
			}
			im.end()
		}
	}
}

// A writer flushes at its end while another thread, of a query perhaps, merges
// nodes or folds them: the flush waits, and has the verdict.
func TestVerdictOfWriterWaits(t *testing.T) {
	const size = 2 * mib
	for _, digest := range []string{"blake3", "blkhash"} {
		for _, also := range []string{"", ",sha256"} {
			for _, right := range []bool{true, false} {
				sum := sumOfTestImage(t, size, digest)
				if !right {
					sum = strings.Repeat("00", 32)
				}
				im, c := newTestImage(t, size, "digest", digest+also, "digest-expect", digest+":"+sum)
				c.write(c.layer.bytes[:mib], 0, true)
				c.write(c.layer.bytes[mib:], mib, true)
				tr := im.trees[0]
				tr.mu.Lock()
				finish := func() { tr.outer.busy = false }
				if tr.outer != nil {
					tr.outer.busy = true
				} else {
					claim := tr.newClaim(0, 0)
					finish = func() { tr.drop(claim) }
				}
				tr.mu.Unlock()
				verdict := make(chan error)
				go func() { verdict <- im.verdictOfWriter() }()
				select {
				case err := <-verdict:
					t.Errorf("%s%s, %v: a flush has the verdict %v before the digest is known", digest, also, right, err)
				case <-time.After(50 * time.Millisecond):
					tr.mu.Lock()
					finish()
					tr.mu.Unlock()
					if err := <-verdict; (err == nil) != right {
						t.Errorf("%s%s, %v: a flush has the verdict %v", digest, also, right, err)
					}
				}
				im.end()
			}
		}
	}
}

// What a reader that hangs has asked for is read by another client, which gets the digest
// though a write has crossed that request: it cannot hand on what it gets.
func TestReaderThatHangsIsCrossedByAWrite(t *testing.T) {
	const size = 2 * mib
	for _, at := range []int64{0, mib} {
		im, w := newTestImage(t, size, "digest", "blake3", "digest-expect", "blake3:"+sumOfTestImage(t, size, "blake3"))
		hanging := im.beginRead(im.connect(), 0, 4096)
		w.write(w.layer.bytes[at:at+4096], at, true)
		im.disconnect(w.cursor)
		other := &client{im: im, layer: w.layer, cursor: im.connect()}
		other.read(0, size)
		var err error
		background(t, func() { err = im.verdict() })()
		if r := im.snapshot(); err != nil || r.State != complete {
			t.Errorf("a write at %d: %v, %s", at, err, r.State)
		}
		im.endRead(w.layer, nil, hanging, 0, make([]byte, 4096))
		if r := im.snapshot(); r.State != complete {
			t.Errorf("a write at %d, and then the old bytes: %s", at, r.State)
		}
		im.end()
	}
}

// A request that fails because of what is there before it is written tells why.
func TestWrongImageThatMayBeReplacedSaysWhy(t *testing.T) {
	const size = 2 * mib
	im, _ := newTestImage(t, size, "digest", "blake3", "digest-expect", "blake3:"+strings.Repeat("00", 32))
	im.deferVerdict()
	im.endExtents(im.beginExtents(0, size), 0, size, func(yield func(int64, int64) bool) { yield(0, size) })
	if err := im.verdict(); err == nil || !strings.Contains(err.Error(), "digest mismatch: blake3 expected 0000") {
		t.Errorf("the error is %v", err)
	}
	im.end()
}

// A flush while bytes are in doubt does not fail for them, nor wait for a reader
// that hangs.
func TestVerdictOfWriterBesideOthers(t *testing.T) {
	const size = 2 * mib
	im, c := newTestImage(t, size, "digest", "blake3", "digest-expect", "blake3:"+strings.Repeat("00", 32))
	im.beginRead(im.connect(), 0, 4096) // hangs, and is tainted now:
	c.write(c.layer.bytes, 0, true)
	var err error
	background(t, func() { err = im.verdictOfWriter() })()
	if err == nil {
		t.Error("a flush has no verdict beside a reader that hangs")
	}
	other := im.connect()
	ticket := im.beginWrite(other, 4096, 8192)
	background(t, func() { err = im.verdictOfWriter() })()
	if err != nil {
		t.Errorf("a flush has the verdict %v while another client writes", err)
	}
	im.unlist(ticket)
	im.end()
}
