// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// Whether what is left is read, and all of it.

// A client reads all, here and there and with several requests in flight, and there is no
// memory for a block of which only parts have come: what found no room is read again for
// the verdict.
func TestRestThatFoundNoRoom(t *testing.T) {
	const size, step = 900_000, 3000
	logError = func(string, ...any) {}
	for digest, inFlight := range map[string]int{
		"sha256": 1, "blake3": 8, "blkhash/sha256/1m": 8, "merkle/sha256/64k": 8,
	} {
		for _, memory := range []string{"1M", "2M", "64M"} {
			im, c := newTestImage(t, size, "digest", digest, "digest-memory", memory, "digest-unread", "early")
			expectZeros(t, im, digest)
			type request struct {
				ticket uint64
				lo     int64
			}
			var flight []request
			end := func() {
				r := flight[0]
				flight = flight[1:]
				im.endRead(c.layer, c.cursor, r.ticket, r.lo, c.layer.bytes[r.lo:][:step])
				im.readEarly(c.layer, c.cursor)
			}
			background(t, func() {
				for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(size / step) {
					lo := int64(i * step)
					flight = append(flight, request{im.beginRead(c.cursor, lo, lo+step), lo})
					if len(flight) == inFlight {
						end()
					}
				}
				for len(flight) > 0 {
					end()
				}
			})()
			if im.verdict() == nil {
				t.Errorf("%s: with digest-memory=%s no verdict of an image of which all is read", digest, memory)
			}
			im.end()
		}
	}
}

// A blank is a layer of zeros.
type blank struct{}

func (blank) ReadAt(p []byte, _ int64) (int, error) {
	clear(p)
	return len(p), nil
}

func (blank) Extents(offset, size int64, each func(offset, length int64, zero bool)) error {
	each(offset, size, false)
	return nil
}

// The rest of a large image can be more than the filter reads in one request.
func TestRestOfALargeImage(t *testing.T) {
	const size, step, lo, hi = 2 << 30, mib, 2<<30 - 4*mib, 2<<30 - 5*mib/2
	logError = func(string, ...any) {}
	im := newImage("", size, testConfig(t, "digest", "blake3", "digest-expect", "blake3:"+strings.Repeat("00", 32)), func() {})
	cursor, data := im.connect(), make([]byte, step)
	for at, n := int64(0), int64(0); at < size; at += n {
		if at == lo {
			at = hi
		}
		n = min(step, size-at)
		ticket := im.beginRead(cursor, at, at+n)
		im.endRead(blank{}, cursor, ticket, at, data[:n])
		if err := im.readEarly(blank{}, cursor); err != nil {
			t.Fatal(err)
		}
	}
	if im.verdict() == nil {
		t.Errorf("no verdict with %d bytes unread", hi-lo-im.filterRead.Load())
	}
	im.end()
}

// What a writer that is connected may yet change is no rest.
func TestNoRestBesideAWriter(t *testing.T) {
	for _, digest := range []string{"sha256", "blake3"} {
		im, c := restImage(t, digest)
		writer := &client{im: im, layer: c.layer, cursor: im.connect()}
		writer.write([]byte("new"), 0, true)
		c.readAllBut(restLo, restHi)
		if n := im.filterRead.Load(); n > 0 {
			t.Errorf("%s: %d bytes are read beside a writer", digest, n)
		}
		im.end()
	}
}

// Where no verdict is due, a client that may be about to read the rest itself does not
// wait for the filter to read it, unless it is very little.
func TestRestIsLeftToAClientThatIsNear(t *testing.T) {
	const size, lo = 32 * mib, 30 * mib
	for _, digest := range []string{"sha256", "blake3"} {
		for rest, own := range map[int64]bool{600 << 10: false, 300 << 10: true} {
			im, c := newTestImage(t, size, "digest", digest, "digest-unread", "early")
			c.readAllBut(lo, lo+rest)
			if n := im.filterRead.Load(); (n > 0) != own {
				t.Errorf("%s: of a rest of %d bytes, the filter reads %d while a client is near", digest, rest, n)
			}
			im.end()
		}
	}
}

// A connection that has read nothing for long is not expected to go on where it is.
func TestIdleConnectionIsNotAtWork(t *testing.T) {
	const size, lo, hi = 16 * mib, 4 * mib, 4*mib + 128<<10
	for step, own := range map[int64]bool{size / (cursorLife / 2): false, size / (cursorLife * 2): true} {
		im, c := newTestImage(t, size, "digest", "blake3", "digest-unread", "early")
		idle := &client{im: im, layer: c.layer, cursor: im.connect()}
		idle.read(lo-4096, lo)
		for at := int64(0); at < size; at += step {
			if at < lo || at >= hi {
				c.read(at, at+step)
			}
		}
		if n := im.filterRead.Load(); (n > 0) != own {
			t.Errorf("a client reads %d bytes at a time, and the filter %d where another one was", step, n)
		}
		im.end()
	}
}
