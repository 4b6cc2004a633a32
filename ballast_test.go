// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"testing"

	"golang.org/x/sys/unix"
)

// The ballast takes no memory where other things have been before, either.
func TestBallastIsUntouched(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	before := make([]byte, ballastMax)
	before[0] = 1
	if err := unix.Madvise(before, unix.MADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	before = nil
	runtime.GC()
	resident := residentBytes(t)
	settleCollector(ballastMax)
	if used := residentBytes(t) - resident; used > ballastMax/2 {
		t.Errorf("the ballast took %d bytes of memory", used)
	}
	ballast.Reset()
	settleCollector(mib)
	if size := ballast.Cap(); size < mib || size > 4*mib {
		t.Errorf("for 1 MiB of digest-memory the ballast has %d bytes", size)
	}
	ballast.Reset()
}

func residentBytes(t *testing.T) (n int) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var size, pages int
	if _, err := fmt.Sscan(string(text), &size, &pages); err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}
