// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"crypto/sha256"
	"hash"
	"math"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"
)

// A reader whose data begins with bytes that are known waits for room for those
// that are not: otherwise it would try again at once, for ever.
func TestRoomIsForWhatIsMissing(t *testing.T) {
	const limit = 16 * pageSize
	l := newLinear(64*pageSize, &budget{limit: limit}, mib, []hash.Hash{sha256.New()}, func() {})
	defer l.stop()
	data := make([]byte, 32*pageSize)
	l.offer(pageSize, data[:pageSize])      // near the gap at the start
	l.offer(8*pageSize, data[:11*pageSize]) // far from it, all that there is room for
	n := l.offer(pageSize, data)            // begins with what is known
	at := pageSize + int64(n)
	if n < pageSize {
		t.Fatalf("%d bytes are taken care of, the first %d are known", n, pageSize)
	}
	if n == len(data) {
		t.Fatal("there was room for all: the test shows nothing")
	}
	start := time.Now()
	for range 3 {
		if l.waitForRoom(at, pageSize, 10*time.Millisecond) && l.offer(at, data[n:]) == 0 {
			t.Fatalf("there is room at %d, and there is none, after %v", at, time.Since(start))
		}
	}
}

// stepHash is a hash whose Write waits for a step.
type stepHash struct {
	hash.Hash
	began, step chan struct{}
}

func (h stepHash) Write(p []byte) (int, error) {
	h.began <- struct{}{}
	<-h.step
	return h.Hash.Write(p)
}

// A digest gives way to the copy as long as there is one and little waits for it.
func TestDigestThatLagsDoesNotGiveWay(t *testing.T) {
	const pages = 32 // and one more at the end
	h := stepHash{sha256.New(), make(chan struct{}), make(chan struct{})}
	l := newLinear((pages+1)*pageSize, &budget{limit: pages * pageSize}, mib, []hash.Hash{h}, func() {})
	add := func(from, n int64) {
		if done := l.offer(from*pageSize, make([]byte, n*pageSize)); int64(done) < n*pageSize {
			t.Fatalf("there was room for %d bytes of %d", done, n*pageSize)
		}
	}
	add(0, 1)
	for hashed := range pages + 1 {
		<-h.began
		switch hashed {
		case 0:
			add(1, pages-1)
		case pages - 1:
			add(pages, 1)
		}
		l.mu.Lock()
		begun, isAhead := int(l.hashers[0].pos/pageSize), l.hashers[0].isAhead
		l.mu.Unlock()
		// It was decided when it began with these pages: with the first, when
		// there was no other, and with the last, when there would be none.
		want := begun == 0 || begun < pages && pages-begun < pages/aheadShare
		if isAhead != want {
			t.Errorf("with %d of %d pages hashed, it gives way: %v", begun, pages, isAhead)
		}
		h.step <- struct{}{}
	}
	l.drain(never)
}

// heap returns how many bytes are in use.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Clients come one after the other, and of what each has read some bytes stay in
// the window: they do not keep the memory of others.
func TestPagesThatStayKeepNoOthers(t *testing.T) {
	const step = 256 // pages
	const sessions = 12
	l := newLinear(sessions*2*step*pageSize, &budget{limit: 2 * step * pageSize}, mib, []hash.Hash{sha256.New()}, func() {})
	defer l.stop()
	data := make([]byte, step*pageSize)
	before := heap()
	for i := range int64(sessions) {
		at := i * step * pageSize
		l.offer(at+pageSize, data[pageSize:])
		l.offer(l.size-(i+1)*2*pageSize, data[:pageSize])
		l.offer(at, data[:pageSize])
		l.drain(never)
		l.dropSpare()
		if used := l.memory.used.Load(); used != (i+1)*pageSize {
			t.Fatalf("client %d: %d bytes are in the window", i, used)
		}
	}
	if kept := heap() - before; kept > 8<<20 {
		t.Errorf("%d bytes are kept for %d in the window", kept, l.memory.used.Load())
	}
	runtime.KeepAlive(data)
	runtime.KeepAlive(l)
}

