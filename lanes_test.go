// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"crypto/sha256"
	"iter"
	"math/rand/v2"
	"testing"

	"github.com/zeebo/blake3"
	"lukechampine.com/blake3/guts"
)

// Whatever the processor has, leaves hashed together are what they are alone.
func TestLeavesSideBySideAreHashedAsAlone(t *testing.T) {
	defer func(a, s bool) { haveAVX512, haveSHA = a, s }(haveAVX512, haveSHA)
	avx512, sha := haveAVX512, haveSHA
	r := rand.New(rand.NewPCG(7, 1))
	if !avx512 && !sha {
		t.Skip("this processor hashes one at a time")
	}
	for _, has := range []struct{ avx512, sha bool }{{avx512, sha}, {avx512, false}, {false, sha}} {
		haveAVX512, haveSHA = has.avx512, has.sha
		for _, prefixLen := range []int{0, 1, 32, 55, 56, 63, 64, 65, 128, 200, 256} {
			prefix := randomBytes(r, int64(prefixLen))
			for _, size := range []int{64, 65, 119, 128, 512, 1000, 1024, 4096, 65536} {
				many := sha256Leaves(prefix, int64(size))
				if many == nil {
					continue
				}
				for _, count := range []int{0, 1, 2, 3, 15, 16, 17, 35} {
					if size*count > mib && prefixLen > 1 {
						continue
					}
					data := randomBytes(r, int64(size*count+r.IntN(size)))
					cvs := make([]byte, sha256.Size*count+1)
					done := many(cvs, data)
					if least := count - count%16; has.avx512 && done < least || has.sha && done != count&^1 || done > count {
						t.Fatalf("%d of %d leaves are hashed", done, count)
					}
					for i := range done {
						want := sha256.Sum256(append(bytes.Clone(prefix), data[i*size:(i+1)*size]...))
						if got := cvs[i*sha256.Size : (i+1)*sha256.Size]; !bytes.Equal(got, want[:]) {
							t.Fatalf("leaf %d of %d of %d bytes behind %d: %x, want %x", i, count, size, prefixLen, got, want)
						}
					}
					if rest := cvs[done*sha256.Size:]; !bytes.Equal(rest, make([]byte, len(rest))) {
						t.Fatalf("%d of %d leaves are said to be hashed, and more are", done, count)
					}
				}
			}
		}
	}
}

// blake3Widths sets all widths of BLAKE3's lanes that the processor has, one after the
// other, and 0.
func blake3Widths(t *testing.T) iter.Seq[int] {
	all := blake3Width
	t.Cleanup(func() { blake3Width = all })
	return func(yield func(int) bool) {
		for _, width := range []int{16, 8, 0} {
			if blake3Width = width; width <= all && !yield(width) {
				return
			}
		}
	}
}

// blake3NodeByDefinition is the tree of the paper, chunk by chunk.
func blake3NodeByDefinition(data []byte, chunk uint64) [8]uint32 {
	if len(data) <= guts.ChunkSize {
		return guts.ChainingValue(guts.CompressChunk(data, &guts.IV, chunk, 0))
	}
	left := guts.ChunkSize
	for 2*left < len(data) {
		left *= 2
	}
	return guts.ChainingValue(guts.ParentNode(blake3NodeByDefinition(data[:left], chunk),
		blake3NodeByDefinition(data[left:], chunk+uint64(left/guts.ChunkSize)), &guts.IV, 0))
}

func TestNodesOfBLAKE3AreThoseOfTheDefinition(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 2))
	sizes := []int{1, 1023, 1025, 5000, 16<<10 + 1, 300 << 10, mib}
	for n := guts.ChunkSize; n <= mib; n *= 2 {
		sizes = append(sizes, n)
	}
	for range blake3Widths(t) {
		for i, size := range sizes {
			// What lies behind the data must not count.
			data := randomBytes(r, int64(size+i%2*simdSize))[:size]
			// The index of a chunk takes two words.
			for _, chunk := range []uint64{0, 3 << 20, 1<<32 - 8, 1<<32 - 1, 1 << 40} {
				if got, want := blake3CV(data, chunk), blake3NodeByDefinition(data, chunk); got != want {
					t.Errorf("%d bytes from chunk %d: %x, want %x", size, chunk, got, want)
				}
			}
		}
	}
}

