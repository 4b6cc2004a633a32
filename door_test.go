// SPDX-License-Identifier: BSD-3-Clause

package main

import "testing"

// What is read at the door of a client that may write does not count at the image's end.
func TestLookAtTheEndOfADestination(t *testing.T) {
	for _, readonly := range []bool{false, true} {
		im, c := newTestImage(t, 2*mib, "digest", "sha256,blake3")
		l := lookingLayer{im, c.layer, readonly}
		if _, err := l.ReadAt(make([]byte, 1536), 2*mib-1536); err != nil {
			t.Fatal(err)
		}
		if read := im.filterRead.Load(); (read == 1536) != readonly {
			t.Errorf("readonly %v: %d bytes count", readonly, read)
		}
		im.end()
	}
}