// listMemory returns what the lists of a window take.
func (l *linear) listMemory() int64 {
	return l.taken.ends.memory() + l.ready.ends.memory() + l.zeros.ends.memory()
}

// However small the pieces that are read, or forgotten, the lists of the window stay
// within their memory. What is forgotten with them is read again.
func TestListsOfTheWindowAreBounded(t *testing.T) {
	const size, limit, slack = 16 * pageSize, 16 << 10, 8 << 10
	data := randomBytes(rand.New(rand.NewPCG(1, 60)), size)
	fill := func(l *linear, step int64) {
		for lo := pageSize / 2; lo < size; lo += int(step) {
			l.offer(int64(lo), data[lo:min(size, int64(lo)+step)])
		}
	}
	for name, scatter := range map[string]func(l *linear, at int64){
		"reads":           func(l *linear, at int64) { l.offer(at, data[at:at+1]) },
		"trims of data":   func(l *linear, at int64) { l.forget(at, at+1) },
		"trims of zeros":  func(l *linear, at int64) { l.forget(at, at+1) },
		"zeros in data":   func(l *linear, at int64) { l.zero(at, at+1, false) },
		"data and zeros":  func(l *linear, at int64) { l.zero(at, at+1, false); l.offer(at+1, data[at+1:at+2]) },
		"zeros and reads": func(l *linear, at int64) { l.offer(at, data[at:at+1]); l.zero(at+1, at+2, false) },
	} {
		sum := sha256.New()
		l := newLinear(size, &budget{limit: 2 * size}, limit, []hash.Hash{sum}, func() {})
		switch name {
		case "trims of data":
			fill(l, pageSize)
		case "trims of zeros":
			l.zero(pageSize/2, size, false)
		case "zeros in data":
			for at := int64(pageSize); at < size; at += 2 {
				l.offer(at-1, data[at-1:at])
			}
		}
		for at := int64(pageSize); at < size-2; at += 2 {
			scatter(l, at)
		}
		if lists := l.listMemory(); lists > limit+slack || lists < limit/2 {
			t.Errorf("%s: the lists take %d bytes, want at most %d, and many", name, lists, limit)
		}
		l.forget(0, size)
		for lo := int64(0); lo < size; lo += pageSize {
			l.offer(lo, data[lo:lo+pageSize])
		}
		l.drain(never)
		if want := sha256.Sum256(data); !l.complete() || !bytes.Equal(l.sums()[0], want[:]) {
			t.Errorf("%s: %x, want %x", name, l.sums(), want)
		}
		l.stop()
	}
}

// When the lists are full, what is beside other bytes or at the frontier is taken all
// the same, and all else waits.
func TestWindowWithFullLists(t *testing.T) {
	const size = 16 * pageSize
	l := newLinear(size, &budget{limit: 2 * size}, 4<<10, []hash.Hash{sha256.New()}, func() {})
	defer l.stop()
	data := make([]byte, size)
	at := int64(pageSize)
	for l.offer(at, data[:1]) == 1 {
		at += 2
	}
	for _, c := range []struct {
		lo, hi int64
		taken  bool
	}{{at, at + 1, false}, {at + 100, at + 200, false}, {at - 1, at + 1, true}, {pageSize - 5, pageSize, true}, {0, 10, true}} {
		if n := l.offer(c.lo, data[c.lo:c.hi]); n > 0 != c.taken {
			t.Errorf("of [%d, %d), %d bytes are taken, behind %d", c.lo, c.hi, n, at)
		}
	}
	if l.waitForRoom(at+100, 1, time.Millisecond) {
		t.Error("there is said to be room where there is none")
	}
	woken := background(t, func() {
		for !l.waitForRoom(at+100, 1, 5*time.Second) {
			t.Error("nobody says that there is room again")
		}
	})
	l.offer(0, data[:at])
	woken()
}

