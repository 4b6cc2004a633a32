// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// stageSome reads here and there, a few leaves at a time.
func stageSome(tr *tree, r *rand.Rand, image []byte) {
	unit, size := tr.spec.leafSize, int64(len(image))
	if r.IntN(2) == 0 {
		unit = max(unit, cellSize)
	}
	for range r.IntN(100) {
		lo := r.Int64N(size/unit+1) * unit
		hi := min(size, lo+(1+r.Int64N(8))*unit)
		if !tr.stage(lo, image[lo:hi]) {
			tr.add(lo, image[lo:hi], false)
		}
	}
}

// Several threads read all of an image in small requests, some of it twice: the
// one that ends last finds the tree complete.
func TestSmallRequestsCompleteATree(t *testing.T) {
	t.Parallel()
	for _, d := range definitions {
		a, _ := parseAlgorithm(d.name)
		leaf := a.tree(d.salt).leafSize
		for seed, leaves := range []int64{1, 2, 3, 4, 15, 16, 17, 64, 65, 127, 1000, 2048} {
			r := rand.New(rand.NewPCG(uint64(seed), 40))
			size := leaves * leaf
			if a.multiple == 0 && seed%3 == 2 {
				size -= leaf / 3
			}
			image := sparse(r, size)
			tr := newTree(a.tree(d.salt), size, roomy(), 64*mib)
			var wg sync.WaitGroup
			const threads = 4
			last := make(chan bool, threads)
			for i := range int64(threads) {
				order := r.Perm(int(leaves))
				wg.Go(func() {
					for _, j := range order {
						if j%5 != 0 && int64(j)%threads != i {
							continue
						}
						lo := int64(j) * leaf
						hi := min(size, lo+leaf)
						if !tr.stage(lo, image[lo:hi]) {
							tr.add(lo, image[lo:hi], false)
						}
						tr.flushLast()
					}
					last <- tr.complete()
				})
			}
			wg.Wait()
			close(last)
			complete := false
			for ok := range last {
				complete = complete || ok
			}
			if !complete {
				t.Errorf("%s of %d leaves: no thread found it complete", d.name, leaves)
				continue
			}
			if got, want := hex.EncodeToString(tr.sum()), hex.EncodeToString(d.sum(image)); got != want {
				t.Errorf("%s of %d leaves: %s, want %s", d.name, leaves, got, want)
			}
		}
	}
}

// What is overwritten while it is on a stage is unknown.
func TestOverwriteOfStagedLeaves(t *testing.T) {
	for _, d := range definitions {
		a, _ := parseAlgorithm(d.name)
		r := rand.New(rand.NewPCG(5, 41))
		leaf := a.tree(d.salt).leafSize
		size := 64 * leaf
		image := randomBytes(r, size)
		tr := newTree(a.tree(d.salt), size, roomy(), 64*mib)
		if tr.spec.together == nil {
			continue
		}
		for lo := int64(0); lo < 10*leaf; lo += leaf {
			if !tr.stage(lo, image[lo:lo+leaf]) {
				t.Fatalf("%s: a leaf at %d is not staged", d.name, lo)
			}
		}
		if tr.known() != 0 {
			t.Fatalf("%s: %d bytes are known before the stage is full: this test shows nothing", d.name, tr.known())
		}
		copy(image[3*leaf+1:], "new")
		tr.forget(3*leaf+1, 3*leaf+4)
		if lo, hi := tr.unknown(0, size); lo != 3*leaf || hi != 4*leaf {
			t.Errorf("%s: [%d, %d) is unknown, want leaf 3", d.name, lo, hi)
		}
		completed(tr, image)
		if got, want := tr.sum(), d.sum(image); !bytes.Equal(got, want) {
			t.Errorf("%s: %x, want %x", d.name, got, want)
		}
	}
}

// When all stages wait for threads that copy to them, or there is no memory for
// one, leaves are for add.
func TestStagesAreBounded(t *testing.T) {
	a, _ := parseAlgorithm("fsverity/sha256/4k")
	for memory, want := range map[int64]int{0: 0, stageSize: 0, 4 * mib: 4, 64 * mib: maxStages} {
		tr := newTree(a.tree(nil), 64*mib, &budget{limit: memory}, 64*mib)
		got := 0
		for ; got <= maxStages; got++ {
			s, _ := tr.stages.reserve(tr.memory, 0, 1, 4096)
			if s == nil {
				break
			}
			tr.stages.shut()
		}
		if got != want {
			t.Errorf("%d stages in %d bytes, want %d", got, memory, want)
		}
	}
}

