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
