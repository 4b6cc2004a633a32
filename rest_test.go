// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"nbdkit-digest-filter/nbdkit"
)

// Of restImage a client reads all but the rest, which lies before its last bytes.
const (
	restSize = 4 * mib
	restLo   = restSize - 3*mib/4
	restHi   = restLo + 50<<10
)

// restImage makes an image whose digest is not the expected one.
func restImage(t *testing.T, digest string) (*image, *client) {
	t.Helper()
	logError = func(string, ...any) {}
	im, c := newTestImage(t, restSize, "digest", digest, "digest-unread", "early")
	expectZeros(t, im, digest)
	return im, c
}

// readAllBut reads the image in order, but for [lo, hi).
func (c *client) readAllBut(lo, hi int64) {
	const step = 256 << 10
	for at := int64(0); at < c.im.size; {
		if at == lo {
			at = hi
		}
		end := min(at+step, c.im.size)
		if at < lo {
			end = min(end, lo)
		}
		c.read(at, end)
		at = end
	}
}

// A client that has read all but the rest has a verdict with its last bytes,
// whatever other requests are in flight, and if they hang.
func TestVerdictBesideOtherReaders(t *testing.T) {
	for _, digest := range []string{"sha256", "blake3"} {
		for name, lo := range map[string]int64{"elsewhere": mib, "over the rest": restLo} {
			for _, whose := range []string{"client", "filter"} {
				im, c := restImage(t, digest)
				other := im.connect()
				var ticket uint64
				if whose == "client" {
					ticket = im.beginRead(other, lo, lo+restHi-restLo)
				} else {
					ticket = im.beginLook(lo, lo+restHi-restLo)
				}
				var err error
				background(t, func() {
					c.readAllBut(restLo, restHi)
					err = im.verdict()
				})()
				if err == nil {
					t.Errorf("%s: no verdict beside a read of the %s %s", digest, whose, name)
				}
				im.endRead(c.layer, other, ticket, lo, nil)
				im.end()
			}
		}
	}
}

// Two clients, each with the rest of the other in its hands, wait for each other
// no longer than they need.
func TestTwoClientsWaitForEachOther(t *testing.T) {
	for _, digest := range []string{"sha256", "blake3"} {
		im, a := restImage(t, digest)
		b := &client{im: im, layer: a.layer, cursor: im.connect()}
		middle := int64(restLo+restHi) / 2
		ranges := [][2]int64{{restLo, middle}, {middle, restHi}}
		var all sync.WaitGroup
		var refused atomic.Int64
		clients := []*client{a, b}
		tickets := make([]uint64, 2)
		for i, r := range ranges {
			tickets[i] = im.beginRead(clients[i].cursor, r[0], r[1])
		}
		a.readAllBut(restLo, restHi)
		for i, r := range ranges {
			all.Go(func() {
				c := clients[i]
				im.endRead(c.layer, c.cursor, tickets[i], r[0], c.layer.bytes[r[0]:r[1]])
				im.readEarly(c.layer, c.cursor)
				if im.verdict() != nil {
					refused.Add(1)
				}
			})
		}
		background(t, all.Wait)()
		if refused.Load() != 2 {
			t.Errorf("%s: %d of two clients have a verdict", digest, refused.Load())
		}
		im.end()
	}
}

// The filter reads the rest for one client, and that hangs: others have their
// verdict all the same, and then that one has it, too.
func TestReadOfTheRestThatHangs(t *testing.T) {
	for _, digest := range []string{"sha256", "blake3"} {
		im, a := restImage(t, digest)
		b := &client{im: im, layer: a.layer, cursor: im.connect()}
		for at := int64(0); at < restLo; at += mib / 4 {
			b.read(at, at+mib/4)
		}
		hanging, release := make(chan bool), make(chan bool)
		var once atomic.Bool
		a.layer.fail = func(lo, _ int64) bool {
			if lo == restLo && once.CompareAndSwap(false, true) {
				close(hanging)
				<-release
			}
			return false
		}
		var first, second error
		waitFirst := background(t, func() {
			a.readAllBut(restLo, restHi)
			first = im.verdict()
		})
		<-hanging
		background(t, func() {
			b.read(restHi, restSize)
			second = im.verdict()
		})()
		close(release)
		waitFirst()
		if first == nil || second == nil {
			t.Errorf("%s: the verdicts are %v and %v", digest, first, second)
		}
		im.end()
	}
}

