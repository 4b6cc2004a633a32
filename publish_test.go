// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"lukechampine.com/blake3"
)

// Of many results the file has what is added later, but at once what is taken back, and
// that an image is not the expected one.
func TestResultsOfManyExportsAreWrittenNowAndThen(t *testing.T) {
	logError = func(string, ...any) {}
	const size = 4096
	right := blake3.Sum256(newDisk(t, size).bytes)
	d, file := newDiskWithFile(t, size, "digest-expect", fmt.Sprintf("blake3:%x", right), "digest-format", "json")
	results := func() int {
		text, _ := os.ReadFile(file)
		return strings.Count(string(text), "\"export\":")
	}
	add := func(i int) *client {
		c := d.open(t, fmt.Sprint(i))
		c.read(0, size)
		return c
	}
	first := add(0)
	for i := range publishedAtOnce - 1 {
		if got := results(); got != i+1 {
			t.Fatalf("of %d results there are %d", i+1, got)
		}
		add(i + 1)
	}
	d.filter.results.rest = time.Now().Add(time.Hour)
	add(1000)
	due := d.filter.results.due
	add(1003)
	if got := results(); got != publishedAtOnce || due == nil || d.filter.results.due != due {
		t.Errorf("%d results are there, and others are due: %v, and then %v", got, due, d.filter.results.due)
	}
	first.im.beginWrite(first.cursor, 0, 1)
	if got := results(); got != publishedAtOnce+2 || d.filter.results.due != nil {
		t.Errorf("one was taken back, and of the others %d are there", got)
	}
	d.filter.results.rest = time.Now().Add(time.Hour)
	d.bytes[0]++
	add(1001)
	if got := results(); got != publishedAtOnce+3 {
		t.Errorf("there is a mismatch, and of all %d are there", got)
	}
	d.filter.results.rest = time.Time{}
	d.bytes[0]--
	add(1002)
	if got := results(); got != publishedAtOnce+4 {
		t.Errorf("the file has rested, and of all %d are there", got)
	}
}
