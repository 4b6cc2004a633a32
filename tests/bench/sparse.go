package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
	{"blkhash", 2.5},
}

const holes = "8 TiB hole"

func (b *bench) holes() error {
	fmt.Println()
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
		fmt.Printf("%s, %-9s ratio %.2f (%.2f..%.2f), want <= %.1f: %s\n", holes, c.digest,
			median(ratios), slices.Min(ratios), slices.Max(ratios), c.most, b.verdict(median(ratios) <= c.most))
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
	fmt.Println()
	for _, digest := range []string{"sha256", "blake3", "blkhash", "fsverity", "sha256,blake3,blkhash,merkle,fsverity,dmverity"} {
		var memory [2]float64
		for i, layers := range [][]string{nil, {"--filter=" + b.filter}} {
			plugin := []string{"sparse-random", "64G"}
			if layers != nil {
				plugin = append(plugin, "digest="+digest, "digest-unread=skip", "digest-file="+filepath.Join(b.dir, "scattered.sum"))
			}
			dir, err := os.MkdirTemp(b.dir, "scatter.")
			if err != nil {
				return err
			}
			s, err := b.serve(dir, layers, plugin)
			if err != nil {
				return err
			}
			_, err = b.command("/usr/bin/python3", "-m", "nbd", "-u", "nbd+unix:///?socket="+s.socket, "-c", script)
			if err := s.stop(); err != nil {
				return err
			}
			if err != nil {
				return err
			}
			memory[i] = s.memory
		}
		extra := memory[1] - memory[0]
		fmt.Printf("%s, %s: memory %+.0f MiB, want <= %d: %s\n", scattered, digest, extra, most, b.verdict(extra <= most))
	}
	return nil
}
