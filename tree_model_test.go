// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"sync"
	"testing"

	luke "lukechampine.com/blake3"
)

// The trees against their definitions, written down as plainly as can be.

func sha(parts ...[]byte) []byte {
	h := sha256.Sum256(bytes.Join(parts, nil))
	return h[:]
}

func blocks(image []byte, size int) (list [][]byte) {
	for len(image) > size {
		list, image = append(list, image[:size]), image[size:]
	}
	return append(list, image)
}

func pad(p []byte, size int) []byte { return append(bytes.Clone(p), make([]byte, size-len(p))...) }

// rfc9162 is MTH of the RFC over SHA-256.
func rfc9162(d [][]byte) []byte {
	if len(d) == 1 {
		return sha([]byte{0}, d[0])
	}
	k := 1
	for 2*k < len(d) {
		k *= 2
	}
	return sha([]byte{1}, rfc9162(d[:k]), rfc9162(d[k:]))
}

// verity hashes blocks level by level until one digest is left.
func verity(image []byte, size int, prefix []byte) []byte {
	level := blocks(image, size)
	for {
		var digests []byte
		for _, b := range level {
			digests = append(digests, sha(prefix, pad(b, size))...)
		}
		if len(digests) == sha256.Size {
			return digests
		}
		level = blocks(digests, size)
	}
}

var definitions = []struct {
	name string
	salt []byte
	sum  func(image []byte) []byte
}{
	{"blake3", nil, func(image []byte) []byte {
		h := luke.Sum256(image)
		return h[:]
	}},
	{"merkle/sha256/1k", nil, func(image []byte) []byte {
		if len(image) == 0 {
			return sha()
		}
		return rfc9162(blocks(image, 1024))
	}},
	{"blkhash/sha256/4k", nil, func(image []byte) []byte {
		var outer []byte
		for _, b := range blocks(image, 4096) {
			if len(b) > 0 {
				outer = append(outer, sha(b)...)
			}
		}
		return sha(outer, binary.LittleEndian.AppendUint64(nil, uint64(len(image))))
	}},
	{"fsverity/sha256/1k", []byte("salt"), func(image []byte) []byte {
		root := make([]byte, 32)
		if len(image) > 0 {
			root = verity(image, 1024, pad([]byte("salt"), 64))
		}
		d := append([]byte{1, 1, 10, 4, 0, 0, 0, 0}, binary.LittleEndian.AppendUint64(nil, uint64(len(image)))...)
		return sha(pad(append(append(d, pad(root, 64)...), pad([]byte("salt"), 32)...), 256))
	}},
	{"dmverity/sha256/512", []byte("salt"), func(image []byte) []byte {
		return verity(image, 512, []byte("salt"))
	}},
}

// sparse makes an image of data and zeros.
func sparse(r *rand.Rand, size int64) []byte {
	image := make([]byte, size)
	for range r.IntN(6) {
		lo := r.Int64N(size)
		copy(image[lo:], randomBytes(r, r.Int64N(size-lo+1)/2))
	}
	return image
}

// zerosIn returns a range of zeros from about at on.
func zerosIn(image []byte, at int64) (lo, hi int64) {
	lo = at
	for lo < int64(len(image)) && image[lo] != 0 {
		lo++
	}
	hi = lo
	for hi < int64(len(image)) && image[hi] == 0 {
		hi++
	}
	return lo, hi
}

func addZerosIn(tr *tree, image []byte, at int64) {
	lo, hi := zerosIn(image, at)
	tr.addZero(lo, hi, true)
}

// completed reads what a tree does not know yet.
func completed(tr *tree, image []byte) {
	size := int64(len(image))
	for lo, hi := tr.unknown(0, size); lo < hi; lo, hi = tr.unknown(0, size) {
		tr.add(lo, image[lo:hi], true)
	}
	tr.cutHoles(-1, func() bool { return false })
}

