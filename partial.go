// SPDX-License-Identifier: BSD-3-Clause

package main

// Leaves of which a request has brought a part only: leaf.go has the design.

// A partial leaf has some of its bytes.
type partial struct {
	index int64
	buf   []byte
	have  extents // bytes that are copied or being copied
	done  int64   // bytes that are copied
	void  bool
}

// addPart takes bytes that are a part of one leaf.
func (t *tree) addPart(offset int64, p []byte, needed bool) {
	index := offset / t.spec.leafSize
	from := offset - index*t.spec.leafSize
	for end := from + int64(len(p)); from < end; {
		part, a, b := t.takePart(index, from, end, needed)
		if part == nil {
			return
		}
		copy(part.buf[a:b], p[int64(len(p))-(end-a):])
		if c, whole := t.partDone(part, b-a, needed); whole {
			if c != nil {
				t.hash(c, part.buf)
			}
			t.sparePart(part)
			return
		}
		from = b
	}
}

// takePart claims the first bytes within [from, to) of a leaf that are not
// there. While they are being copied, the leaf is not whole, and its buffer
// stays. It returns nil if no bytes are wanted, or if there is no memory for
// the leaf, or for one more piece of it, and they are not needed: then they stay
// unknown.
func (t *tree) takePart(index, from, to int64, needed bool) (part *partial, a, b int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	part = t.parts[index]
	if part == nil {
		if part = t.newPart(index, needed); part == nil {
			return nil, 0, 0
		}
	}
	a, b = part.have.missing(from, to)
	if a == b || !needed && part.have.ends.count >= t.maxPieces() && !part.have.touches(a, b) {
		return nil, 0, 0
	}
	part.have.add(a, b)
	t.partBytes.Add(b - a)
	return part, a, b
}

// maxPieces bounds the list of what there is of a leaf: to a few percent of its size, or
// so many that requests of whole sectors or pages find room.
func (t *tree) maxPieces() int { return max(8, int(t.spec.leafSize>>10)) }

// partCost is what a part takes of the budget: its bytes, itself in the map of parts, and
// the list of its pieces.
func (t *tree) partCost() int64 {
	const perPart, perPiece = 256, 24
	return t.bytesOf(1) + perPart + perPiece*int64(t.maxPieces())
}

func (t *tree) newPart(index int64, needed bool) (part *partial) {
	if t.covers(index, index+1) {
		return nil
	}
	if n := len(t.spareParts); n > 0 {
		part = t.spareParts[n-1]
		t.spareParts = t.spareParts[:n-1]
		t.memory.spareParts.Add(-t.partCost())
	} else {
		if !t.memory.take(t.partCost()) {
			if !needed {
				return nil
			}
			// The filter's own reads are in order: the next one completes the leaf.
			t.memory.used.Add(t.partCost())
		}
		part = &partial{buf: make([]byte, 0, t.bytesOf(1))}
	}
	part.index = index
	part.buf = part.buf[:min(t.spec.leafSize, t.size-index*t.spec.leafSize)]
	t.parts[index] = part
	return part
}

// partDone counts bytes that were copied, and tells whether that made the
// leaf whole. Then the leaf is claimed at once, unless it is not wanted:
// bytes of it that came with other requests may be forgotten any time.
func (t *tree) partDone(part *partial, n int64, needed bool) (c *claim, whole bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	part.done += n
	if part.void && !part.isBusy() {
		t.recycle(part)
		return nil, false
	}
	if part.done < int64(len(part.buf)) || part.void {
		return nil, false
	}
	delete(t.parts, part.index)
	c = t.takeLocked(part.index, part.index+1, needed)
	t.partBytes.Add(-part.done) // once they are covered
	return c, true
}

// sparePart gives the buffer of a whole leaf back.
func (t *tree) sparePart(part *partial) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.recycle(part)
}

// spareShare bounds the part of the budget that spare parts take. A copy whose
// requests are smaller than a leaf has some of them come and go all the time.
const spareShare = 4

// recycle ends a part that nobody uses any more. It is kept, unless there are many.
func (t *tree) recycle(part *partial) {
	cost := t.partCost()
	if t.memory.spareParts.Add(cost) > t.memory.limit/spareShare || t.memory.used.Load() > t.memory.limit {
		t.memory.spareParts.Add(-cost)
		t.memory.give(cost)
		return
	}
	part.have.clear()
	part.done, part.void = 0, false
	t.spareParts = append(t.spareParts, part)
}

// isBusy tells whether bytes are being copied to the part.
func (part *partial) isBusy() bool { return part.done != part.have.total }

// dropParts gives up what there is of the leaves [lo, hi).
func (t *tree) dropParts(lo, hi int64) {
	if len(t.parts) == 0 {
		return // as nearly always
	}
	if hi-lo > int64(len(t.parts)) {
		for index := range t.parts {
			if lo <= index && index < hi {
				t.dropPart(index)
			}
		}
		return
	}
	for ; lo < hi; lo++ {
		t.dropPart(lo)
	}
}

// without takes the bytes [from, to) out of a part. It tells whether the rest can stay:
// not if bytes are being copied, unless these are others, nor if there are too many
// pieces.
func (part *partial) without(t *tree, from, to int64) bool {
	if part.isBusy() {
		lo, hi := part.have.missing(from, to)
		return lo == from && hi == to
	}
	part.have.remove(from, to)
	t.partBytes.Add(part.have.total - part.done)
	part.done = part.have.total
	return part.done > 0 && part.have.ends.count <= t.maxPieces()
}

// forgetParts takes the bytes [lo, hi) out of partial leaves.
func (t *tree) forgetParts(lo, hi int64) {
	leaf := t.spec.leafSize
	first, end := lo/leaf, (hi-1)/leaf+1
	for _, index := range []int64{first, end - 1} {
		part := t.parts[index]
		if part == nil {
			continue
		}
		from, to := max(lo-index*leaf, 0), min(hi-index*leaf, int64(len(part.buf)))
		if part.without(t, from, to) {
			if index == first {
				first++
			} else {
				end--
			}
		}
	}
	t.dropParts(first, min(end, t.nodes.n))
}

func (t *tree) dropPart(index int64) {
	part := t.parts[index]
	if part == nil {
		return
	}
	delete(t.parts, index)
	t.partBytes.Add(-part.have.total)
	if part.isBusy() {
		part.void = true // the last thread that copies to it recycles it
	} else {
		t.recycle(part)
	}
}
