// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
)

const mib = 1 << 20

// request is a piece of an image that is handed to a digest.
type request struct{ lo, hi int64 }

// orders are ways to read an image of size bytes.
var orders = []struct {
	name     string
	requests func(r *rand.Rand, size int64) []request
}{
	{"in order", func(r *rand.Rand, size int64) []request {
		return pieces(size, func() int64 { return 256 << 10 })
	}},
	{"backwards", func(r *rand.Rand, size int64) []request {
		out := pieces(size, func() int64 { return 64 << 10 })
		for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
			out[i], out[j] = out[j], out[i]
		}
		return out
	}},
	{"shuffled and unaligned", func(r *rand.Rand, size int64) []request {
		out := pieces(size, func() int64 { return 1 + r.Int64N(max(1, min(size/3, 100000))) })
		r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
		return out
	}},
	{"overlapping", func(r *rand.Rand, size int64) []request {
		var out []request
		for range 50 {
			lo := r.Int64N(size + 1)
			out = append(out, request{lo, min(size, lo+r.Int64N(size/5+2))})
		}
		out = append(out, pieces(size, func() int64 { return 1 + r.Int64N(300000) })...)
		r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
		return out
	}},
}

func pieces(size int64, length func() int64) (out []request) {
	for lo := int64(0); lo < size; {
		hi := min(size, lo+length())
		out = append(out, request{lo, hi})
		lo = hi
	}
	return out
}

// inParallel calls f for every request, from several goroutines.
func inParallel(threads int, requests []request, f func(request)) {
	var wg sync.WaitGroup
	ch := make(chan request)
	for range threads {
		wg.Go(func() {
			for r := range ch {
				f(r)
			}
		})
	}
	for _, r := range requests {
		ch <- r
	}
	close(ch)
	wg.Wait()
}

func roomy() *budget { return &budget{limit: 64 * mib} }

// treeOf returns the spec of a digest as testdata names it, with " salt" behind
// it if it is salted; nil if it is no tree.
func treeOf(t testing.TB, name string) *treeSpec {
	t.Helper()
	name, salted := strings.CutSuffix(name, " salt")
	a, err := parseAlgorithm(name)
	if err != nil {
		t.Fatal(err)
	}
	if a.tree == nil {
		return nil
	}
	if salted {
		return a.tree(vectorSalt(t))
	}
	return a.tree(nil)
}

func TestTreesEqualTheReferenceToolsInAnyOrder(t *testing.T) {
	compared := make(map[string]int)
	for _, v := range vectors(t) {
		if v.Size > 70*mib || testing.Short() && v.Size > 4*mib {
			continue
		}
		image := v.bytes()
		for name, want := range v.Digests {
			spec := treeOf(t, name)
			if spec == nil {
				continue
			}
			for i, order := range orders {
				if v.Size > 4*mib && i != compared[name]%len(orders) {
					continue // one order for each of the large ones
				}
				tr := newTree(spec, v.Size, roomy(), 64*mib)
				requests := order.requests(rand.New(rand.NewPCG(1, uint64(i))), v.Size)
				inParallel(4, requests, func(r request) { tr.add(r.lo, image[r.lo:r.hi], false) })
				if !tr.complete() {
					lo, hi := tr.unknown(0, v.Size)
					t.Fatalf("%s of %s read %s: [%d, %d) is unknown", name, v.Name, order.name, lo, hi)
				}
				if got := hex.EncodeToString(tr.sum()); got != want {
					t.Fatalf("%s of %s read %s is %s, want %s", name, v.Name, order.name, got, want)
				}
				tr.dropSpare()
				if used := tr.memory.used.Load(); used != 0 {
					t.Fatalf("%s of %s read %s: %d bytes are still buffered", name, v.Name, order.name, used)
				}
			}
			compared[name]++
		}
	}
	if len(compared) != 14 {
		t.Fatalf("%d kinds of trees were compared, want 14", len(compared))
	}
}