// Random reads, holes, writes and trims: the digest is that of the bytes that
// are there at the end.
func TestTreesEqualTheirDefinitions(t *testing.T) {
	t.Parallel()
	for _, d := range definitions {
		a, err := parseAlgorithm(d.name)
		if err != nil {
			t.Fatal(err)
		}
		for seed := range uint64(60) {
			r := rand.New(rand.NewPCG(seed, 20))
			size := 1 + r.Int64N([]int64{3000, 100000, 3 * mib}[seed%3])
			if a.multiple > 0 {
				size += (a.multiple - size%a.multiple) % a.multiple
			}
			image := sparse(r, size)
			limit := []int64{0, 2000, 64 * mib}[r.IntN(3)]
			tr := newTree(a.tree(d.salt), size, &budget{limit: []int64{0, mib}[r.IntN(2)]}, limit)
			if r.IntN(2) == 0 {
				tr.setWritable()
			}
			for range r.IntN(60) {
				lo := r.Int64N(size)
				hi := min(size, lo+r.Int64N(1+size/4))
				switch r.IntN(7) {
				case 0, 1:
					tr.add(lo, image[lo:hi], r.IntN(2) == 0)
				case 6:
					stageSome(tr, r, image)
				case 2:
					addZerosIn(tr, image, lo)
				case 3: // a write
					tr.forget(lo, hi)
					copy(image[lo:hi], randomBytes(r, hi-lo))
					tr.add(lo, image[lo:hi], false)
				case 4: // a zero
					tr.forget(lo, hi)
					clear(image[lo:hi])
					tr.addZero(lo, hi, true)
				case 5: // a failed write
					tr.forget(lo, hi)
				}
			}
			completed(tr, image)
			if !tr.complete() {
				t.Fatalf("%s, seed %d: not complete", d.name, seed)
			}
			if got, want := hex.EncodeToString(tr.sum()), hex.EncodeToString(d.sum(image)); got != want {
				t.Fatalf("%s, seed %d, %d bytes: %s, want %s", d.name, seed, size, got, want)
			}
		}
	}
}

// Several threads read and look for holes, another forgets, all at once.
func TestTreesAreRightWhateverThreadsDo(t *testing.T) {
	t.Parallel()
	for _, d := range definitions {
		a, _ := parseAlgorithm(d.name)
		for seed := range uint64(4) {
			r := rand.New(rand.NewPCG(seed, 21))
			size := int64(2*mib + 512*r.IntN(5000))
			image := sparse(r, size)
			tr := newTree(a.tree(d.salt), size, roomy(), 64*mib)
			if seed%2 == 0 {
				tr.setWritable()
			}
			var wg sync.WaitGroup
			for i := range uint64(4) {
				wg.Go(func() {
					r := rand.New(rand.NewPCG(seed, 30+i))
					for range 60 {
						lo := r.Int64N(size)
						hi := min(size, lo+r.Int64N(300000))
						switch {
						case i == 3:
							tr.forget(lo, min(hi, lo+20000))
						case r.IntN(3) == 0:
							addZerosIn(tr, image, lo)
						case r.IntN(2) == 0:
							stageSome(tr, r, image)
						default:
							tr.add(lo, image[lo:hi], false)
						}
					}
				})
			}
			wg.Wait()
			completed(tr, image)
			if got, want := hex.EncodeToString(tr.sum()), hex.EncodeToString(d.sum(image)); got != want {
				t.Fatalf("%s, seed %d, %d bytes: %s, want %s", d.name, seed, size, got, want)
			}
		}
	}
}

// A small overwrite of a writable image makes at most 1 MiB unknown, and
// nothing of the holes beside it.
func TestOverwriteLosesLittle(t *testing.T) {
	const size = 64 * mib
	for _, name := range []string{"blake3", "merkle/sha256/64k", "fsverity/sha256/4k", "dmverity/sha256/4k", "blkhash/sha256/64k"} {
		a, _ := parseAlgorithm(name)
		tr := newTree(a.tree(nil), size, roomy(), 64*mib)
		tr.setWritable()
		data := randomBytes(rand.New(rand.NewPCG(1, 1)), mib)
		for lo := int64(0); lo < size/2; lo += mib {
			tr.add(lo, data, false)
		}
		tr.addZero(size/2, size, true)
		if tr.forget(5*mib+100, 5*mib+200); tr.known() < size-mib {
			t.Errorf("%s: %d bytes are unknown after 100 bytes of data were overwritten", name, size-tr.known())
		}
		before := tr.known()
		if tr.forget(50*mib+100, 50*mib+200); tr.known() < before-mib {
			t.Errorf("%s: %d bytes are unknown after 100 bytes of a hole were overwritten", name, before-tr.known())
		}
	}
}

// Whatever the order of reads, the nodes stay within their limit, and what is
// dropped is not lost: it is read again.
func TestNodesStayWithinTheirMemory(t *testing.T) {
	const size, limit = 64 << 30, 2 * mib
	for _, name := range []string{"blake3", "merkle/blake3/4k", "fsverity/sha256/4k", "dmverity/sha512/512", "blkhash/sha256/4k"} {
		a, _ := parseAlgorithm(name)
		tr := newTree(a.tree(nil), size, roomy(), limit)
		r := rand.New(rand.NewPCG(9, 9))
		block := randomBytes(r, 4096)
		for range 100_000 {
			tr.add(r.Int64N(size/4096)*4096, block, false)
		}
		tr.mu.Lock()
		used := tr.nodes.memory() + tr.taken.ends.memory()
		tr.mu.Unlock()
		if used > limit+limit/8 {
			t.Errorf("%s: the nodes take %d bytes, want at most %d", name, used, limit)
		}
		if used < limit/2 {
			t.Errorf("%s: the nodes take %d bytes only, the test shows nothing", name, used)
		}
	}
}

