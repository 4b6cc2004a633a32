// SPDX-License-Identifier: BSD-3-Clause

package chaos

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"nbdkit-digest-filter/tests/nbd"
)

// blockSize is the unit in which a round remembers what was read.
const blockSize = 64 * kib

// A client is one connection, or several attempts at one.
type client struct {
	round *round
	r     *rand.Rand
	disk  *disk
	kind  string
	rude  bool // it goes away without a word, with requests in flight
	done  chan struct{}

	mu     sync.Mutex // guards all below
	conn   *nbd.Client
	killed bool
}

func (r *round) newClient() *client {
	c := &client{
		round: r,
		r:     rand.New(rand.NewPCG(r.r.Uint64(), 1)),
		disk:  pick(r.r, r.disks...),
		rude:  r.chance(35),
		done:  make(chan struct{}),
	}
	c.kind = pick(r.r, "reader", "reader", "random", "extents", "query", "handshake")
	if r.writable && r.chance(50) {
		c.kind = "writer"
	}
	return c
}

func (c *client) socket() string { return filepath.Join(c.round.dir, "sock") }

func (c *client) run() {
	time.Sleep(time.Duration(c.r.Int64N(100)) * time.Millisecond)
	switch c.kind {
	case "handshake":
		c.cutOff()
		return
	case "query":
		c.query()
		return
	}
	conn := c.dial(c.disk.export)
	if conn == nil {
		return
	}
	if conn.Size == 0 { // what the blocksize filter makes of few bytes
		conn.Close()
		return
	}
	switch c.kind {
	case "reader":
		c.readAll(conn)
	case "random":
		c.readSome(conn)
	case "extents":
		c.readData(conn)
	case "writer":
		c.write(conn)
	}
	if c.rude {
		c.drop()
	} else {
		conn.Close()
		c.mu.Lock()
		defer c.mu.Unlock()
		c.killed = true // it cannot be any more
	}
}

// dial connects. A server may refuse, or be gone.
func (c *client) dial(export string) *nbd.Client {
	changed := c.disk.hasChanged() // before the server looks
	conn, err := nbd.Dial(c.socket(), export, patience)
	if err != nil {
		c.fault()
		return nil
	}
	c.round.mu.Lock()
	c.round.served = true
	c.round.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.killed {
		conn.Drop()
		return nil
	}
	c.conn = conn
	if export == c.disk.export {
		c.disk.connected(changed)
	}
	return conn
}

// drop kills the client, if it is alive.
func (c *client) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil && !c.killed {
		c.conn.Drop()
		c.round.figures.add(&c.round.figures.Killed, 1)
	}
	c.killed = true
}

func (c *client) fault() { c.round.figures.add(&c.round.figures.Faults, 1) }

func (c *client) requests(n int) { c.round.figures.add(&c.round.figures.Requests, n) }

// cutOff begins handshakes, and does not end them.
func (c *client) cutOff() {
	all := nbd.Handshake(c.disk.export)
	for range 20 {
		nbd.CutOff(c.socket(), all[:c.r.IntN(len(all)+1)])
	}
}

// A reading is a read in flight.
type reading struct {
	call  *nbd.Call
	lo, n int64
	sent  bool // after the source has changed
}

func (c *client) start(conn *nbd.Client, lo, n int64) reading {
	c.requests(1)
	return reading{conn.Start(nbd.CmdRead, lo, n, nil), lo, n, c.disk.touch()}
}

// finish waits for a read. The data must be the disk's, if that does not change.
func (c *client) finish(q reading) (ok bool) {
	<-q.call.Done
	if q.call.Err != nil {
		c.fault()
		return false
	}
	if !c.round.writable && c.round.behind == "" {
		want := make([]byte, q.n)
		if err := readAt(c.disk.path, want, q.lo); err == nil && !bytes.Equal(want, q.call.Data) {
			c.round.failf("a client got other bytes at %d than the disk has", q.lo)
		}
	}
	c.disk.wasRead(q, c.round.looks)
	return true
}

func readAt(path string, p []byte, offset int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.ReadAt(p, offset)
	return err
}

// readAll copies the disk in order, with some requests in flight.
func (c *client) readAll(conn *nbd.Client) {
	var flying []reading
	depth, step := 1+c.r.IntN(8), pick[int64](c.r, 4*kib, 64*kib, 100001, 512*kib)
	failed := 0
	for lo := int64(0); lo < conn.Size && !(c.rude && c.r.IntN(40) == 0); lo += step {
		flying = append(flying, c.start(conn, lo, min(step, conn.Size-lo)))
		if len(flying) == depth {
			if !c.finish(flying[0]) {
				failed++
			}
			flying = flying[1:]
		}
		// Beyond the end of a source that was cut short all fail, and a layer that
		// tries again takes a second for each.
		if c.over() || failed == 10 {
			return
		}
	}
	if c.rude {
		return
	}
	for _, q := range flying {
		if !c.finish(q) {
			failed++
		}
	}
	// With trees, no byte that was read is dropped, so that a request of this
	// client must have failed, unless a filter above hides the last bytes.
	r := c.round
	if failed == 0 && conn.Size == c.disk.size && r.expect == "wrong" && r.unread == "early" && !r.isLinear() {
		r.failf("a copy of an image that is not the expected one succeeds")
	}
}

