// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"fmt"
	"hash"
	"runtime"
	"sync"
	"sync/atomic"
)

// Notes on the design of linear digests
//
// SHA-256 and its like take the bytes of an image in order, clients do not
// send them so. Bytes are copied into the pages of a window as they come,
// and one goroutine for each digest follows the frontier behind the readers,
// as long as there are any:
//
//	0 ─── hashed ─── pos ─── ready ─── frontier ─── gap ─── ready ─── size
//
// The pages behind the slowest digest are used again. When the window is
// full, the bytes at the frontier are taken all the same, so that it always
// moves; bytes elsewhere have to wait, or are dropped and read again later.
// Which of the two is decided by the image, which knows the clients.
//
// Ranges that read as zero take no page: they are hashed from one page of
// zeros.

// linear computes the linear digests of one image.
type linear struct {
	size    int64
	memory  *budget
	hashers []*hasher

	listLimit int64 // bytes of the lists below above which no piece by itself is kept

	// settled is called, without locks, when all bytes are hashed, and when a
	// digest failed.
	settled func()

	dropped atomic.Int64 // bytes for which there was no room
	failed  atomic.Bool  // there is a failure

	mu       mutex      // guards all below
	data     *sync.Cond // the frontier moved, or stop was called
	idle     *sync.Cond // something was hashed
	waiters  []*waiter  // by offset
	taken    extents    // bytes that are ready, or being copied
	copies   []*copying
	ready    extents        // bytes that can be hashed, or were
	zeros    extents        // ready bytes that are zero and in no page
	pages    ordered[*page] // by offset
	spare    []*page
	frontier int64                                  // all bytes before it are ready
	quick    struct{ frontier, ready atomic.Int64 } // of the same, without the lock
	stopped  bool
	resting  bool // no client is there: goroutines end when they have no work
	writable bool // bytes that are hashed may change
	failure  error

	spareCopies  []*copying
	spareWaiters []*waiter
}

// copying is the claim of a thread that copies bytes [lo, hi) to pages.
type copying struct {
	lo, hi int64
	pages  []*page
	void   bool // forgotten meanwhile
}

// A hasher is one digest. Its fields are guarded by the lock of linear; only
// its goroutine uses sum.
type hasher struct {
	sum     hash.Hash
	pos     int64 // bytes hashed
	busy    int64 // bytes behind pos that are being hashed
	running bool  // there is a goroutine for it
	working bool  // sum is in use
	stale   bool  // forgotten meanwhile: go back
	isAhead bool  // the copy does not wait for it
	chunks  [][]byte
	pages   []*page // those that chunks are in
	saves   []save  // by position
	step    int64   // bytes between them
}

// A save is the state of a hash, to go back to when bytes behind it change.
// It stands at the start of a page.
type save struct {
	pos int64
	sum hash.Hash
}

func newLinear(size int64, memory *budget, listLimit int64, sums []hash.Hash, settled func()) *linear {
	l := &linear{size: size, memory: memory, listLimit: listLimit, settled: settled}
	memory.reclaim = l.reclaim
	l.data, l.idle = sync.NewCond(&l.mu), sync.NewCond(&l.mu)
	for _, sum := range sums {
		l.hashers = append(l.hashers, &hasher{sum: sum})
	}
	return l
}

// follow hashes what becomes ready, until all is hashed, nobody is there, or
// stop is called.
func (l *linear) follow(h *hasher) {
	// A thread of its own: to be passed from one to another costs a digest
	// 5% of its speed.
	runtime.LockOSThread()
	defer func() {
		if v := recover(); v != nil {
			l.mu.Lock()
			l.failure = fmt.Errorf("internal error in hashing: %v", v)
			l.failed.Store(true)
			l.moved()
			l.mu.Unlock()
			l.settled()
		}
	}()
	for l.next(h) {
		for _, data := range h.chunks {
			h.sum.Write(data)
			if h.isAhead {
				giveWay()
			}
		}
		if l.hashed(h) {
			l.settled()
		}
	}
}

// hashChunks is how many pages are hashed at a time.
const hashChunks = 4

// aheadShare is the part of the window that may wait to be hashed, while a digest
// lets threads of the copy go first: giveWay tells why.
const aheadShare = 4

// next waits for bytes to be hashed, and tells whether to go on.
func (l *linear) next(h *hasher) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for h.pos == l.frontier && h.pos < l.size && !l.resting && !l.stopped {
		l.data.Wait()
	}
	if h.pos == l.frontier || l.stopped {
		h.running = false
		return false
	}
	h.chunks, h.busy = h.chunks[:0], 0
	for h.pos+h.busy < l.frontier && len(h.chunks) < hashChunks {
		data, page := l.readyAt(h.pos + h.busy)
		if page != nil {
			page.users++
			h.pages = append(h.pages, page)
		}
		h.chunks = append(h.chunks, data)
		h.busy += int64(len(data))
	}
	h.working = true
	h.isAhead = l.frontier < l.size && len(l.waiters) == 0 && l.frontier-h.pos < l.memory.limit/aheadShare
	return true
}