// Stages that nobody uses give their memory back.
func TestStagesAreDropped(t *testing.T) {
	a, _ := parseAlgorithm("blkhash/sha256/4k")
	tr := newTree(a.tree(nil), mib, roomy(), 64*mib)
	if !tr.stage(0, make([]byte, 8192)) {
		t.Skip("this processor hashes one at a time")
	}
	if used := tr.memory.used.Load(); used != stageSize {
		t.Errorf("a stage takes %d bytes, want %d", used, stageSize)
	}
	for i := range int64(2 * maxStages) {
		tr.dropSpare()
		if used, known := tr.memory.used.Load(), tr.known(); used != 0 || known != (i+1)*8192 {
			t.Errorf("%d bytes are still taken, %d are known, want 0 and %d", used, known, (i+1)*8192)
		}
		if !tr.stage((i+1)*8192, make([]byte, 8192)) {
			t.Fatalf("no stage is made after %d were dropped", i+1)
		}
	}
}

// What is on a stage is hashed in the stage's own memory, however small the leaves.
func TestClaimsOfAStageTakeNoMemory(t *testing.T) {
	tr := newTree(treeOf(t, "dmverity/sha256/512"), mib, roomy(), 64*mib)
	if !tr.stage(0, make([]byte, 8192)) || !tr.stage(mib/2, make([]byte, 8192)) {
		t.Skip("this processor hashes one at a time")
	}
	tr.flush()
	if len(tr.spareClaims) == 0 {
		t.Fatal("no claim was made")
	}
	if len(tr.stages.live) > 0 {
		t.Error("a stage whose leaves are claimed is listed for good")
	}
	for _, c := range tr.spareClaims {
		if c.cvs != nil {
			t.Fatalf("a claim has taken %d bytes", len(c.cvs))
		}
	}
}

// The request with which a tree may be complete waits for one that still copies.
func TestLastSmallRequestWaitsForTheOthers(t *testing.T) {
	spec := treeOf(t, "fsverity/sha256/4k")
	if spec.together == nil {
		t.Skip("this processor hashes one at a time")
	}
	image := randomBytes(rand.New(rand.NewPCG(5, 43)), 8*4096)
	tr := newTree(spec, int64(len(image)), roomy(), 64*mib)
	slow, at := tr.stages.reserve(tr.memory, 0, 1, 4096)
	if !tr.stage(4096, image[4096:4*4096]) || !tr.stage(4*4096, image[4*4096:]) {
		t.Fatal("leaves are not staged")
	}
	done := make(chan bool)
	go func() {
		tr.flushLast()
		done <- tr.complete()
	}()
	time.Sleep(20 * time.Millisecond)
	copy(slow.buf[at:], image[:4096])
	tr.filled(slow)
	if !<-done {
		t.Error("the tree is not complete after the last request")
	}
}

// Of a request, some leaves may be known.
func TestStagedLeavesOfWhichSomeAreKnown(t *testing.T) {
	for _, d := range definitions {
		a, _ := parseAlgorithm(d.name)
		tree := a.tree(d.salt)
		for _, known := range [][2]int64{{0, 1}, {1, 2}, {1, 3}, {3, 4}, {0, 4}} {
			image := randomBytes(rand.New(rand.NewPCG(5, 44)), 64*tree.leafSize)
			tr := newTree(tree, int64(len(image)), roomy(), 64*mib)
			lo, hi := (8+known[0])*tree.leafSize, (8+known[1])*tree.leafSize
			tr.add(lo, image[lo:hi], false)
			for first := int64(0); first < 64; first += 4 {
				lo, hi := first*tree.leafSize, (first+4)*tree.leafSize
				if !tr.stage(lo, image[lo:hi]) {
					tr.add(lo, image[lo:hi], false)
				}
			}
			tr.flushLast()
			if got, want := tr.sum(), d.sum(image); !bytes.Equal(got, want) {
				t.Errorf("%s, leaves %v of 4 known: %x, want %x", d.name, known, got, want)
			}
		}
	}
}

