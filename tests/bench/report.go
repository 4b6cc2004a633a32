package main

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
)

// A result is all the samples of a case; index i is the same pair in each.
type result struct {
	plain, filtered []sample
	openssl         []float64 // seconds, if asked for
}

func (r result) ratios() []float64 {
	return pairwise(r, func(plain, filtered sample) float64 { return filtered.wall / plain.wall })
}

func (r result) extraMemory() []float64 {
	return pairwise(r, func(plain, filtered sample) float64 { return filtered.memory - plain.memory })
}

func (r result) percentOfOpenssl() []float64 {
	var percent []float64
	for i, seconds := range r.openssl {
		percent = append(percent, 100*seconds/r.filtered[i].wall)
	}
	return percent
}

func pairwise(r result, f func(plain, filtered sample) float64) []float64 {
	values := make([]float64, len(r.plain))
	for i := range values {
		values[i] = f(r.plain[i], r.filtered[i])
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

// printMachine says what the numbers are of.
func (b *bench) printMachine() error {
	version, err := b.command("nbdkit", "--version")
	if err != nil {
		return err
	}
	fmt.Printf("%s, %d CPUs, %s of random bytes in %s, %d pairs\n",
		strings.TrimSpace(version.stdout), runtime.NumCPU(), &b.size, b.dir, b.pairs)
	return nil
}

const row = "%-18s %9s %8s %18s %13s %13s %7s %8s  %s\n"

func printHeading() {
	fmt.Println()
	fmt.Printf(row, "", "no filter", "filter", "ratio", "server's CPU", "client's CPU", "memory", "openssl", "want")
	fmt.Printf(row, "case", "s", "s", "", "s", "s", "MiB", "%", "")
}

// report prints the row of a case and counts the goals that it misses.
func (b *bench) report(c copyCase, r result) {
	ratios := r.ratios()
	before := func(value func(sample) float64) string { return fmt.Sprintf("%.2f", over(r.plain, value)) }
	after := func(value func(sample) float64) string { return fmt.Sprintf("%.2f", over(r.filtered, value)) }
	change := func(value func(sample) float64) string { return before(value) + " > " + after(value) }
	wall := func(s sample) float64 { return s.wall }
	shutdown := func(s sample) float64 { return s.shutdown }

	percent := ""
	if c.besideOpenssl() {
		percent = fmt.Sprintf("%.0f", median(r.percentOfOpenssl()))
	}
	var verdicts []string
	for _, g := range c.goals {
		verdicts = append(verdicts, g.text+": "+b.verdict(g.met(r)))
	}
	fmt.Printf(row, c.name, before(wall), after(wall),
		fmt.Sprintf("%.2f (%.2f..%.2f)", median(ratios), slices.Min(ratios), slices.Max(ratios)),
		change(func(s sample) float64 { return s.serverCPU }),
		change(func(s sample) float64 { return s.clientCPU }),
		fmt.Sprintf("%+d", int(math.Round(median(r.extraMemory())))), percent,
		strings.Join(verdicts, ", "))
	if over(r.filtered, shutdown) > 0.01 {
		fmt.Printf("%-18s the shutdown's part of it, in s: %s\n", "", change(shutdown))
	}
}

// verdict says whether a goal was met and keeps count.
func (b *bench) verdict(met bool) string {
	if met {
		return "ok"
	}
	b.missed++
	return "MISS"
}