// readyAt returns bytes from pos on, which is before the frontier, and the page
// that they are in, or nil if they are zero.
func (l *linear) readyAt(pos int64) ([]byte, *page) {
	end := l.frontier
	for lo, hi := range l.zeros.within(pos, end) {
		if lo == pos {
			return zeroes[:min(hi-lo, int64(len(zeroes)))], nil
		}
		end = lo
		break
	}
	start := pos - pos%pageSize
	p, ok := l.pages.floor(start)
	if !ok || l.pages.key(p) != start {
		panic(fmt.Sprintf("no page for ready bytes at %d", pos))
	}
	page := *l.pages.val(p)
	return page.data[pos-start : min(end-start, pageSize)], page
}

// zeroes is what is hashed for holes.
var zeroes [256 << 10]byte

// hashed counts the bytes that next chose as hashed, and tells whether that was
// the last of the image.
func (l *linear) hashed(h *hasher) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	h.working = false
	for _, page := range h.pages {
		l.release(page)
	}
	clear(h.pages) // that they do not outlive their use
	clear(h.chunks)
	h.pages, h.chunks = h.pages[:0], h.chunks[:0]
	if h.stale {
		h.stale = false
		h.resume()
		l.moved() // the pages may be free
		return false
	}
	h.pos += h.busy
	h.busy = 0
	if l.writable {
		h.save()
	}
	slowest := l.slowest()
	for {
		p, ok := l.pages.from(0)
		if !ok || l.pages.key(p)+pageSize > slowest && slowest < l.size {
			break
		}
		l.removePage(p)
	}
	l.zeros.remove(0, slowest)
	l.moved()
	return slowest == l.size
}

const (
	// maxSaves is how many states of a hash are kept.
	maxSaves = 64
	// minSaveStep is how far apart they are at first.
	minSaveStep = 16 << 20
)

// setWritable prepares for bytes that change after they were hashed.
func (l *linear) setWritable() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.writable = true
}

// save keeps the state of the hash, if it has come far enough.
func (h *hasher) save() {
	last := int64(0)
	if n := len(h.saves); n > 0 {
		last = h.saves[n-1].pos
	}
	h.step = max(h.step, minSaveStep)
	if h.pos-last < h.step || h.pos%pageSize != 0 {
		return
	}
	h.saves = append(h.saves, save{h.pos, cloneHash(h.sum)})
	if len(h.saves) == maxSaves {
		for i := range maxSaves / 2 {
			h.saves[i] = h.saves[2*i+1]
		}
		h.saves = h.saves[:maxSaves/2]
		h.step *= 2
	}
}

// back makes the last save at or before limit the hash's position.
func (h *hasher) back(limit int64) {
	n := len(h.saves)
	for n > 0 && h.saves[n-1].pos > limit {
		n--
	}
	h.saves = h.saves[:n]
	h.pos, h.busy = 0, 0
	if n > 0 {
		h.pos = h.saves[n-1].pos
	}
	if h.working {
		h.stale = true
	} else {
		h.resume()
	}
}

// resume sets the hash to the state of the last save.
func (h *hasher) resume() {
	if n := len(h.saves); n > 0 {
		h.sum = cloneHash(h.saves[n-1].sum)
	} else {
		h.sum.Reset()
	}
}

// slowest returns how many bytes all digests have hashed.
func (l *linear) slowest() int64 {
	slowest := l.size
	for _, h := range l.hashers {
		slowest = min(slowest, h.pos)
	}
	return slowest
}

// complete tells whether all bytes are hashed.
func (l *linear) complete() bool {
	if l.quick.ready.Load() < l.size {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failure == nil && l.slowest() == l.size
}

func (l *linear) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failure
}

// sums returns the digests, in the order in which they were given, or nil if
// the image is not complete.
func (l *linear) sums() [][]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.slowest() != l.size || l.failure != nil {
		return nil
	}
	var sums [][]byte
	for _, h := range l.hashers {
		sums = append(sums, h.sum.Sum(nil))
	}
	return sums
}

// start makes goroutines follow the frontier that do not.
func (l *linear) start() {
	for _, h := range l.hashers {
		if h.pos < l.frontier && !h.running && !l.stopped {
			h.running, l.resting = true, false
			go l.follow(h)
		}
	}
}

// dropSpare gives up what is kept for the next request, when the last client has
// gone: threads, and pages to be used again.
func (l *linear) dropSpare() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.resting = true
	l.dropPages(int64(len(l.spare)) * pageSize)
	l.spare, l.spareCopies, l.spareWaiters = nil, nil, nil
	l.data.Broadcast()
}

// stop ends the goroutines.
func (l *linear) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = true
	l.data.Broadcast()
}
