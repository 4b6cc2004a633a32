// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"sync"
	"sync/atomic"
	"time"
)

// Notes on the design of an image's state
//
// An image is one export, whoever reads it: all connections, at once or one
// after the other, add to the same knowledge. Each digest keeps its own set
// of what it knows (leaf.go, window.go); the image knows who does what.
//
// The invariant is that a digest is reported only if it is the digest of the
// bytes that a reader would get now. Data that was read while a write to the
// same range was in flight may be old or new, so each request is listed as
// an op from before it goes to the layer below until its data is hashed:
//
//   - a write forgets its range before it begins, and taints every op that
//     overlaps with it, in either direction;
//   - the data of a tainted op is not hashed, and what of it was hashed
//     already is forgotten;
//   - an image is not complete while an op is listed that writes, or a tainted
//     one whose data may have been hashed.
//
// What was forgotten is unknown, and is read again.

// A layer is what the filter reads the image from.
type layer interface {
	ReadAt(p []byte, offset int64) (int, error)
	Extents(offset, size int64, each func(offset, length int64, zero bool)) error
}

type state string

const (
	pending    state = "pending"    // a reader may still complete it
	complete   state = "complete"   // all digests are known
	incomplete state = "incomplete" // the server ended before that
	changing   state = "changing"   // a writer is connected
	mismatch   state = "mismatch"   // not what was expected
	failed     state = "failed"     // a fault in the filter, or the source changed
)

// image is the state of one export.
type image struct {
	export string
	size   int64
	conf   *config
	memory budget
	linear *linear // nil if there is no linear digest
	trees  []*tree
	known  []knowledge // linear and trees

	awaited []awaited // digests that decide what a copy is worth

	stale *atomic.Bool // the filter's, or nil

	// changed is called, without locks, when the result has come or gone, and added when
	// it has come, is no error, and takes the place of none.
	changed, added func()

	clientRead, clientWritten, holes, filterRead atomic.Int64 // bytes

	readBefore   atomic.Int64 // clientRead, when somebody wrote last
	lastFrontier atomic.Int64 // of the linear digests, when flows was called
	lookedAt     atomic.Int64 // clientRead, when a gap was looked for
	credit       atomic.Int64 // bytes that the filter may read in gaps

	marks atomic.Pointer[marks] // nil when somebody has written

	pace pace // of what is known, for queries

	users  int // guarded by the filter's lock: connections, and queries at work
	opened int // likewise: how many users there have been

	// refused is set when a digest is not the expected one, and announced when that
	// has been published.
	refused, announced atomic.Bool

	door   sync.Mutex         // guards those below, and the look at a new client's image
	guests int                // connections
	seen   *[sha256.Size]byte // of the start of the image, when a client looked at it last

	// start is seen as long as there are clients and nobody has written.
	start atomic.Pointer[start]

	verifying sync.Mutex // held by the client that verifies the image

	overTLS atomic.Bool // a client had TLS

	// touched is set when a client has asked for data, or there is a mismatch: then
	// there is a result.
	touched atomic.Bool

	// done is set while result is valid, for a quick look. So are lost when there
	// is a failure, or the image has ended, and deferred while what is there may
	// be about to be replaced: see door.go. They change under mu.
	done, lost, deferred atomic.Bool

	mu        mutex // guards all below
	ops       []op
	freeOps   []int
	doubtful  int // ops that are tainted, and of which data may have been hashed
	writes    int // ops that write
	writers   int // connections that have written
	requests  int // counts clients' reads
	cursors   map[*cursor]struct{}
	stalled   bool // no client moved the frontier from stalledAt on
	stalledAt int64
	earlyFrom int64 // of clientRead: until then no gap is read, as one could not be
	written   bool  // somebody has written
	wanted    bool  // since then somebody has read, or wants to know
	began     int   // counts writes, so that a sum taken meanwhile is void
	sums      []string
	results   int // counts sums, one after the other
	withdrawn int // of these, how many are taken back from whoever was told
	judged    judged
	ended     bool
	failure   string
	signature *signature // nil until a client was admitted
	started   time.Time
	finished  time.Time
}

// knowledge is what a digest says of its progress.
type knowledge interface {
	unknown(lo, hi int64) (int64, int64)
	left() int64
	isNearEnd(limit int64) bool
	isHashing() bool
	isDue() bool
	complete() bool
	forget(lo, hi int64)
}

func newImage(export string, size int64, conf *config, changed func()) *image {
	im := &image{
		export:  export,
		size:    size,
		conf:    conf,
		changed: changed,
		added:   changed,
		cursors: make(map[*cursor]struct{}),
		started: time.Now(),
	}
	seen := newMarks(size, conf.memory)
	im.marks.Store(seen)
	var sums []hash.Hash
	trees := int64(0)
	for _, a := range conf.digests {
		if a.new != nil {
			sums = append(sums, a.new())
		} else {
			trees++
		}
	}
	shares := sharesOf(len(sums) > 0, trees > 0)
	part := conf.memory / 16
	im.memory.limit = part*shares.buffers - seen.memory()
	perSize := size >> 15 // 32 MiB for each TiB
	if len(sums) > 0 {
		share := perSize / (trees + 1)
		im.linear = newLinear(size, &im.memory, part*shares.lists+share, sums, im.settle)
		perSize -= share
	}
	for _, a := range conf.digests {
		if a.new != nil {
			continue
		}
		t := newTree(conf.spec(a), size, &im.memory, (part*shares.nodes+perSize)/trees)
		im.trees = append(im.trees, t)
		im.known = append(im.known, t)
	}
	if im.linear != nil {
		im.known = append(im.known, im.linear)
	}
	im.awaited = im.await()
	return im
}

