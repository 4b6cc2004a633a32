// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lukechampine.com/blake3"
	"nbdkit-digest-filter/nbdkit"
)

// memoryLayer is a layer that keeps the image, and counts what is read of it.
type memoryLayer struct {
	mu     sync.RWMutex
	bytes  []byte
	holes  extents
	fail   func(lo, hi int64) bool // may be nil
	served atomic.Int64
}

func (m *memoryLayer) ReadAt(p []byte, offset int64) (int, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.fail != nil && m.fail(offset, offset+int64(len(p))) {
		return 0, errors.New("input/output error")
	}
	m.served.Add(int64(len(p)))
	return copy(p, m.bytes[offset:]), nil
}

func (m *memoryLayer) Extents(offset, size int64, each func(offset, length int64, zero bool)) error {
	for offset < size {
		lo, hi := m.holes.missing(offset, size)
		if lo > offset {
			each(offset, lo-offset, true)
		}
		if lo < hi {
			each(lo, hi-lo, false)
		}
		offset = hi
	}
	return nil
}

func (m *memoryLayer) write(p []byte, offset int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	copy(m.bytes[offset:], p)
}

// client reads and writes an image through the filter, as nbdkit would.
type client struct {
	im     *image
	layer  *memoryLayer
	cursor *cursor
	err    error // of what its last read made the filter do
}

func (c *client) read(lo, hi int64) {
	buf := make([]byte, hi-lo)
	ticket := c.im.beginRead(c.cursor, lo, hi)
	if _, err := c.layer.ReadAt(buf, lo); err != nil {
		buf = nil
	}
	c.im.endRead(c.layer, c.cursor, ticket, lo, buf)
	if buf != nil {
		c.err = c.im.readEarly(c.layer, c.cursor)
	}
}

func (c *client) write(p []byte, lo int64, ok bool) {
	ticket := c.im.beginWrite(c.cursor, lo, lo+int64(len(p)))
	if ok {
		c.layer.write(p, lo)
	}
	c.im.endWrite(c.layer, c.cursor, ticket, lo, p, ok)
}

func testConfig(t testing.TB, params ...string) *config {
	t.Helper()
	var list []nbdkit.Param
	for i := 0; i < len(params); i += 2 {
		list = append(list, nbdkit.Param{Key: params[i], Value: params[i+1]})
	}
	conf, err := parseConfig(list, "/")
	if err != nil {
		t.Fatal(err)
	}
	return conf
}

func randomBytes(r *rand.Rand, n int64) []byte {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], r.Uint64())
	b := make([]byte, n)
	rand.NewChaCha8(seed).Read(b)
	return b
}

// expectDigests ends an image and compares its digests with those of bytes.
func expectDigests(t *testing.T, im *image, m *memoryLayer) {
	t.Helper()
	wantPartBytes(t, im)
	pass := endPass{im: im, next: m, interrupted: never}
	im.drain(pass.interrupted)
	if !im.finishedOrFailed() {
		if err := pass.run(2); err != nil {
			t.Fatal(err)
		}
	}
	im.end()
	r := im.snapshot()
	if r.State != complete {
		t.Fatalf("state is %s (%s) with %d of %d bytes known", r.State, r.Error, r.Bytes.Known, r.Size)
	}
	sha, b3 := sha256.Sum256(m.bytes), blake3.Sum256(m.bytes)
	want := map[string]string{"sha256": hex.EncodeToString(sha[:]), "blake3": hex.EncodeToString(b3[:])}
	for _, d := range r.Digests {
		if d.Hex != want[d.Algorithm] {
			t.Fatalf("%s is %s, want %s", d.Algorithm, d.Hex, want[d.Algorithm])
		}
	}
	im.dropSpare()
	wantPartBytes(t, im)
	if used := im.memory.used.Load(); used != 0 {
		t.Fatalf("%d bytes are still buffered", used)
	}
}

// Random reads of any size by several clients at once, some of which fail:
// the digests are those of the image, and no byte is hashed that was not read.
func TestRandomReadsOfSeveralClients(t *testing.T) {
	t.Parallel()
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 11))
		size := r.Int64N(6 * mib)
		m := &memoryLayer{bytes: randomBytes(r, size)}
		unread := []string{"early", "late"}[r.IntN(2)]
		digests := []string{"sha256", "blake3", "blake3,sha256"}[r.IntN(3)]
		im := newImage("", size, testConfig(t, "digest", digests, "digest-unread", unread, "digest-memory", "1M"), func() {})
		var failures atomic.Int64
		m.fail = func(lo, hi int64) bool { return lo%7 == 3 && failures.Add(1) < 20 }
		order := orders[r.IntN(len(orders))]
		requests := order.requests(r, size)
		requests = requests[:r.IntN(len(requests)+1)]
		var wg sync.WaitGroup
		for i := range 4 {
			c := &client{im: im, layer: m, cursor: im.connect()}
			wg.Go(func() {
				for j, q := range requests {
					if j%4 == i || j%9 == i {
						c.read(q.lo, q.hi)
					}
				}
				im.disconnect(c.cursor)
			})
		}
		wg.Wait()
		m.fail = nil
		t.Logf("seed %d: %d bytes, %s, %s, %s", seed, size, digests, unread, order.name)
		expectDigests(t, im, m)
	}
}

