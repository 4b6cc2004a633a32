// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"path/filepath"
)

// The cost of holes, and of memory, on images that no machine here could
// hold.

// A holeCase is a copy of an image of 8 TiB that is one hole.
type holeCase struct {
	digest string
	most   float64 // times the same copy without the filter
}

var holeCases = []holeCase{
	{"blake3", 1.5},
	{"merkle", 1.5},
	{"fsverity", 1.5},
	{"dmverity", 1.5},
	{"blkhash", 2.5}, // its format hashes the digest of each block of zeros
}

const holes = "8 TiB hole"

func (b *bench) holes() error {
	b.printf("\n")
	for _, c := range holeCases {
		var ratios []float64
		for range b.pairs {
			plain, err := b.command("nbdkit", "-r", "-U", "-", "null", "8T", "--run", `nbdcopy "$uri" null:`)
			if err != nil {
				return err
			}
			filtered, err := b.command("nbdkit", "-r", "-U", "-", "--filter="+b.filter, "null", "8T", "digest="+c.digest,
				"digest-file="+filepath.Join(b.dir, "hole.sum"), "--run", `nbdcopy "$uri" null:`)
			if err != nil {
				return err
			}
			ratios = append(ratios, filtered.wall/plain.wall)
		}
		b.printf("%s, %-9s ratio %s, want <= %.1f: %s\n", holes, c.digest, spread(ratios), c.most, b.verdict(median(ratios) <= c.most))
	}
	return nil
}

const scattered = "random 4 KiB reads of 64 GiB"

// scatter reads an image in the order that leaves most fragments, and measures
// nbdkit's memory.
func (b *bench) scatter() error {
	const most = 64 + 2 // MiB, and 32 for each TiB
	script := `
import random
random.seed(1)
for i in range(100000): h.pread(4096, random.randrange(1 << 24) << 12)`
	b.printf("\n")
	for _, digest := range []string{"sha256", "blake3", "blkhash", "fsverity", "sha256,blake3,blkhash,merkle,fsverity,dmverity"} {
		var memory [2]float64
		for i := range memory {
			args := []string{"-r", "sparse-random", "64G"}
			if i == 1 {
				args = append([]string{"--filter=" + b.filter}, args...)
				args = append(args, "digest="+digest, "digest-unread=skip", "digest-file="+filepath.Join(b.dir, "scattered.sum"))
			}
			s, err := b.serveOnce(filepath.Join(b.dir, "scatter"), args, func(uri string) []string {
				return []string{"/usr/bin/python3", "-m", "nbd", "-u", uri, "-c", script}
			})
			if err != nil {
				return err
			}
			memory[i] = s.memory
		}
		extra := memory[1] - memory[0]
		b.printf("%s, %s: memory %+.0f MiB, want <= %d: %s\n", scattered, digest, extra, most, b.verdict(extra <= most))
	}
	return nil
}