// shares are sixteenths of digest-memory. What is left is for what the garbage collector
// lets pile up.
type shares struct{ buffers, nodes, lists int64 }

func sharesOf(linear, trees bool) shares {
	switch {
	case !linear:
		return shares{buffers: 6, nodes: 7}
	case !trees:
		return shares{buffers: 11, lists: 1}
	}
	return shares{buffers: 10, nodes: 2, lists: 1}
}

// connect adds a connection.
func (im *image) connect() *cursor {
	im.mu.Lock()
	defer im.mu.Unlock()
	c := &cursor{at: -1}
	im.cursors[c] = struct{}{}
	return c
}

// retire is called when a connection sends no more requests. It tells whether
// that was the last one.
func (im *image) retire(c *cursor) (last bool) {
	im.mu.Lock()
	defer im.mu.Unlock()
	if c.writer {
		c.writer = false
		im.writers--
	}
	c.gone = true
	for other := range im.cursors {
		if !other.gone {
			return false
		}
	}
	if im.sums == nil {
		im.deferred.Store(false)
	}
	return im.touched.Load()
}

func (im *image) disconnect(c *cursor) {
	im.mu.Lock()
	delete(im.cursors, c)
	if c.writer {
		im.writers--
	}
	im.mu.Unlock()
	im.settle()
}

// setWritable is called before the first client that may write.
func (im *image) setWritable() {
	if im.linear != nil {
		im.linear.setWritable()
	}
	for _, t := range im.trees {
		t.setWritable()
	}
}

// feed hands data to all digests. Cursor is nil for the filter's own reads,
// which must not be in vain.
func (im *image) feed(next layer, c *cursor, lo int64, data []byte) {
	hi := lo + int64(len(data))
	n := 0
	if im.linear != nil {
		n = im.linear.offer(lo, data)
	}
	for _, t := range im.trees {
		if c == nil || !t.stage(lo, data) {
			t.add(lo, data, c == nil)
		}
	}
	if n < len(data) && im.linear != nil {
		im.feedSlowly(next, c, lo+int64(n), data[n:])
	}
	if c != nil {
		im.credit.Add(hi - lo) // the filter may read as much
	}
	im.settle()
}

// dropSpare gives up what is kept for the next request, when the last client has
// gone.
func (im *image) dropSpare() {
	if im.linear != nil {
		im.linear.dropSpare()
	}
	for _, t := range im.trees {
		t.dropSpare()
	}
}

// end is called when there will be no more requests.
func (im *image) end() {
	if im.linear != nil {
		im.linear.stop()
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	im.ended = true
	im.lost.Store(true)
	if im.finished.IsZero() {
		im.finished = time.Now()
	}
}

// progress returns how many bytes all digests know.
func (im *image) progress() int64 {
	known := im.size
	for _, t := range im.trees {
		known = min(known, t.known())
	}
	if im.linear != nil {
		known = min(known, im.linear.quick.ready.Load())
	}
	return known
}

func (im *image) String() string { return fmt.Sprintf("export %q", im.export) }

// touch notes that a client has asked for data, or where it is. What was known
// of the image before that is of interest now.
func (im *image) touch() {
	if !im.touched.Load() && im.touched.CompareAndSwap(false, true) && im.finishedOrFailed() {
		im.publish()
	}
}

// publish hands on a result that was not told before.
func (im *image) publish() {
	if im.refused.Load() || im.isLost() {
		im.changed()
	} else {
		im.added()
	}
}

// clientsGone is called at shutdown. nbdkit may still be closing connections
// that can send no more requests.
func (im *image) clientsGone() {
	im.mu.Lock()
	im.writers = 0
	for c := range im.cursors {
		c.writer = false
	}
	im.mu.Unlock()
	im.endDeferral()
}

const (
	// A client that has read at most probeMax bytes of an image that is larger
	// than probeSize has had a look at it, as qemu-img info does.
	probeMax  = 2 << 20
	probeSize = 16 << 20
)

// isProbed tells whether clients have looked at the image, but not begun to
// copy it. That is no reason to read all of it, nor is what they were told of
// holes, as nbdinfo --map is. What nobody needs to read is another matter. To write
// is no look: a copy into a blank disk writes its data only.
func (im *image) isProbed() bool {
	if im.size <= probeSize || im.isChanged() || im.clientRead.Load() > probeMax {
		return false
	}
	lo, hi := im.firstUnknown(0)
	return lo < hi
}

// finishedOrFailed tells whether there is a result, or will be none: to read more would
// not help.
func (im *image) finishedOrFailed() bool {
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.sums != nil || im.failure != ""
}

// endPause gives what failed before another try.
func (im *image) endPause() {
	im.mu.Lock()
	defer im.mu.Unlock()
	im.earlyFrom, im.stalled = 0, false
}
