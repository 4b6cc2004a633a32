// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"runtime"
	"testing"
)

// With whatever digests, what an image holds when it has no room left is within
// digest-memory, and so is the garbage that Go's collector may leave beside it.
func TestDigestMemoryIsABound(t *testing.T) {
	const memory = 4 * mib
	for _, digests := range []string{"blake3", "dmverity/sha256/512", "fsverity/sha256/1k", "blkhash/sha256/1m", "sha256",
		"sha256,blake3", "sha256,blake3,blkhash/sha256/4k,merkle/sha256/1k,fsverity/sha256/4k,dmverity/sha256/512"} {
		heap() // twice: what others have left in pools goes with the second collection
		before := heap()
		const size = 16 << 30
		im := newImage("", size, testConfig(t, "digest", digests, "digest-memory", "4M", "digest-unread", "late"), func() {})
		c := &client{im: im, cursor: im.connect()}
		p := make([]byte, 64<<10)
		p[0] = 1
		read := func(lo int64, p []byte) {
			ticket := im.beginRead(c.cursor, lo, lo+int64(len(p)))
			im.endRead(c.layer, c.cursor, ticket, lo, p)
		}
		leaf := int64(4096)
		for _, tr := range im.trees {
			leaf = max(leaf, tr.spec.leafSize)
		}
		for i := range int64(25_000) { // leaves here and there
			read(i*4*leaf%(size/2), p[:min(4096, leaf)])
		}
		for i := range int64(15_000) { // parts
			read(size/2+i*4*leaf%(size/2)+1, p[:100])
		}
		for lo := int64(size * 3 / 4); lo < size*3/4+memory; lo += int64(len(p)) {
			read(lo, p)
		}
		if im.linear != nil {
			im.linear.offer(mib, make([]byte, memory))
		}
		for _, tr := range im.trees {
			tr.flush()
		}
		// The shares, 32 MiB for each TiB, and buffers of nodes that are kept.
		const most = memory/16*13 + size>>15 + maxFree
		if held := heap() - before; held > most {
			t.Errorf("%s: %d KiB are held, want at most %d", digests, held>>10, most>>10)
		}
		runtime.KeepAlive(p)
		im.end()
	}
}