// A sink is told of every leaf, and of the nodes above them.
func TestSinkSeesEveryNode(t *testing.T) {
	const size = 3*mib + 512
	image := sparse(rand.New(rand.NewPCG(3, 3)), size)
	for name, step := range map[string]int64{"dmverity/sha256/512": 70000, "merkle/sha256/1k": cellSize} {
		a, _ := parseAlgorithm(name)
		tr := newTree(a.tree(nil), size, roomy(), 64*mib)
		seen := &countingSink{size: tr.spec.cvSize}
		tr.sink = seen
		for lo := int64(0); lo < size; lo += step {
			tr.add(lo, image[lo:min(size, lo+step)], false)
		}
		n := tr.nodes.n
		for level := range tr.spec.levels(n) {
			want := n >> (tr.spec.arityBits * level) // those that are complete
			if seen.count[level] != want {
				t.Errorf("%s: %d nodes of level %d were told of, want %d", name, seen.count[level], level, want)
			}
		}
	}
}

type countingSink struct {
	size  int
	count [maxLevels]int64
}

func (s *countingSink) completed(level int, first int64, cvs []byte) {
	s.count[level] += int64(len(cvs) / s.size)
}

// Random entries of the table of zeros are what hashing zeros gives.
func TestTableOfZeros(t *testing.T) {
	r := rand.New(rand.NewPCG(uint64(len(blake3Zeros)), 4))
	start := int64(0)
	entries := 0
	for _, region := range zeroTable {
		if start%region.step != 0 || region.end%region.step != 0 {
			t.Fatalf("a region from %d to %d has steps of %d", start, region.end, region.step)
		}
		for i := range 3 {
			if testing.Short() && region.step > 16*mib {
				break
			}
			offset := start + r.Int64N((region.end-start)/region.step)*region.step
			if i == 0 {
				offset = region.end - region.step
			}
			var want [32]byte
			hashedZeros(want[:], offset/1024, region.step)
			if got := blake3ZeroEntry(offset); !bytes.Equal(got, want[:]) {
				t.Fatalf("the entry for %d bytes at %d is %x, want %x", region.step, offset, got, want)
			}
		}
		entries += int((region.end - start) / region.step)
		start = region.end
	}
	if len(blake3Zeros) != 32*entries {
		t.Fatalf("the table has %d bytes for %d entries", len(blake3Zeros), entries)
	}
}

// An ext4 of 4 TiB has data every 2 GiB, if only a block: the table is fine enough for
// most of the zeros between.
func TestTableIsFineEnoughForExt4(t *testing.T) {
	const gib, size = 1 << 30, 4 << 40
	tr := newTree(&blake3Spec, size, roomy(), mib)
	leaf := tr.spec.leafSize
	for _, c := range []struct{ lo, hi, share int64 }{{0, 128 * gib, 512}, {128 * gib, 1024 * gib, 128}, {1024 * gib, size, 16}} {
		hashed := int64(0)
		for at := c.lo; at < c.hi; at += 2 * gib {
			hashed += tr.holeCost((at+4096)/leaf, (at+2*gib)/leaf, size)
		}
		if most := (c.hi - c.lo) / c.share; hashed > most {
			t.Errorf("%d GiB of zeros from %d to %d GiB are hashed, want at most %d", hashed/gib, c.lo/gib, c.hi/gib, most/gib)
		}
	}
}

func hashedZeros(cv []byte, first, size int64) {
	if size <= int64(len(zeroes)) {
		blake3Subtree(cv, zeroes[:size], first)
		return
	}
	var children [64]byte
	hashedZeros(children[:32], first, size/2)
	hashedZeros(children[32:], first+size/2048, size/2)
	blake3ParentCV(cv, children[:])
}

// An image of one hole has the digest of zeros, at the cost of its logarithm.
func TestHugeHoleIsQuick(t *testing.T) {
	for _, name := range []string{"blake3", "merkle/sha512/64k", "fsverity/sha512/4k", "dmverity/sha256/4k"} {
		a, _ := parseAlgorithm(name)
		size := int64(8 << 40)
		tr := newTree(a.tree(nil), size, roomy(), 64*mib)
		for lo := int64(0); lo < size; lo += 4<<30 - 65536 {
			tr.addZero(lo, min(size, lo+4<<30-65536), true) // as clients ask for extents
		}
		if !tr.complete() {
			t.Fatalf("%s is not complete", name)
		}
		tr.sum()
	}
}