// Pages that hold nothing do not stay: nobody might ever fill them.
func TestPagesOfForgottenBytesAreGone(t *testing.T) {
	const size = 16 * pageSize
	data := randomBytes(rand.New(rand.NewPCG(1, 62)), size)
	for name, c := range map[string]struct {
		forget func(l *linear)
		pages  int64
	}{
		"all":           {func(l *linear) { l.forget(0, size) }, 0},
		"two and a bit": {func(l *linear) { l.forget(5*pageSize-1, 7*pageSize+1) }, 11},
		"bit by bit":    {func(l *linear) { l.forget(5*pageSize, 6*pageSize-1); l.forget(6*pageSize-1, 6*pageSize) }, 12},
		"all but zeros": {func(l *linear) {
			l.forget(4*pageSize, 6*pageSize)
			l.offer(4*pageSize, data[:1])
			l.zero(4*pageSize, 5*pageSize, false)
			l.forget(4*pageSize, 4*pageSize+1)
		}, 11},
		"while it is copied": {func(l *linear) {
			l.forget(3*pageSize, 6*pageSize)
			c, _, _ := l.take(3*pageSize+5, 5*pageSize)
			l.forget(4*pageSize, 4*pageSize+1)
			l.copied(c)
		}, 10},
	} {
		sum := sha256.New()
		l := newLinear(size, &budget{limit: 2 * size}, mib, []hash.Hash{sum}, func() {})
		l.offer(3*pageSize, data[3*pageSize:])
		c.forget(l)
		l.dropSpare()
		if used := l.memory.used.Load(); used != c.pages*pageSize || int64(l.pages.count) != c.pages {
			t.Errorf("%s: %d pages and %d bytes are in use, want %d pages", name, l.pages.count, used, c.pages)
		}
		l.forget(4*pageSize, 5*pageSize) // where there were zeros
		l.offer(0, data)
		l.drain(never)
		if want := sha256.Sum256(data); !l.complete() || !bytes.Equal(l.sums()[0], want[:]) {
			t.Errorf("%s: %x, want %x", name, l.sums(), want)
		}
		l.stop()
	}
}

// Bytes change while they are being hashed.
func TestBytesThatAreBeingHashedAreForgotten(t *testing.T) {
	h := stepHash{sha256.New(), make(chan struct{}), make(chan struct{})}
	l := newLinear(2*pageSize, &budget{limit: 64 * pageSize}, mib, []hash.Hash{h}, func() {})
	data := randomBytes(rand.New(rand.NewPCG(1, 92)), 2*pageSize)
	l.offer(0, bytes.Clone(data)[:pageSize])
	<-h.began
	l.forget(10, 20)
	clear(data[10:20])
	l.offer(0, data)
	go func() {
		for {
			h.step <- struct{}{}
			<-h.began
		}
	}()
	l.drain(never)
	if want := sha256.Sum256(data); !l.complete() || !bytes.Equal(l.sums()[0], want[:]) {
		t.Errorf("%x, want %x", l.sums(), want)
	}
	l.stop()
}

// A write to the largest image that there can be makes all of it unknown.
func TestWriteToTheLargestImage(t *testing.T) {
	l := newLinear(math.MaxInt64, &budget{limit: 64 * pageSize}, mib, []hash.Hash{sha256.New()}, func() {})
	for range 2 {
		l.offer(0, make([]byte, 4*pageSize))
		l.drain(never)
		if ready, _ := l.known(); ready != 4*pageSize || l.err() != nil {
			t.Errorf("%d bytes are known, %v", ready, l.err())
		}
		l.forget(0, math.MaxInt64)
		if ready, _ := l.known(); ready != 0 || l.taken.total != 0 {
			t.Errorf("%d bytes are known, and %d taken, of what was forgotten", ready, l.taken.total)
		}
	}
	l.stop()
}

// Bytes change while a thread copies them: until it is done nobody else copies them to
// the same page, and then they are unknown.
func TestBytesThatAreBeingCopiedAreForgotten(t *testing.T) {
	l := newLinear(2*pageSize, &budget{limit: 64 * pageSize}, mib, []hash.Hash{sha256.New()}, func() {})
	defer l.stop()
	data := randomBytes(rand.New(rand.NewPCG(1, 93)), 2*pageSize)
	c, _, _ := l.take(100, 2*pageSize)
	l.forget(200, 300)
	if other, _, _ := l.take(100, 2*pageSize); other != nil {
		t.Errorf("[%d, %d) is copied twice at a time", other.lo, other.hi)
	}
	l.copied(c)
	if lo, hi := l.unknown(0, 2*pageSize); lo != 0 || hi != 2*pageSize {
		t.Errorf("[%d, %d) is unknown", lo, hi)
	}
	l.offer(0, data)
	l.drain(never)
	if want := sha256.Sum256(data); !l.complete() || !bytes.Equal(l.sums()[0], want[:]) {
		t.Errorf("%x, want %x", l.sums(), want)
	}
}

