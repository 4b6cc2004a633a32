// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"lukechampine.com/blake3/guts"
)

// What AVX-512 computes is tested by the others where the processor has it. Here,
// SIMDe stands in for it.

// emulatedLanes returns what calls a function of testdata/emulated_lanes.c.
func emulatedLanes(t *testing.T) func(data []byte, what string, args ...any) []byte {
	if !haveSHA || blake3Width == 0 {
		t.Skip("this processor has no AVX2, or no SHA instructions")
	}
	program := filepath.Join(t.TempDir(), "emulated")
	cc := exec.Command("gcc", "-O1", "-mavx2", "-msha", "-Wno-psabi", "-I.", "-o", program, "testdata/emulated_lanes.c")
	if out, err := cc.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return func(data []byte, what string, args ...any) []byte {
		cmd := exec.Command(program, what)
		for _, arg := range args {
			cmd.Args = append(cmd.Args, fmt.Sprint(arg))
		}
		cmd.Stdin = bytes.NewReader(data)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v", cmd, err)
		}
		out, err = hex.DecodeString(string(out))
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
}

func TestLanesOfAVX512Emulated(t *testing.T) {
	t.Parallel()
	call := emulatedLanes(t)
	r := rand.New(rand.NewPCG(7, 4))
	equal := func(got, want []byte, what string, args ...any) {
		t.Helper()
		if !bytes.Equal(got, want) {
			t.Errorf("%s %v: %x, want %x", what, args, got, want)
		}
	}
	for level := range 9 {
		for _, first := range []uint64{0, 3 << 20, 1<<32 - 1<<level, 1<<32 - 1, 1 << 40} {
			count := 1 << level
			data := randomBytes(r, int64(count)*guts.ChunkSize)
			cv := make([]byte, 32)
			putWords(cv, blake3NodeByDefinition(data, first))
			equal(call(data, "node", count, first), cv, "node", count, first)
			putWords(cv, blake3NodeByDefinition(make([]byte, len(data)), first))
			equal(call(nil, "zeros", count, first), cv, "zeros", count, first)
		}
	}
	for _, count := range []int{1, 2, 15, 16, 17, 40} {
		data := randomBytes(r, int64(count)*guts.ChunkSize)
		var index []any
		var cvs, parents []byte
		for chunk := range slices.Chunk(data, guts.ChunkSize) {
			at := r.Uint64N(1 << 50)
			index = append(index, at)
			cvs = append(cvs, make([]byte, 32)...)
			putWords(cvs[len(cvs)-32:], blake3NodeByDefinition(chunk, at))
		}
		equal(call(data, "chunks", index...), cvs, "chunks", index...)
		for children := range slices.Chunk(data[:count*64], 64) {
			parents = append(parents, make([]byte, 32)...)
			blake3ParentCV(parents[len(parents)-32:], children)
		}
		equal(call(data, "parents", count), parents, "parents", count)
	}
	for _, prefix := range []int{0, 1, 63, 64, 200} {
		for _, size := range []int{64, 65, 119, 1000, 4096} {
			const count = 32
			data := randomBytes(r, int64(prefix+count*size))
			var sums []byte
			for leaf := range slices.Chunk(data[prefix:], size) {
				sum := sha256.Sum256(slices.Concat(data[:prefix], leaf))
				sums = append(sums, sum[:]...)
			}
			equal(call(data, "sha256", prefix, size, count), sums, "sha256", prefix, size)
		}
	}
}
