// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"encoding/binary"
	"hash"

	"github.com/zeebo/blake3"

	"nbdkit-digest-filter/nbdkit"
)

// Notes on blkhash
//
// Its outer hash is linear over the chaining values of all leaves, so nothing
// merges, and 1 TiB of data would leave 512 MiB of them. So the values at the
// start of the image are folded into the hash as soon as they are known. What
// was folded cannot be taken out again: if one of its leaves is forgotten, all
// of it is. On a writable image nothing is folded as long as there is memory.

// outer is the state of such a hash. It is guarded by its tree's lock, but for
// the hash, which the thread that has set busy uses.
type outer struct {
	spec   *treeSpec
	hash   hash.Hash
	folded int64 // leaves
	end    int64 // leaves that are folded, or being folded
	busy   bool
	stale  bool // forgotten meanwhile: begin anew

	// limit is how many bytes of nodes there may be before any is folded.
	limit int64

	buf   []byte // chaining values that are being folded
	zeros int64  // or so many leaves of zeros
}

const (
	// foldMin is how many chaining values are worth a thread's attention.
	foldMin = 64
	// foldZeros is how many chaining values of zeros are hashed at a time.
	foldZeros = 2048
	// foldPiece is how many of a hole are folded before signals are looked at.
	foldPiece = 1 << 20
)

func newOuter(spec *treeSpec) *outer { return &outer{spec: spec, hash: spec.outer.new()} }

// isReady tells whether all is folded, but for what is left to the end.
func (o *outer) isReady(leaves int64) bool {
	return !o.busy && (o.limit > 0 || leaves-o.folded < foldMin)
}

// fold hashes the chaining values at the start of the image, if there are
// enough of them and no other thread does. A second signal ends that. A tree without
// an outer hash has nothing to fold.
func (t *tree) fold() {
	for t.outer != nil && !nbdkit.Hurried() && t.takeFold() {
		o := t.outer
		o.hash.Write(o.buf)
		writeZeros(o.hash, o, o.zeros)
		t.endFold()
	}
}

func writeZeros(h hash.Hash, o *outer, n int64) {
	for n > 0 {
		k := min(n, foldZeros)
		h.Write(o.spec.outerZeros[:int(k)*o.spec.cvSize])
		n -= k
	}
}

// foldLast folds what is left, if all is known: whoever waits for the digest counts on it.
func (t *tree) foldLast() {
	if t.known() == t.size {
		t.fold()
	}
}

// takeFold takes what is to be folded next out of the nodes.
func (t *tree) takeFold() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	o := t.outer
	if o.busy || t.nodes.memory() < o.limit {
		return false
	}
	o.buf, o.zeros = o.buf[:0], 0
	if p, ok := t.nodes.holes.ends.floor(o.folded); ok && t.nodes.holes.ends.key(p) == o.folded {
		o.end = min(*t.nodes.holes.ends.val(p), o.folded+foldPiece)
		o.zeros = o.end - o.folded
		t.nodes.holes.remove(o.folded, o.end)
	} else if p, ok := t.nodes.runs.floor(o.folded); ok && t.nodes.runs.key(p) == o.folded {
		r := t.nodes.runs.val(p)
		count, _ := t.nodes.runLen(r)
		if count < foldMin && !t.nodes.begins(o.folded+count) {
			return false // it may grow
		}
		o.buf = append(o.buf, r.cvs...)
		o.end = o.folded + count
		t.nodes.cut(p, 0, int64(len(r.cvs)))
	} else {
		return false
	}
	o.busy = true
	return true
}

func (t *tree) endFold() {
	t.mu.Lock()
	defer t.mu.Unlock()
	o := t.outer
	o.busy = false
	if o.stale {
		o.stale = false
		o.hash.Reset()
		return
	}
	o.folded = o.end
}

// forget begins anew if leaves from first on are folded. It returns the end of
// what is unknown by that.
func (o *outer) forget(first int64) (end int64) {
	if first >= max(o.folded, o.end) {
		return 0
	}
	end = max(o.folded, o.end)
	o.folded, o.end = 0, 0
	if o.busy {
		o.stale = true
	} else {
		o.hash.Reset()
	}
	return end
}

// sum returns the digest of an image of which all is folded or in nodes.
func (o *outer) sum(t *nodes, size int64) []byte {
	h := cloneHash(o.hash)
	for at := o.folded; at < t.n; {
		if p, ok := t.holes.ends.floor(at); ok && t.holes.ends.key(p) == at {
			end := *t.holes.ends.val(p)
			writeZeros(h, o, end-at)
			at = end
			continue
		}
		p, ok := t.runs.floor(at)
		if !ok || t.runs.key(p) != at {
			panic("digest of an image with unknown leaves")
		}
		r := t.runs.val(p)
		if size == 0 {
			break // its one leaf is empty, and does not count
		}
		h.Write(r.cvs)
		count, _ := t.runLen(r)
		at += count
	}
	h.Write(binary.LittleEndian.AppendUint64(nil, uint64(size)))
	return h.Sum(nil)
}

// cloneHash copies the state of a hash.
func cloneHash(h hash.Hash) hash.Hash {
	switch h := h.(type) {
	case *blake3.Hasher:
		return h.Clone()
	case hash.Cloner:
		c, err := h.Clone()
		if err != nil {
			panic(err)
		}
		return c
	}
	panic("a hash that cannot be cloned")
}
