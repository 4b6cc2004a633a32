// SPDX-License-Identifier: BSD-3-Clause

//go:build ignore

// Writes blake3_zeros.bin: see blake3_zeros.go. It is run with
// blake3_zeros_table.go, which says what the table has.
package main

import (
	"encoding/binary"
	"log"
	"os"
	"runtime"
	"sync"

	"lukechampine.com/blake3/guts"
)

var zeros [guts.MaxSIMD * guts.ChunkSize]byte

func main() {
	var offsets, steps []int64
	start := int64(0)
	for _, r := range zeroTable {
		for ; start < r.end; start += r.step {
			offsets, steps = append(offsets, start), append(steps, r.step)
		}
	}
	table := make([]byte, 32*len(offsets))
	next := make(chan int)
	var wg sync.WaitGroup
	for range runtime.NumCPU() {
		wg.Go(func() {
			for i := range next {
				node := subtree(uint64(offsets[i])/guts.ChunkSize, steps[i])
				for j, w := range guts.ChainingValue(node) {
					binary.LittleEndian.PutUint32(table[32*i+4*j:], w)
				}
			}
		})
	}
	for i := range offsets {
		if i%1024 == 0 {
			log.Printf("%d of %d", i, len(offsets))
		}
		next <- i
	}
	close(next)
	wg.Wait()
	if err := os.WriteFile("blake3_zeros.bin", table, 0o644); err != nil {
		log.Fatal(err)
	}
}

func subtree(chunk uint64, size int64) guts.Node {
	if size == int64(len(zeros)) {
		return guts.CompressBuffer(&zeros, len(zeros), &guts.IV, chunk, 0)
	}
	half := size / 2
	left := subtree(chunk, half)
	right := subtree(chunk+uint64(half)/guts.ChunkSize, half)
	return guts.ParentNode(guts.ChainingValue(left), guts.ChainingValue(right), &guts.IV, 0)
}