// Reads and writes race for the same bytes. Whatever the outcome, the digest
// is that of the bytes that are there at the end.
func TestWritesBesideReads(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 12))
		size := 1 + r.Int64N(3*mib)
		m := &memoryLayer{bytes: randomBytes(r, size)}
		im := newImage("", size, testConfig(t, "digest", "blake3,sha256", "digest-memory", "1M"), func() {})
		var wg sync.WaitGroup
		for i := range uint64(4) {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(seed, 100+i))
				c := &client{im: im, layer: m, cursor: im.connect()}
				for range 100 {
					lo := r.Int64N(size)
					hi := min(size, lo+1+r.Int64N(200000))
					switch r.IntN(5) {
					case 0:
						c.write(randomBytes(r, min(hi-lo, 5000)), lo, r.IntN(3) > 0)
					default:
						c.read(lo, hi)
					}
				}
				if state := im.snapshot().State; state == complete {
					t.Errorf("seed %d: complete while writers are connected", seed)
				}
				im.disconnect(c.cursor)
			})
		}
		wg.Wait()
		expectDigests(t, im, m)
	}
}

// A result is taken back by a write, and comes again.
func TestWriteTakesBackTheResult(t *testing.T) {
	m := &memoryLayer{bytes: make([]byte, 100000)}
	changes := 0
	im := newImage("", 100000, testConfig(t, "digest", "blake3"), func() { changes++ })
	c := &client{im: im, layer: m, cursor: im.connect()}
	c.read(0, 100000)
	if s := im.snapshot(); s.State != complete || changes != 1 {
		t.Fatalf("after a read of all: state %s, %d changes", s.State, changes)
	}
	c.write([]byte("x"), 5, true)
	if s := im.snapshot(); s.State != changing || s.Digests[0].Hex != "" || changes != 2 {
		t.Fatalf("after a write: state %s, digest %q, %d changes", s.State, s.Digests[0].Hex, changes)
	}
	im.disconnect(c.cursor)
	if s := im.snapshot(); s.State != pending {
		t.Fatalf("after the writer has gone: state %s", s.State)
	}
	expectDigests(t, im, m)
}

// An ascending reader that leaves gaps, as qemu-img does with a compressed
// qcow2: the filter reads them, and when the reader is done, so is the hash.
func TestGapsAreReadWhenTheyArePassedOver(t *testing.T) {
	t.Parallel()
	for _, digests := range []string{"sha256", "blake3"} {
		r := rand.New(rand.NewPCG(5, 5))
		const size = 40*mib + 777
		m := &memoryLayer{bytes: randomBytes(r, size)}
		im := newImage("", size, testConfig(t, "digest", digests, "digest-unread", "early"), func() {})
		c := &client{im: im, layer: m, cursor: im.connect()}
		c.read(0, 512)
		asked := int64(512)
		for lo := int64(65536); lo < size; {
			hi := min(size, lo+1+r.Int64N(200000))
			c.read(lo, hi)
			asked += hi - lo
			lo = hi
			if r.IntN(10) == 0 {
				lo += r.Int64N(60000)
			}
		}
		if lo := int64(size - 121); true {
			c.read(lo, size)
		}
		im.drain(never)
		if s := im.snapshot(); s.State != complete {
			t.Fatalf("%s: %s with %d of %d bytes known, %d served", digests, s.State, s.Bytes.Known, s.Size, m.served.Load())
		}
		if served := m.served.Load(); served > size/100*102+512 {
			t.Fatalf("%s: %d bytes of %d were served for %d that were asked for", digests, served, int64(size), asked)
		}
		expectDigests(t, im, m)
	}
}

// Probes of the header and of the last sector set off no download.
func TestProbesReadNothingElse(t *testing.T) {
	const size = 64 * mib
	m := &memoryLayer{bytes: make([]byte, size)}
	im := newImage("", size, testConfig(t, "digest", "sha256"), func() {})
	c := &client{im: im, layer: m, cursor: im.connect()}
	c.read(0, 65536)
	c.read(size-512, size)
	c.read(mib, mib+65536)
	if served := m.served.Load(); served != 2*65536+512 {
		t.Fatalf("%d bytes were served for probes of %d", served, 2*65536+512)
	}
	im.disconnect(c.cursor)
	expectDigests(t, im, m)
}