// What is forgotten is unknown, is read again, and with other bytes gives
// another digest: that of the bytes that were read last.
func TestForgottenBytesAreReadAgain(t *testing.T) {
	t.Parallel()
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 7))
		size := 1 + r.Int64N(2*mib)
		image := make([]byte, size)
		tr := newTree(&blake3Spec, size, roomy(), 64*mib)
		if r.IntN(2) == 0 {
			tr.nodes.maxLevel = min(tr.nodes.maxLevel, 6)
		}
		for range 200 {
			lo := r.Int64N(size)
			hi := min(size, lo+1+r.Int64N(1+r.Int64N(size)))
			if r.IntN(3) > 0 {
				tr.add(lo, image[lo:hi], false)
				continue
			}
			copy(image[lo:hi], randomBytes(r, hi-lo))
			tr.forget(lo, hi)
			for at := lo; at < hi; {
				a, b := tr.unknown(at, hi)
				if a != at || a == b {
					t.Fatalf("seed %d: [%d, %d) was forgotten, and %d is known", seed, lo, hi, at)
				}
				at = b
			}
		}
		for lo := int64(0); lo < size; {
			a, b := tr.unknown(lo, size)
			if a < b {
				tr.add(a, image[a:b], false)
			}
			lo = b
		}
		fresh := newTree(&blake3Spec, size, roomy(), 64*mib)
		fresh.add(0, image, false)
		if got, want := hex.EncodeToString(tr.sum()), hex.EncodeToString(fresh.sum()); got != want {
			t.Fatalf("seed %d: digest is %s, want %s", seed, got, want)
		}
	}
}

// Forgetting and adding at the same time, on the same bytes: whatever wins,
// the result is unknown or right.
func TestForgettingDuringHashingIsSafe(t *testing.T) {
	const size = 3*mib + 123
	image := make([]byte, size)
	want := newTree(&blake3Spec, size, roomy(), 64*mib)
	want.add(0, image, false)
	tr := newTree(&blake3Spec, size, roomy(), 64*mib)
	r := rand.New(rand.NewPCG(3, 3))
	var requests []request
	for range 3000 {
		lo := r.Int64N(size)
		requests = append(requests, request{lo, min(size, lo+1+r.Int64N(200000))})
	}
	inParallel(8, requests, func(r request) {
		if r.lo%4 == 0 {
			tr.forget(r.lo, r.hi)
		} else {
			tr.add(r.lo, image[r.lo:r.hi], false)
		}
	})
	for {
		a, b := tr.unknown(0, size)
		if a == b {
			break
		}
		tr.add(a, image[a:b], false)
	}
	if len(tr.claims) != 0 || tr.pending != 0 {
		t.Fatalf("%d claims on %d leaves are left", len(tr.claims), tr.pending)
	}
	if got, want := hex.EncodeToString(tr.sum()), hex.EncodeToString(want.sum()); got != want {
		t.Fatalf("digest is %s, want %s", got, want)
	}
}

// An in-order copy keeps a handful of nodes, whatever the image's size.
func TestNodesOfAnInOrderCopyAreFew(t *testing.T) {
	const size = 64 * mib
	tr := newTree(&blake3Spec, size, roomy(), 64*mib)
	block := make([]byte, 64<<10)
	most := 0
	for lo := int64(0); lo < size; lo += int64(len(block)) {
		tr.add(lo, block, false)
		count := 0
		for p, ok := tr.nodes.runs.from(0); ok; p, ok = tr.nodes.runs.next(p) {
			n, _ := tr.nodes.runLen(tr.nodes.runs.val(p))
			count += int(n)
		}
		most = max(most, count)
	}
	if limit := tr.spec.levels(tr.nodes.n); most > limit {
		t.Fatalf("%d nodes were kept at a time, want at most %d", most, limit)
	}
}

func TestAddAllocatesNothing(t *testing.T) {
	const size = 1 << 40
	block := randomBytes(rand.New(rand.NewPCG(1, 9)), 256<<10)
	// The parents of others take a hash from a pool, which forgets some of them
	// under the race detector.
	for _, name := range []string{"blake3", "fsverity/sha256/4k"} {
		tr := newTree(treeOf(t, name), size, roomy(), 64*mib)
		offset := int64(0)
		allocs := testing.AllocsPerRun(500, func() {
			tr.add(offset, block, false)
			offset += int64(len(block))
		})
		if allocs >= 1 {
			t.Errorf("%s: %.1f allocations for a request of 256 KiB, want none", name, allocs)
		}
	}
}