// In a small image everything is near to where the client reads.
func TestRestOfASmallImage(t *testing.T) {
	logError = func(string, ...any) {}
	for _, digest := range []string{"sha256", "blake3"} {
		for _, size := range []int64{mib, 2 * mib, 10 * mib} {
			for _, behind := range []int64{size / 20, size / 4} {
				im, c := newTestImage(t, size, "digest", digest, "digest-unread", "early",
					"digest-expect", digest+":"+strings.Repeat("00", 32))
				lo := size - behind - size/9 + 5
				c.readAllBut(lo, min(lo+size/9, lo+mib))
				if im.verdict() == nil {
					t.Errorf("%s: no verdict when a client has read all of %d bytes but those at %d", digest, size, lo)
				}
				im.end()
			}
		}
	}
}

// A client reads what it has written, to go on with it: that is no copy, of which the
// rest would be read for the verdict.
func TestReadsBeforeAWriteAreNoCopy(t *testing.T) {
	im, c := newTestImage(t, 4*mib, "digest-unread", "late", "digest-expect", "blake3:"+strings.Repeat("00", 32))
	for i, step := range []struct {
		do   func()
		copy bool
	}{
		{func() { c.read(0, im.size/4) }, false},
		{func() { c.read(im.size/4, im.size*3/4) }, true},
		{func() { c.write(c.layer.bytes[:4096], 0, true) }, false},
		{func() { c.read(0, im.size/4) }, false},
		{func() { c.read(im.size/4, im.size/2) }, true},
	} {
		step.do()
		if copy := im.littleLimit() == im.restLimit(); copy != step.copy {
			t.Errorf("step %d: a copy: %v", i, copy)
		}
	}
	im.end()
}

// What a client is told of holes it does not read: that is as much of a copy.
func TestHolesAreAPartOfACopy(t *testing.T) {
	im, c := newTestImage(t, 4*mib, "digest-expect", "blake3:"+strings.Repeat("00", 32))
	im.endExtents(im.beginExtents(0, im.size), 0, im.size, func(yield func(int64, int64) bool) { yield(0, im.size/4) })
	c.read(im.size/4, im.size/2)
	if im.littleLimit() != im.restLimit() {
		t.Error("who has read a quarter, and was told that another one is zero, has just had a look")
	}
	im.end()
}

// The last read of a copy may be one of the start, which the filter keeps: it is
// like any other then.
func TestRestWithAReadOfTheStart(t *testing.T) {
	for _, digest := range []string{"sha256", "blake3"} {
		im, c := restImage(t, digest)
		bytes := c.layer.bytes[:mib]
		im.start.Store(&start{bytes: bytes})
		conn := &conn{image: im, cursor: c.cursor}
		buf := make([]byte, 4096)
		if _, answered, err := conn.Begin(nbdkit.Read, buf, 0, 4096); answered != 4096 || err != nil {
			t.Errorf("%s: %d bytes come from the start that is kept, %v", digest, answered, err)
		}
		im.feed(c.layer, c.cursor, 0, c.layer.bytes[:restLo])
		im.feed(c.layer, c.cursor, restHi, c.layer.bytes[restHi:])
		ticket, answered, err := conn.Begin(nbdkit.Read, buf, 0, 4096)
		if answered > 0 || err != nil {
			t.Errorf("%s: the last read has %d bytes of the start that is kept, %v", digest, answered, err)
			continue
		}
		im.endRead(c.layer, c.cursor, ticket, 0, bytes[:4096])
		im.readEarly(c.layer, c.cursor)
		if im.verdict() == nil {
			t.Errorf("%s: no verdict with a last read of the start", digest)
		}
		im.end()
	}
}

// What the source does not let the filter read cannot be compared: the client's
// request fails, not the last word of nbdkit only.
func TestRestThatCannotBeRead(t *testing.T) {
	for _, digest := range []string{"sha256", "blake3"} {
		im, c := restImage(t, digest)
		c.layer.fail = func(lo, hi int64) bool { return lo < restHi && restLo < hi }
		c.readAllBut(restLo, restHi)
		if c.err == nil || !strings.Contains(c.err.Error(), fmt.Sprintf("bytes from %d to %d cannot be read", restLo, restHi)) {
			t.Errorf("%s: the last read ends with %v", digest, c.err)
		}
		c.layer.fail = nil
		c.read(0, 4096)
		if im.verdict() == nil {
			t.Errorf("%s: no verdict when the rest can be read again", digest)
		}
		im.end()
	}
}

