// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"strings"
)

// A result is all the samples of a case; index i is the same pair in each.
type result struct {
	copyCase
	plain, filtered []sample

	// tools are those of onOneCore, by name.
	tools map[string][]usage
}

func (r result) ratios() []float64 {
	return pairwise(r, func(i int) float64 { return r.filtered[i].wall / r.plain[i].wall })
}

func (r result) extraMemory() []float64 {
	return pairwise(r, func(i int) float64 { return r.filtered[i].memory - r.plain[i].memory })
}

func (r result) percentOfOpenssl() []float64 {
	if r.tools["sha256"] == nil {
		return nil
	}
	return pairwise(r, func(i int) float64 { return 100 * r.tools["sha256"][i].wall / r.filtered[i].wall })
}

// ofPerfect compares with what the copy's own processor time and the tools'
// would take on all processors.
func (r result) ofPerfect() []float64 {
	return pairwise(r, func(i int) float64 {
		tools := make(map[string]float64)
		for name, runs := range r.tools {
			tools[name] = runs[i].user
		}
		work := r.plain[i].serverCPU + r.plain[i].clientCPU + r.hashCPU(tools)
		return r.filtered[i].wall * float64(runtime.NumCPU()) / work
	})
}

func pairwise(r result, f func(i int) float64) []float64 {
	values := make([]float64, len(r.plain))
	for i := range values {
		values[i] = f(i)
	}
	return values
}

// over returns the median of one value of the samples.
func over(samples []sample, value func(sample) float64) float64 {
	var values []float64
	for _, s := range samples {
		values = append(values, value(s))
	}
	return median(values)
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// spread writes a median with the extremes.
func spread(values []float64) string {
	return fmt.Sprintf("%.2f (%.2f..%.2f)", median(values), slices.Min(values), slices.Max(values))
}

// printMachine says what the numbers are of.
func (b *bench) printMachine() error {
	version, err := b.command("nbdkit", "--version")
	if err != nil {
		return err
	}
	b.printf("%s, %d CPUs, %s of random bytes in RAM, %d pairs\n",
		strings.TrimSpace(version.stdout), runtime.NumCPU(), &b.size, b.pairs)
	return nil
}

// printf prints to the terminal and to the table that is kept.
func (b *bench) printf(format string, args ...any) {
	fmt.Fprintf(io.MultiWriter(b.out, &b.table), format, args...)
}

const row = "%-18s %9s %8s %18s %13s %13s %7s %8s  %s\n"

func (b *bench) printHeading() {
	b.printf("\n")
	b.printf(row, "", "no filter", "filter", "ratio", "server's CPU", "client's CPU", "memory", "openssl", "want")
	b.printf(row, "case", "s", "s", "", "s", "s", "MiB", "%", "")
}

// report prints the row of a case and counts the goals that it misses.
func (b *bench) report(r result) {
	before := func(value func(sample) float64) string { return fmt.Sprintf("%.2f", over(r.plain, value)) }
	after := func(value func(sample) float64) string { return fmt.Sprintf("%.2f", over(r.filtered, value)) }
	change := func(value func(sample) float64) string { return before(value) + " > " + after(value) }
	shutdown := func(s sample) float64 { return s.shutdown }

	percent := ""
	if p := r.percentOfOpenssl(); p != nil {
		percent = fmt.Sprintf("%.0f", median(p))
	}
	var verdicts []string
	for _, g := range r.goals {
		verdicts = append(verdicts, g.text+": "+b.verdict(g.met(r)))
	}
	b.printf(row, r.name, before(wall), after(wall), spread(r.ratios()),
		change(func(s sample) float64 { return s.serverCPU }),
		change(func(s sample) float64 { return s.clientCPU }),
		fmt.Sprintf("%+d", int(math.Round(median(r.extraMemory())))), percent,
		strings.Join(verdicts, ", "))
	if over(r.filtered, shutdown) > 0.01 {
		b.printf("%-18s the shutdown's part of it, in s: %s\n", "", change(shutdown))
	}
	if len(r.tools) > 1 {
		b.printf("%-18s times the copy's and the tools' CPU time on all CPUs: %s\n", "", spread(r.ofPerfect()))
	}
}

func wall(s sample) float64 { return s.wall }

// verdict says whether a goal was met and keeps count.
func (b *bench) verdict(met bool) string {
	if met {
		return "ok"
	}
	b.missed++
	return "MISS"
}