func BenchmarkBlake3Tree(b *testing.B) {
	block := make([]byte, 256<<10)
	tr := newTree(&blake3Spec, 1<<60, roomy(), 64*mib)
	b.SetBytes(int64(len(block)))
	for i := 0; b.Loop(); i++ {
		tr.add(int64(i)*int64(len(block)), block, false)
	}
}

// A leaf is overwritten while a thread hashes its parent, whose children are out of the
// list of nodes.
func TestOverwriteWhileTheParentIsHashed(t *testing.T) {
	for _, name := range []string{"blake3", "merkle/sha256/4k"} {
		spec := treeOf(t, name)
		leaf := spec.leafSize
		image := randomBytes(rand.New(rand.NewPCG(1, 94)), 8*leaf)
		tr := newTree(spec, 8*leaf, roomy(), 64*mib)
		tr.add(0, image[:leaf], false)
		c, cv := tr.take(1, 2, false), make([]byte, spec.cvSize)
		if spec.subtree != nil {
			spec.subtree(cv, image[leaf:2*leaf], 1)
		} else {
			spec.leaf(cv, image[leaf:2*leaf])
		}
		if merge, _ := tr.store(c, 0, 1, 2, cv); !merge {
			t.Fatal("the parent is not hashed: this test shows nothing")
		}
		tr.forget(0, 1)
		image[0]++
		spec.parent(c.merged, c.children)
		tr.store(c, 1, c.carryLo, 2, c.merged)
		completed(tr, image)
		if got, want := fmt.Sprintf("%x", tr.sum()), sumOf(spec, image); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// Leaves are overwritten while their values go into an outer hash.
func TestOverwriteOfWhatIsBeingFolded(t *testing.T) {
	spec := treeOf(t, "blkhash/sha256/4k")
	image := randomBytes(rand.New(rand.NewPCG(1, 93)), mib)
	for i := range 4 {
		folded, early := i&1 != 0, i&2 != 0 // the hash has not got the values yet
		tr := newTree(spec, mib, roomy(), 64*mib)
		if folded {
			tr.add(0, image[:mib/2], true)
		}
		tr.outer.limit = 1 << 40
		tr.add(0, image[:mib-4096], true)
		tr.outer.limit = 0
		if !tr.takeFold() {
			t.Fatal("there is nothing to fold")
		}
		at := int64(3 * 4096)
		if early {
			tr.forget(at, at+10)
		}
		tr.outer.hash.Write(tr.outer.buf)
		if !early {
			tr.forget(at, at+10)
		}
		image[at]++
		tr.endFold()
		completed(tr, image)
		if got, want := fmt.Sprintf("%x", tr.sum()), sumOf(spec, image); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// sumOf is the digest of an image that is read at once.
func sumOf(spec *treeSpec, image []byte) string {
	tr := newTree(spec, int64(len(image)), roomy(), 64*mib)
	tr.add(0, image, true)
	return fmt.Sprintf("%x", tr.sum())
}

// A run that grows beyond its page finds no buffer of its size.
func TestRunsStayWithinTheirPage(t *testing.T) {
	spec := treeOf(t, "dmverity/sha256/512k")
	n := newNodes(spec, 1<<20)
	page := int64(1) << n.pageBits()
	for i := range int64(2) {
		n.put(0, i*page, make([]byte, page*int64(spec.cvSize)))
	}
	if n.runs.count != 2 || n.bytes != 2*spec.cvSize<<n.pageBits() {
		t.Errorf("two pages of nodes are %d runs of %d bytes", n.runs.count, n.bytes)
	}
}

// What is being hashed is covered, and not known yet.
func TestWhatIsBeingHashedIsNotKnown(t *testing.T) {
	tr := newTree(&blake3Spec, mib, roomy(), 64*mib)
	tr.take(0, 64, true)
	if known, covered := tr.known(), tr.covered.Load(); known != 0 || covered != 64*tr.spec.leafSize {
		t.Errorf("%d bytes are known, %d covered", known, covered)
	}
}
