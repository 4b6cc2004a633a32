package main

import (
	"sync/atomic"
	"testing"
	"time"
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