// A write to what was hashed long ago makes the hash go back to a state of before.
func TestWriteBehindSavedStates(t *testing.T) {
	const size = 3*minSaveStep + 3*pageSize
	for _, lo := range []int64{minSaveStep - 1, minSaveStep, 2*minSaveStep - 10, 2*minSaveStep + 1} {
		im, c := newTestImage(t, size, "digest", "sha256")
		im.setWritable()
		c.read(0, size)
		im.drain(never)
		if n := len(im.linear.hashers[0].saves); n != 3 {
			t.Fatalf("%d states are kept", n)
		}
		c.write([]byte("new"), lo, true)
		if ready, _ := im.linear.known(); ready < lo-minSaveStep {
			t.Errorf("%d bytes are known after a write at %d", ready, lo)
		}
		im.disconnect(c.cursor)
		expectDigests(t, im, c.layer)
	}
}

// Of the states of a large image fewer and fewer are kept, but always one that is not
// far back, and each is that of its place.
func TestSavedStatesThinOut(t *testing.T) {
	h := &hasher{sum: sha256.New()}
	// Of each step only its number is hashed, which is quick.
	number := func(pos int64) []byte { return []byte{byte(pos / minSaveStep)} }
	const size = 250 * minSaveStep
	for limit := int64(size); limit > 0; limit -= 7 * minSaveStep / 2 {
		for ; h.pos < size; h.save() {
			h.sum.Write(number(h.pos))
			h.pos += minSaveStep
		}
		if len(h.saves) >= maxSaves {
			t.Fatalf("%d states are kept", len(h.saves))
		}
		h.back(limit)
		want := sha256.New()
		for pos := int64(0); pos < h.pos; pos += minSaveStep {
			want.Write(number(pos))
		}
		if h.pos > limit || limit-h.pos >= h.step || !bytes.Equal(h.sum.Sum(nil), want.Sum(nil)) {
			t.Errorf("back from %d to %d: the state is not that of %d, or steps are not of %d", limit, h.pos, h.pos, h.step)
		}
	}
}

// A page that is forgotten while it is hashed holds no other bytes before that is done.
func TestPageThatIsBeingHashedIsNotUsedAgain(t *testing.T) {
	h := stepHash{sha256.New(), make(chan struct{}), make(chan struct{})}
	l := newLinear(pageSize, &budget{limit: 64 * pageSize}, mib, []hash.Hash{h}, func() {})
	defer l.stop()
	data := randomBytes(rand.New(rand.NewPCG(1, 94)), pageSize)
	spare := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.spare)
	}
	l.offer(0, data)
	<-h.began
	l.forget(0, pageSize)
	if spare() != 0 {
		t.Error("the page is free while it is hashed")
	}
	l.offer(0, data)
	h.step <- struct{}{}
	<-h.began
	if spare() != 1 {
		t.Error("the page is not free when it was hashed")
	}
	h.step <- struct{}{}
	l.drain(never)
	if want := sha256.Sum256(data); !l.complete() || !bytes.Equal(l.sums()[0], want[:]) {
		t.Errorf("%x, want %x", l.sums(), want)
	}
}

// What a write that fails leaves unknown is not said to be known.
func TestForgottenBytesAreNotCounted(t *testing.T) {
	im, c := newTestImage(t, mib, "digest", "sha256")
	defer im.end()
	c.read(0, mib)
	im.drain(never)
	c.write(make([]byte, 4096), mib-4096, false)
	if r := im.snapshot(); r.Bytes.Known > mib-4096 || r.Bytes.Unread < 4096 {
		t.Errorf("%d bytes are known and %d unread", r.Bytes.Known, r.Bytes.Unread)
	}
}
