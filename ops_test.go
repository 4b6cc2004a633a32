// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"testing"

	"lukechampine.com/blake3"
)

// wideLayer tells extents to their ends, wherever a question begins and ends, as some
// layers do.
type wideLayer struct{ *memoryLayer }

// extent returns the extent that offset is in. Its ends are those of blocks.
func (l wideLayer) extent(offset int64) (lo, hi int64, zero bool) {
	const block = 512
	size := int64(len(l.bytes))
	isZeroAt := func(at int64) bool { return isZero(l.bytes[at:min(size, at+block)]) }
	lo = offset - offset%block
	zero = isZeroAt(lo)
	for lo > 0 && isZeroAt(lo-block) == zero {
		lo -= block
	}
	for hi = lo; hi < size && isZeroAt(hi) == zero; {
		hi = min(size, hi+block)
	}
	return lo, hi, zero
}

func (l wideLayer) Extents(offset, end int64, each func(offset, length int64, zero bool)) error {
	for offset < end {
		_, hi, zero := l.extent(offset)
		each(offset, hi-offset, zero)
		offset = hi
	}
	return nil
}

// zeros returns all of the zero extents that [lo, hi) has a part of.
func (l wideLayer) zeros(lo, hi int64) (list [][2]int64) {
	for lo < hi {
		first, end, zero := l.extent(lo)
		if zero {
			list = append(list, [2]int64{first, end})
		}
		lo = end
	}
	return list
}

// A flight is a request that has begun: the layer below does it, and then it ends.
type flight struct {
	client  *client
	do, end func()
}

// begin begins a request of any kind.
func (l wideLayer) begin(r *rand.Rand, c *client) flight {
	im := c.im
	// Often beside others, or with one byte in common.
	bound := func() int64 { return r.Int64N(6)*im.size/6 + r.Int64N(3) - 1 }
	lo := min(max(bound(), 0), im.size-1)
	hi := min(max(bound(), lo+1), im.size)
	data := make([]byte, hi-lo)
	ok := r.IntN(5) > 0
	switch r.IntN(7) {
	default:
		ticket := im.beginRead(c.cursor, lo, hi)
		return flight{c, func() { copy(data, l.bytes[lo:hi]) }, func() {
			if !ok {
				data = nil
			}
			im.endRead(l, c.cursor, ticket, lo, data)
		}}
	case 1:
		ticket := im.beginExtents(lo, hi)
		var zeros [][2]int64
		return flight{c, func() { zeros = l.zeros(lo, hi) }, func() {
			im.endExtents(ticket, lo, hi, func(yield func(int64, int64) bool) {
				for _, z := range zeros {
					if !yield(z[0], z[1]) {
						return
					}
				}
			})
		}}
	case 2:
		copy(data, randomBytes(r, hi-lo))
		ticket := im.beginWrite(c.cursor, lo, hi)
		return flight{c, func() { copy(l.bytes[lo:hi], data) }, func() { im.endWrite(l, c.cursor, ticket, lo, data, ok) }}
	case 3:
		ticket := im.beginWrite(c.cursor, lo, hi)
		return flight{c, func() { clear(l.bytes[lo:hi]) }, func() { im.endZero(ticket, lo, hi, ok) }}
	case 4:
		ticket := im.beginWrite(c.cursor, lo, hi)
		return flight{c, func() { clear(l.bytes[lo : lo+r.Int64N(hi-lo+1)]) }, func() { im.endTrim(l, ticket, lo, hi, ok) }}
	case 5:
		ticket := im.beginLook(lo, hi)
		return flight{c, func() { copy(data, l.bytes[lo:hi]) }, func() { im.endRead(l, nil, ticket, lo, data) }}
	}
}

