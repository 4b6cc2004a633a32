// SPDX-License-Identifier: BSD-3-Clause

package main

import (
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