// A read of a gap that fails once is tried again, though not at once.
func TestGapThatCannotBeReadForAWhile(t *testing.T) {
	t.Parallel()
	const size, gap = 48 * mib, 8 * mib
	for _, digest := range []string{"sha256", "blake3"} {
		im, c := newTestImage(t, size, "digest", digest, "digest-unread", "early")
		failures := 0
		c.layer.fail = func(lo, hi int64) bool {
			if lo == gap && failures < 2 {
				failures++
				return true
			}
			return false
		}
		c.readAllBut(gap, gap+50<<10)
		im.drain(never)
		if !im.done.Load() {
			t.Errorf("%s: the gap was not read after %d failures", digest, failures)
		}
		im.end()
	}
	im, c := newTestImage(t, size, "digest", "blake3", "digest-unread", "early")
	failures := 0
	c.layer.fail = func(lo, _ int64) bool {
		if lo == gap {
			failures++
		}
		return lo == gap
	}
	c.readAllBut(gap, gap+50<<10)
	if failures > 4 { // at 9, 17, 25 and 38 MiB: each pause is longer
		t.Errorf("what cannot be read was tried %d times", failures)
	}
	im.end()
}

// Of two expected digests one comes to lack little, and that further ahead, while
// the rest of the other is read.
func TestRestOfASecondDigest(t *testing.T) {
	const size = 64 * mib
	const lost, lostEnd = size - 1800<<10, size - 1500<<10
	logError = func(string, ...any) {}
	im, c := newTestImage(t, size, "digest-unread", "early",
		"digest-expect", "blake3:"+strings.Repeat("00", 32), "digest-expect", "sha256:"+strings.Repeat("00", 32))
	// As if the window had had no room for it.
	im.trees[0].add(lost, c.layer.bytes[lost:lostEnd], false)
	for at := int64(0); at < lost; at += mib / 4 {
		c.read(at, min(at+mib/4, lost))
	}
	c.read(lostEnd, size-1400<<10)
	c.read(size-1000<<10, size-990<<10)
	c.read(size-590<<10, size)
	if im.verdict() == nil {
		t.Errorf("no verdict: %d bytes are left of blake3, %d of sha256", im.trees[0].left(), im.linear.left())
	}
	im.end()
}

// A rest of a large part of a small image is read, when a client has read most of it.
func TestLargeRestOfASmallImage(t *testing.T) {
	const size, lo, hi = 4 * mib, 1600 << 10, 2400 << 10
	logError = func(string, ...any) {}
	for _, digest := range []string{"sha256", "blake3"} {
		im, c := newTestImage(t, size, "digest", digest, "digest-expect", digest+":"+strings.Repeat("00", 32))
		c.read(0, 4096)
		c.read(lo-mib, lo-mib/2)
		if im.filterRead.Load() > 0 {
			t.Errorf("%s: a look makes the filter read %d bytes", digest, im.filterRead.Load())
		}
		c.readAllBut(lo, hi)
		if im.verdict() == nil {
			t.Errorf("%s: no verdict with %d bytes unread", digest, hi-lo)
		}
		im.end()
	}
}

// Two requests of one connection at once: one of the start, which the filter keeps, and
// one of the last bytes. Whichever ends last reads the rest.
func TestRestThatComesBesideAReadOfTheStart(t *testing.T) {
	for _, digest := range []string{"sha256", "blake3"} {
		im, c := restImage(t, digest)
		conn := &conn{image: im, cursor: c.cursor}
		im.feed(c.layer, c.cursor, 0, c.layer.bytes[:restLo])
		last := im.beginRead(c.cursor, restHi, restSize)
		kept := im.beginRead(c.cursor, 0, 4096)
		im.endRead(c.layer, c.cursor, last, restHi, c.layer.bytes[restHi:])
		if err := conn.verdict(nbdkit.Next{}); err != nil {
			t.Errorf("%s: the rest is not left to the other request: %v", digest, err)
		}
		ticket, answered, err := conn.endKept(kept, 0, 4096)
		if answered > 0 || err != nil {
			t.Errorf("%s: the last request has %d bytes of the start that is kept, %v", digest, answered, err)
		} else {
			im.endRead(c.layer, c.cursor, ticket, 0, c.layer.bytes[:4096])
			im.readEarly(c.layer, c.cursor)
		}
		if im.verdict() == nil {
			t.Errorf("%s: no verdict", digest)
		}
		im.end()
	}
}

// A client leaves the end of each block out, so that there are many of which a part is
// there: what is unread is little all the same.
func TestRestOfManyBlocks(t *testing.T) {
	const size, block, gap = 16 * mib, 64 << 10, 4 << 10
	logError = func(string, ...any) {}
	for _, digest := range []string{"sha256", "blkhash", "merkle/sha256/1m"} {
		im, c := newTestImage(t, size, "digest", digest, "digest-unread", "early")
		expectZeros(t, im, digest)
		for lo := int64(0); lo < size; lo += block {
			c.read(lo, lo+block-gap)
		}
		var err error
		background(t, func() { err = im.verdict() })()
		if err == nil {
			t.Errorf("%s: no verdict with %d bytes unread", digest, size-im.clientRead.Load()-im.filterRead.Load())
		}
		im.end()
	}
}