// Requests of every kind begin, are done by the layer below, and end, with those of
// others in between. Whenever there is a digest, and at the end, it is that of the bytes
// that are there.
func TestRequestsOfEveryKindBesideOthers(t *testing.T) {
	t.Parallel()
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 13))
		l := wideLayer{&memoryLayer{bytes: sparse(r, 1+r.Int64N(20<<10))}}
		im := newImage("", int64(len(l.bytes)), testConfig(t, "digest", "blake3,sha256", "digest-unread", "late"), func() {})
		im.setWritable()
		connect := func() *client { return &client{im: im, layer: l.memoryLayer, cursor: im.connect()} }
		clients := []*client{connect(), connect(), connect()}
		var flights []flight
		for step := range 150 {
			i := r.IntN(5)
			switch {
			case i >= len(flights) && step < 130:
				flights = append(flights, l.begin(r, clients[r.IntN(len(clients))]))
			case i >= len(flights):
			case flights[i].do != nil:
				flights[i].do()
				flights[i].do = nil
			default:
				flights[i].end()
				flights[i] = flights[len(flights)-1]
				flights = flights[:len(flights)-1]
			}
			if len(flights) == 0 {
				for i, c := range clients {
					im.disconnect(c.cursor)
					clients[i] = connect()
				}
			}
			if s := im.snapshot(); s.State == complete && s.Digests[0].Hex != hexBLAKE3(l.bytes) {
				t.Fatalf("seed %d, step %d: the digest is not that of the bytes that are there", seed, step)
			}
		}
		for _, f := range flights {
			if f.do != nil {
				f.do()
			}
			f.end()
		}
		for _, c := range clients {
			im.disconnect(c.cursor)
		}
		expectDigests(t, im, l.memoryLayer)
	}
}

func hexBLAKE3(p []byte) string {
	sum := blake3.Sum256(p)
	return hex.EncodeToString(sum[:])
}

// afterwards does something just after a digest has forgotten.
type afterwards struct {
	knowledge
	do func()
}

func (k afterwards) forget(lo, hi int64) {
	k.knowledge.forget(lo, hi)
	k.do()
}

// What is read between the begin of a write and the layer's answer is of no use, however
// early: not even while the write forgets what was there.
func TestReadWhileAWriteForgets(t *testing.T) {
	im, c := newTestImage(t, 64<<10, "digest", "blake3")
	c.read(0, 32<<10)
	reader := &client{im: im, layer: c.layer, cursor: im.connect()}
	tr := im.known[0]
	im.known[0] = afterwards{tr, func() { reader.read(0, 16<<10) }}
	ticket := im.beginWrite(c.cursor, 4096, 8192)
	im.known[0] = tr
	c.layer.write(make([]byte, 4096), 4096)
	im.endWrite(c.layer, c.cursor, ticket, 4096, nil, false)
	im.disconnect(c.cursor)
	expectDigests(t, im, c.layer)
}

// A write fails while a reader's data, which is of before, is being hashed: nobody finds
// the image complete before that is forgotten.
func TestDataOfBeforeAFailedWrite(t *testing.T) {
	for _, digest := range []string{"blake3", "sha256"} {
		im, c := newTestImage(t, 64<<10, "digest", digest)
		hashed := false
		im.known[0] = forgetful{im.known[0], func() {
			if hashed {
				im.settle()
			}
		}}
		writer := im.connect()
		old := bytes.Clone(c.layer.bytes)
		ticket := im.beginRead(c.cursor, 0, 64<<10)
		im.answered(ticket)
		write := im.beginWrite(writer, 4096, 8192)
		c.layer.write(make([]byte, 1000), 4096)
		im.endWrite(c.layer, writer, write, 4096, nil, false)
		im.disconnect(writer)
		im.feed(c.layer, c.cursor, 0, old)
		im.drain(never)
		hashed = true
		im.unlist(ticket)
		if state := im.snapshot().State; state == complete {
			t.Errorf("%s: the image is complete with data of before a write", digest)
		}
		expectDigests(t, im, c.layer)
	}
}
