package main

import (
	"crypto/sha256"
	"hash"
	"testing"
	"time"
)

// A reader whose data begins with bytes that are known waits for room for those
// that are not: otherwise it would try again at once, for ever.
func TestRoomIsForWhatIsMissing(t *testing.T) {
	const limit = 16 * pageSize
	l := newLinear(64*pageSize, &budget{limit: limit}, []hash.Hash{sha256.New()}, func() {})
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

// A digest gives way to the copy as long as little waits for it, and only then.
func TestDigestThatLagsDoesNotGiveWay(t *testing.T) {
	const pages = 32
	h := stepHash{sha256.New(), make(chan struct{}), make(chan struct{})}
	l := newLinear(pages*pageSize, &budget{limit: pages * pageSize}, []hash.Hash{h}, func() {})
	l.offer(0, make([]byte, pageSize))
	for hashed := range pages {
		<-h.began
		if hashed == 0 {
			if n := l.offer(pageSize, make([]byte, (pages-1)*pageSize)); n < (pages-1)*pageSize {
				t.Fatalf("there was room for %d bytes of %d", n, (pages-1)*pageSize)
			}
		}
		l.mu.Lock()
		begun, isAhead := int(l.hashers[0].pos/pageSize), l.hashers[0].isAhead
		l.mu.Unlock()
		// It was decided when it began with these pages; with the first, when
		// there was no other.
		if want := begun == 0 || pages-begun < pages/aheadShare; isAhead != want {
			t.Errorf("%d of %d pages wait for the digest: it gives way: %v", pages-begun, pages, isAhead)
		}
		h.step <- struct{}{}
	}
	l.drain(func() bool { return false })
}
