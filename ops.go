package main

// The requests in flight of an image: image.go has the invariant that they
// keep.

// An op is a request in flight, or whose data is being hashed.
type op struct {
	lo, hi  int64
	active  bool // this slot is in use
	reading bool // the layer below has not answered yet
	writing bool
	tainted bool
}

// A cursor is where a connection reads.
type cursor struct {
	at      int64 // the end of its last request
	request int   // the number of that request
	writer  bool
}

// noTicket is the ticket of a request that needs no op.
const noTicket = ^uint64(0)

// beginRead lists a client's read of [lo, hi).
func (im *image) beginRead(c *cursor, lo, hi int64) uint64 {
	if im.done.Load() {
		return noTicket
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	im.requests++
	c.at, c.request = hi, im.requests
	im.touched = true
	o := op{lo: lo, hi: hi, reading: true}
	for i := range im.ops {
		if w := &im.ops[i]; im.writes > 0 && w.writing && w.lo < hi && lo < w.hi {
			o.tainted = true
		}
	}
	return im.list(o)
}

// endRead takes the data of a read, or nil if it failed. Cursor is nil for
// the filter's own.
func (im *image) endRead(next layer, c *cursor, ticket uint64, lo int64, data []byte) {
	if c != nil {
		im.clientRead.Add(int64(len(data)))
	} else {
		im.filterRead.Add(int64(len(data)))
	}
	if ticket == noTicket {
		return
	}
	defer im.unlist(ticket)
	if im.answered(ticket) && data != nil {
		im.feed(next, c, lo, data)
	}
}

// beginWrite lists a request that changes [lo, hi).
func (im *image) beginWrite(c *cursor, lo, hi int64) uint64 {
	ticket, withdrawn := im.listWrite(c, lo, hi)
	for _, k := range im.known {
		k.forget(lo, hi)
	}
	if withdrawn {
		im.changed()
	}
	return ticket
}

func (im *image) listWrite(c *cursor, lo, hi int64) (ticket uint64, withdrawn bool) {
	im.mu.Lock()
	defer im.mu.Unlock()
	im.touched = true
	im.began++
	im.done.Store(false)
	withdrawn = im.sums != nil
	im.sums = nil
	if !c.writer {
		c.writer = true
		im.writers++
	}
	o := op{lo: lo, hi: hi, writing: true}
	for i := range im.ops {
		if p := &im.ops[i]; p.active && p.lo < hi && lo < p.hi {
			o.tainted = true
			if !p.tainted {
				p.tainted = true
				im.tainted++
			}
		}
	}
	return im.list(o), withdrawn
}

// endWrite ends a request that changed its range, or tried to.
func (im *image) endWrite(ticket uint64, n int64, ok bool) {
	if ok {
		im.clientWritten.Add(n)
	}
	im.unlist(ticket)
}

func (im *image) list(o op) uint64 {
	o.active = true
	if o.tainted {
		im.tainted++
	}
	if o.writing {
		im.writes++
	}
	if n := len(im.freeOps); n > 0 {
		i := im.freeOps[n-1]
		im.freeOps = im.freeOps[:n-1]
		im.ops[i] = o
		return uint64(i)
	}
	im.ops = append(im.ops, o)
	return uint64(len(im.ops) - 1)
}

// beginFree lists a read of the filter's own of [lo, hi), or of its beginning
// if another request is further on, and returns where that ends. If a request
// is at lo, it returns where that one ends.
func (im *image) beginFree(lo, hi int64) (ticket uint64, end int64, ok bool) {
	im.mu.Lock()
	defer im.mu.Unlock()
	end = im.unclaimed(lo, hi)
	if end > lo {
		return im.list(op{lo: lo, hi: end, reading: true}), end, true
	}
	end = lo + 1
	for _, o := range im.ops {
		if o.active && o.lo <= lo && lo < o.hi {
			end = max(end, o.hi)
		}
	}
	return 0, end, false
}

// shrink makes an op end earlier.
func (im *image) shrink(ticket uint64, hi int64) {
	im.mu.Lock()
	defer im.mu.Unlock()
	im.ops[ticket].hi = hi
}

// answered notes that the layer below has answered a read, and tells whether
// its data may be hashed.
func (im *image) answered(ticket uint64) bool {
	im.mu.Lock()
	defer im.mu.Unlock()
	o := &im.ops[ticket]
	o.reading = false
	return !o.tainted
}

// unlist ends an op. If it is tainted, what was hashed of it is forgotten
// first.
func (im *image) unlist(ticket uint64) {
	im.mu.Lock()
	o := im.ops[ticket]
	if o.tainted {
		im.mu.Unlock()
		for _, k := range im.known {
			k.forget(o.lo, o.hi)
		}
		im.mu.Lock()
	}
	im.remove(ticket)
	im.mu.Unlock()
	if o.tainted || o.writing {
		im.settle()
	}
}

func (im *image) remove(ticket uint64) {
	o := &im.ops[ticket]
	if o.tainted {
		im.tainted--
	}
	if o.writing {
		im.writes--
	}
	*o = op{}
	im.freeOps = append(im.freeOps, int(ticket))
}
