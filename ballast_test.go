// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"runtime"
	"runtime/debug"
	"testing"

	"golang.org/x/sys/unix"
)

// The ballast takes no memory where other things have been before, either.
func TestBallastIsUntouched(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	runtime.KeepAlive(make([]byte, ballastMax))
	runtime.GC()
	before := pageFaults(t)
	settleCollector(ballastMax)
	n := pageFaults(t) - before
	if used, limit := n*int64(unix.Getpagesize()), int64(ballastMax/2); used > limit {
		t.Errorf("the ballast took %d bytes of memory", used)
	}
	ballast.Reset()
	settleCollector(mib)
	if size := ballast.Cap(); size < mib || size > 4*mib {
		t.Errorf("for 1 MiB of digest-memory the ballast has %d bytes", size)
	}
	ballast.Reset()
}

func pageFaults(t *testing.T) int64 {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return u.Minflt
}
