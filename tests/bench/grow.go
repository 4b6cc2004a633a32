// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"fmt"
	"path/filepath"
	"slices"
)

const growing = "an image that grows"

// grow measures what the filter adds in processor time and memory as the image
// grows: by its data, and by its holes.
func (b *bench) grow() error {
	for _, digest := range []string{"blake3", "sha256", "fsverity"} {
		b.printf("\n%s, %s, beside no filter\n", growing, digest)
		var perGiB []float64
		for _, gib := range []float64{1, 4, 16} {
			// The difference of two short runs is small beside what they vary by.
			cpu, memory, err := b.addedOf(max(3, int(8/gib)|1), digest, "pattern", fmt.Sprintf("%gG", gib))
			if err != nil {
				return err
			}
			perGiB = append(perGiB, cpu/gib)
			b.printf("%5g GiB of data: %.2f s of CPU time, %.3f for each GiB, %+.0f MiB, want <= 66: %s\n",
				gib, cpu, cpu/gib, memory, b.verdict(memory <= 66))
		}
		growth := slices.Max(perGiB) / slices.Min(perGiB)
		b.printf("greatest by smallest for each GiB: %.2f, want <= 1.3: %s\n", growth, b.verdict(growth <= 1.3))
		if digest == "sha256" {
			continue // it hashes every zero
		}
		for _, tib := range []float64{1, 8} {
			cpu, memory, err := b.addedOf(3, digest, "null", fmt.Sprintf("%gT", tib))
			if err != nil {
				return err
			}
			most := 64 + 32*tib
			b.printf("%5g TiB of holes: %.2f s of CPU time, want <= 1: %s, %+.0f MiB, want <= %.0f: %s\n",
				tib, cpu, b.verdict(cpu <= 1), memory, most, b.verdict(memory <= most))
		}
	}
	return nil
}

// addedOf returns the medians of what several pairs of runs have added.
func (b *bench) addedOf(pairs int, digest, plugin, size string) (cpu, memory float64, err error) {
	var cpus, memories []float64
	for range pairs {
		if cpu, memory, err = b.added(digest, plugin, size); err != nil {
			return 0, 0, err
		}
		cpus, memories = append(cpus, cpu), append(memories, memory)
	}
	return median(cpus), median(memories), nil
}

// added returns nbdkit's processor time and memory above those of the same
// copy without the filter.
func (b *bench) added(digest, plugin, size string) (cpu, memory float64, err error) {
	var runs [2]*server
	for i := range runs {
		args := []string{"-r", plugin, size}
		if i == 1 {
			args = append([]string{"--filter=" + b.filter}, args...)
			args = append(args, "digest="+digest, "digest-file="+filepath.Join(b.dir, "grown.sum"))
		}
		dir := filepath.Join(b.dir, fmt.Sprint("grow", i))
		if runs[i], err = b.serveOnce(dir, args, func(uri string) []string { return []string{"nbdcopy", uri, "null:"} }); err != nil {
			return 0, 0, err
		}
	}
	return runs[1].cpu - runs[0].cpu, runs[1].memory - runs[0].memory, nil
}