func (r *round) isLinear() bool {
	for _, d := range r.digests {
		if d == "sha256" || d == "sha512" {
			return true
		}
	}
	return false
}

// over tells whether the round ends. Then a client may be late, or not.
func (c *client) over() bool {
	select {
	case <-c.round.stopping:
		return c.r.IntN(3) == 0
	default:
		return false
	}
}

func (c *client) extent(size int64) (lo, n int64) {
	lo = c.r.Int64N(size)
	return lo, min(size-lo, 1+c.r.Int64N(pick[int64](c.r, 512, 5000, 200*kib, mib)))
}

func (c *client) readSome(conn *nbd.Client) {
	var flying []reading
	for range 1 + c.r.IntN(100) {
		lo, n := c.extent(conn.Size)
		flying = append(flying, c.start(conn, lo, n))
		if len(flying) > c.r.IntN(6) {
			c.finish(flying[0])
			flying = flying[1:]
		}
		if c.over() {
			return
		}
	}
	for _, q := range flying {
		if !c.rude {
			c.finish(q)
		}
	}
}

// readData reads what is no hole.
func (c *client) readData(conn *nbd.Client) {
	c.requests(1)
	call := conn.Do(nbd.CmdExtent, 0, conn.Size, nil)
	if call.Err != nil {
		c.fault()
	}
	c.disk.touch()
	lo := int64(0)
	for _, z := range append(call.Zeros, nbd.Zero{Lo: conn.Size, Hi: conn.Size}) {
		for ; lo < min(z.Lo, conn.Size); lo += 256 * kib {
			c.finish(c.start(conn, lo, min(256*kib, conn.Size-lo)))
			if c.over() {
				return
			}
		}
		lo = max(lo, z.Hi)
	}
}

// write writes, zeroes, trims and reads all over the disk.
func (c *client) write(conn *nbd.Client) {
	var flying []*nbd.Call
	for range 1 + c.r.IntN(120) {
		lo, n := c.extent(conn.Size)
		var data []byte
		command := pick[uint16](c.r, nbd.CmdRead, nbd.CmdWrite, nbd.CmdWrite, nbd.CmdWrite, nbd.CmdZero, nbd.CmdTrim, nbd.CmdFlush, nbd.CmdExtent)
		switch command {
		case nbd.CmdWrite:
			data = randomBytes(c.r, n)
			if c.r.IntN(4) == 0 {
				clear(data)
			}
		case nbd.CmdFlush:
			lo, n = 0, 0
		}
		c.requests(1)
		c.disk.touch()
		flying = append(flying, conn.Start(command, lo, n, data))
		if len(flying) > c.r.IntN(8) {
			<-flying[0].Done
			if flying[0].Err != nil {
				c.fault()
			}
			flying = flying[1:]
		}
		if c.over() {
			return
		}
	}
	if c.rude {
		lo, n := c.extent(conn.Size)
		conn.HalfWrite(lo, n, randomBytes(c.r, n/2))
		return
	}
	for _, call := range flying {
		<-call.Done
	}
}

// query asks for digests, and checks the answer where it cannot change.
func (c *client) query() {
	final := c.r.IntN(2) == 0
	name := ".digest"
	if final {
		name = ".digest-final"
	}
	if c.disk.export != "" {
		name += "/" + c.disk.export
	}
	for range 1 + c.r.IntN(5) {
		conn := c.dial(name)
		if conn == nil {
			return
		}
		if final {
			c.disk.touch()
		}
		call := conn.Start(nbd.CmdRead, 0, conn.Size, nil)
		if c.rude && c.r.IntN(3) == 0 {
			c.drop()
			return
		}
		<-call.Done
		if call.Err != nil {
			c.fault()
			return
		}
		conn.Close()
		var doc document
		if err := json.Unmarshal(call.Data, &doc); err != nil {
			c.round.failf("the answer to %s is %v: %q", name, err, call.Data)
			return
		}
		if !c.round.writable && c.round.behind == "" {
			c.round.compare(fmt.Sprintf("the answer to %s", name), doc)
		}
	}
}

// hasChanged tells whether the source has changed, and is done with it.
func (d *disk) hasChanged() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.replaced && d.earlier != nil
}

// connected notes that a client is in, and whether the source had changed before
// it came.
func (d *disk) connected(changed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opened = d.opened || changed
}

// touch notes that a client asks for data, and tells whether the source has
// changed before.
func (d *disk) touch() bool {
	d.mu.Lock()
	d.touched = true
	d.mu.Unlock()
	return d.hasChanged()
}

// wasRead notes what a client got. The start may come from the filter's memory.
func (d *disk) wasRead(q reading, looks bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	first, end := (q.lo+blockSize-1)/blockSize, (q.lo+q.n)/blockSize
	if looks {
		first = max(first, mib/blockSize)
	}
	for i := first; i < end; i++ {
		switch {
		case !d.replaced:
			d.earlier[i] = true
		case q.sent && d.earlier[i]:
			d.again = true
		}
	}
}