// A client whose last bytes are on a stage waits for the verdict while another
// one's are being hashed.
func TestVerdictWaitsForWhatIsOnAStage(t *testing.T) {
	const size = 8 * mib
	for _, unread := range []string{"late", "early"} {
		for _, slow := range []int64{mib / 2, 3 * mib} {
			for _, digest := range []string{"blake3", "merkle/sha256/4k", "blkhash/sha256/4k"} {
				im, c := newTestImage(t, size, "digest", digest, "digest-unread", unread)
				expectZeros(t, im, digest)
				logError = func(string, ...any) {}
				tr := im.trees[0]
				other := tr.take(0, slow/tr.spec.leafSize, true)
				c.read(slow, size-3*stagedMax)
				for at := int64(size - 3*stagedMax); at < size; at += stagedMax {
					c.read(at, at+stagedMax)
				}
				verdict := make(chan error)
				go func() { verdict <- im.verdict() }()
				select {
				case err := <-verdict:
					t.Errorf("%s, %s: the verdict is %v before the digest is known, %d bytes are on a stage",
						unread, digest, err, tr.stages.bytes.Load())
					tr.hash(other, c.layer.bytes[:slow])
				case <-time.After(20 * time.Millisecond):
					tr.hash(other, c.layer.bytes[:slow])
					im.settle()
					if err := <-verdict; err != errMismatch {
						t.Errorf("%s, %s: the verdict is %v", unread, digest, err)
					}
				}
				im.end()
			}
		}
	}
}

// slowSink lets a thread that has a node of a level wait.
type slowSink struct {
	level       int
	there, rest chan struct{}
}

func (s *slowSink) completed(level int, first int64, cvs []byte) {
	if level == s.level {
		s.there <- struct{}{}
		<-s.rest
	}
}

// The last leaves are on a stage, a query has them hashed, and the request that
// has brought them takes the digest all the same.
func TestQueryThatHashesTheLastStage(t *testing.T) {
	const size = 64 << 10
	im, c := newTestImage(t, size, "digest", "blake3")
	tr := im.trees[0]
	c.read(0, size-stagedMax)
	im.snapshot()
	im.touch()
	sink := &slowSink{5, make(chan struct{}), make(chan struct{})}
	tr.sink = sink
	ticket := im.beginRead(c.cursor, size-stagedMax, size)
	im.answered(ticket)
	if !tr.stage(size-stagedMax, c.layer.bytes[size-stagedMax:]) {
		t.Skip("leaves are not hashed together here")
	}
	query, request := make(chan result), make(chan struct{})
	go func() { query <- im.snapshot() }()
	<-sink.there
	go func() { im.settle(); im.unlist(ticket); close(request) }()
	select {
	case <-request:
	case <-time.After(20 * time.Millisecond):
	}
	sink.rest <- struct{}{}
	<-query
	<-request
	if r := im.snapshot(); r.State != complete {
		t.Errorf("all is known, nobody is at work, and the state is %s", r.State)
	}
}

// A client that goes has what is left on a stage hashed, while nbdkit ends: all is
// taken, and the end pass waits for it.
func TestEndPassWaitsForThreadsThatHash(t *testing.T) {
	const size = 2 * mib
	for _, digest := range []string{"blake3", "merkle/sha256/4k", "blkhash/sha256/4k"} {
		im, c := newTestImage(t, size, "digest", digest, "digest-unread", "late")
		tr := im.trees[0]
		other := tr.take(0, 64, true)
		c.read(64*tr.spec.leafSize, size)
		hashed := background(t, func() {
			time.Sleep(20 * time.Millisecond)
			tr.hash(other, c.layer.bytes[:64*tr.spec.leafSize])
		})
		pass := endPass{im: im, next: c.layer, interrupted: never}
		if err := pass.run(1); err != nil {
			t.Error(err)
		}
		if !im.done.Load() {
			t.Errorf("%s: the pass ends, and the state is %s", digest, im.snapshot().State)
		}
		hashed()
	}
}

// Bytes that begin within a leaf are for no stage, though they are as many as leaves have.
func TestNoStageForPartsOfLeaves(t *testing.T) {
	for _, d := range definitions {
		a, _ := parseAlgorithm(d.name)
		spec := a.tree(d.salt)
		image := randomBytes(rand.New(rand.NewPCG(5, 45)), 64*spec.leafSize)
		tr := newTree(spec, int64(len(image)), roomy(), 64*mib)
		at := spec.leafSize / 2
		if tr.stage(at, image[at:at+spec.leafSize]) {
			t.Errorf("%s: the halves of two leaves are on a stage", d.name)
		}
		completed(tr, image)
		if got, want := tr.sum(), d.sum(image); !bytes.Equal(got, want) {
			t.Errorf("%s: %x, want %x", d.name, got, want)
		}
	}
}
