package main

import (
	"crypto/sha256"
	"hash"
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
	l.drain(func() bool { return false })
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
