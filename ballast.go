// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

// ballastShare is how many times digest-memory the ballast is: a collection is worth 15%
// of the heap, with 64 MiB of that 19 MiB. More makes no difference to its speed.
const (
	ballastShare = 2
	ballastMax   = 128 << 20
)

// ballast is never touched, so it takes no memory. As a slice it would be
// cleared, and take all of it, where something had been before.
var ballast strings.Builder

// settleCollector makes collections rare while the heap is small. Little of
// what is allocated becomes garbage. But a share of a small heap is soon
// reached, and each collection takes the processors that serve clients. Who wants the
// filter to take little memory gets more of them.
func settleCollector(memory int64) {
	size := int(min(ballastMax, ballastShare*memory))
	debug.SetGCPercent(-1)         // none for the sake of the ballast
	if isRoomFor(4 * ballastMax) { // threads need some, too
		ballast.Grow(size)
	}
	debug.SetGCPercent(15)
}

// isRoomFor tells whether so much address space can be had: with a limit on it,
// Go ends the process when there is none.
func isRoomFor(size int) bool {
	p, err := unix.Mmap(-1, 0, size, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return false
	}
	return unix.Munmap(p) == nil
}