func TestNodesOfZerosAreThoseOfTheDefinition(t *testing.T) {
	for range blake3Widths(t) {
		for level := range 11 {
			for _, chunk := range []int64{0, 3 << 20, 1<<32 - 1<<level, 1 << 40} {
				got := make([]byte, 32)
				blake3Zero(got, level, chunk)
				data := make([]byte, guts.ChunkSize<<level)
				if want := blake3NodeByDefinition(data, uint64(chunk)); words(got) != want {
					t.Errorf("1<<%d chunks from %d: %x, want %x", level, chunk, words(got), want)
				}
			}
		}
	}
}

func TestChunksAnywhereAreThoseOfTheDefinition(t *testing.T) {
	for width := range blake3Widths(t) {
		if width > 0 {
			compareChunks(t)
		}
	}
}

func compareChunks(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 42))
	for _, count := range []int{1, 2, 3, 7, 8, 9, 15, 16, 17, 40} {
		data := randomBytes(r, int64(count)*guts.ChunkSize)
		index := make([]int64, count)
		for i := range index {
			index[i] = []int64{0, 7, 1<<32 - 1, 1 << 32, 1 << 40}[r.IntN(5)] + r.Int64N(9)
		}
		cvs := make([]byte, 32*count)
		blake3Chunks(cvs, data, index)
		for i, chunk := range index {
			want := blake3NodeByDefinition(data[i*guts.ChunkSize:][:guts.ChunkSize], uint64(chunk))
			if got := words(cvs[32*i:]); got != want {
				t.Errorf("chunk %d, at %d of %d: %x, want %x", chunk, i, count, got, want)
			}
		}
		parents := bytes.Clone(cvs[:count/2*64])
		blake3Parents(parents)
		for i := range count / 2 {
			var want [32]byte
			blake3ParentCV(want[:], cvs[64*i:][:64])
			if got := parents[32*i:][:32]; !bytes.Equal(got, want[:]) {
				t.Errorf("parent %d of %d: %x, want %x", i, count/2, got, want)
			}
		}
	}
}

func TestMessagesOfTwoPartsAreHashedAsOne(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 3))
	for range blake3Widths(t) {
		for _, prefixLen := range []int64{0, 1, 32, 1024} {
			for _, size := range []int64{16384, 16385, 17408, 20000, 32767, 32768, 65535, 65536, 65537, mib, 1100000} {
				prefix, data := randomBytes(r, prefixLen), randomBytes(r, size)
				got := make([]byte, 32)
				blake3Sum(got, prefix, data)
				want := blake3.Sum256(append(prefix, data...))
				if !bytes.Equal(got, want[:]) {
					t.Errorf("%d and %d bytes: %x, want %x", prefixLen, size, got, want)
				}
			}
		}
	}
}

func BenchmarkLeaves(b *testing.B) {
	data := randomBytes(rand.New(rand.NewPCG(1, 1)), 256<<10)
	for _, name := range []string{"blake3", "blkhash/sha256/64k", "merkle/blake3/64k", "merkle/blake3/4k", "fsverity/sha256/4k"} {
		spec := treeOf(b, name)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			cvs := make([]byte, 256*spec.cvSize)
			for b.Loop() {
				if spec.subtree != nil {
					spec.subtree(cvs, data, 0)
				} else {
					n := len(data) / int(spec.leafSize)
					spec.hashSome(cvs[:n*spec.cvSize], data)
				}
			}
		})
	}
	b.Run("blake3 of 4 KiB", func(b *testing.B) {
		b.SetBytes(4 << 10)
		cv := make([]byte, 32)
		for b.Loop() {
			blake3Subtree(cv, data[:4<<10], 0)
		}
	})
}