// Two connections that read different halves, with a window that is smaller
// than that: the one far ahead waits for the other, and no byte is read twice.
func TestReaderFarAheadWaitsForTheFrontier(t *testing.T) {
	const size = 32 * mib
	r := rand.New(rand.NewPCG(6, 6))
	m := &memoryLayer{bytes: randomBytes(r, size)}
	im := newImage("", size, testConfig(t, "digest", "sha256", "digest-memory", "4M"), func() {})
	var wg sync.WaitGroup
	for half := range int64(2) {
		c := &client{im: im, layer: m, cursor: im.connect()}
		wg.Go(func() {
			for lo := half * size / 2; lo < (half+1)*size/2; lo += 256 << 10 {
				c.read(lo, lo+256<<10)
				if used := im.memory.used.Load(); used > im.memory.limit+pageSize {
					t.Errorf("%d bytes are buffered, want at most %d", used, im.memory.limit)
				}
				if half == 0 {
					time.Sleep(100 * time.Microsecond)
				}
			}
		})
	}
	wg.Wait()
	im.drain(never)
	if served := m.served.Load(); served != size {
		t.Fatalf("%d bytes were served of an image of %d", served, int64(size))
	}
	expectDigests(t, im, m)
}

// The end pass reads no holes.
func TestEndPassAsksForExtents(t *testing.T) {
	const size = 8*mib + 13
	r := rand.New(rand.NewPCG(8, 8))
	m := &memoryLayer{bytes: make([]byte, size)}
	copy(m.bytes[3*mib+5:], randomBytes(r, 100000))
	m.holes.add(0, 3*mib+5)
	m.holes.add(3*mib+100005, size)
	im := newImage("", size, testConfig(t, "digest", "blake3,sha256"), func() {})
	expectDigests(t, im, m)
	if served := m.served.Load(); served > 110000 {
		t.Fatalf("%d bytes were read, of 100000 that are not holes", served)
	}
	if s := im.snapshot(); s.Bytes.Holes != size-100000 {
		t.Fatalf("%d bytes of holes, want %d", s.Bytes.Holes, size-100000)
	}
}

// A write that the layer below takes long for is waited for, not passed over:
// what others write meanwhile is not dropped.
func TestSlowWriteIsWaitedFor(t *testing.T) {
	const size, piece = 16 * mib, 1 * mib
	m := &memoryLayer{bytes: make([]byte, size)}
	im := newImage("", size, testConfig(t, "digest", "sha256", "digest-memory", "8M"), func() {})
	im.setWritable()
	data := randomBytes(rand.New(rand.NewPCG(1, 2)), size)
	slow := &client{im: im, layer: m, cursor: im.connect()}
	ticket := im.beginWrite(slow.cursor, 0, piece)
	var wg sync.WaitGroup
	for i := range int64(4) {
		wg.Go(func() {
			quick := &client{im: im, layer: m, cursor: im.connect()}
			for lo := (i + 1) * piece; lo < size; lo += 4 * piece {
				quick.write(data[lo:min(size, lo+piece)], lo, true)
			}
			im.disconnect(quick.cursor)
		})
	}
	time.Sleep(3 * stallTime)
	m.write(data[:piece], 0)
	im.endWrite(m, slow.cursor, ticket, 0, data[:piece], true)
	wg.Wait()
	im.disconnect(slow.cursor)
	im.drain(never)
	if _, dropped := im.linear.known(); dropped > 0 {
		t.Errorf("%d bytes were dropped", dropped)
	}
	expectDigests(t, im, m)
	if n := m.served.Load(); n > 0 {
		t.Errorf("%d bytes were read back", n)
	}
}

// Parts of leaves that clients have left may take all the memory there is. The
// end pass, whose pieces end where an extent does, gets room for its own.
func TestEndPassFindsRoomForParts(t *testing.T) {
	const size, leaf = 8 * mib, 64 << 10
	m := &memoryLayer{bytes: randomBytes(rand.New(rand.NewPCG(4, 4)), size)}
	for lo := int64(0); lo < size; lo += 8192 {
		m.holes.add(lo, lo+4096)
		clear(m.bytes[lo : lo+4096])
	}
	digest := func(reads func(c *client)) string {
		im := newImage("", size, testConfig(t, "digest", "blkhash,sha256", "digest-memory", "1M", "digest-unread", "late"), func() {})
		reads(&client{im: im, layer: m, cursor: im.connect()})
		pass := endPass{im: im, next: m, interrupted: never}
		if err := pass.run(1); err != nil {
			t.Fatal(err)
		}
		im.end()
		r := im.snapshot()
		if r.State != complete {
			t.Fatalf("state is %s with %d of %d bytes known", r.State, r.Bytes.Known, r.Size)
		}
		return r.Digests[0].Hex
	}
	want := digest(func(c *client) { c.read(0, size) })
	got := digest(func(c *client) {
		for lo := int64(size - leaf); lo >= 0; lo -= leaf {
			c.read(lo+leaf/2, lo+leaf/2+1000)
		}
	})
	if got != want {
		t.Errorf("the digest is %s, want %s", got, want)
	}
}
