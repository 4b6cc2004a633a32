// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A bar of the plot: a copy with its digest, in times the copy without.
type bar struct {
	name               string
	onePass, twoPasses float64
}

// compare measures what a user runs without the filter: the tool that reads
// the copy again, on as many threads as it likes, or a client that hashes.
func (b *bench) compare(r result) error {
	if r.server != nil {
		return nil
	}
	if r.name == "nbdcopy, blkhash" {
		return b.compareClient(r)
	}
	tool := r.peer()
	if tool == "" {
		return nil
	}
	var ratios []float64
	for i := range r.plain {
		used, err := b.command(tool, b.image)
		if err != nil {
			return err
		}
		ratios = append(ratios, (r.plain[i].wall+used.wall)/r.plain[i].wall)
	}
	b.printf("%-18s without the filter, and %s of the copy after it: ratio %s\n", "", tool, spread(ratios))
	b.bars = append(b.bars, bar{r.name, median(r.ratios()), median(ratios)})
	return nil
}

// compareClient measures nbdcopy --blkhash, if this one has it.
func (b *bench) compareClient(r result) error {
	options, err := b.command("nbdcopy", "--long-options")
	if err != nil || !strings.Contains(options.stdout, "--blkhash") {
		b.printf("%-18s this nbdcopy does not have --blkhash\n", "")
		return err
	}
	c := copyCase{client: func(b *bench, uri string) []string {
		return []string{"nbdcopy", "--blkhash=sha256/64k", uri, "null:"}
	}}
	var ratios []float64
	for i := range r.plain {
		s, err := b.copy(c, false)
		if err != nil {
			return err
		}
		ratios = append(ratios, s.wall/r.filtered[i].wall)
	}
	b.printf("%-18s nbdcopy --blkhash takes %s times as long, want >= 1.5: %s\n", "", spread(ratios), b.verdict(median(ratios) >= 1.5))
	return nil
}

// keep writes the table, and the plot by gnuplot.
func (b *bench) keep(dir string) error {
	if err := os.WriteFile(filepath.Join(dir, "speed.txt"), b.table.Bytes(), 0o644); err != nil {
		return err
	}
	if len(b.bars) == 0 {
		return nil
	}
	var data strings.Builder
	highest := 0.0
	for _, bar := range b.bars {
		name := strings.Replace(bar.name, ", ", ",\n", 1)
		fmt.Fprintf(&data, "%q %.2f %.2f\n", name, bar.onePass, bar.twoPasses)
		highest = max(highest, bar.onePass, bar.twoPasses)
	}
	script := fmt.Sprintf(`set terminal svg size 800,360 font "sans-serif,13" background "white"
set output %q
set style data histogram
set style histogram clustered gap 1
set style fill solid border -1
set boxwidth 0.9
set bmargin 4
set grid y
set yrange [0:%.2f]
set key top right
set ylabel "times the copy without a digest"
set arrow from graph 0, first 1 to graph 1, first 1 nohead dashtype 2
$data << END
%sEND
plot $data using 2:xtic(1) title "copy with the filter" linecolor rgb "#3b7ea1", \
     $data using 3 title "copy, then the tool reads it again" linecolor rgb "#c4c4c4", \
     $data using ($0-0.18):2:2 with labels offset 0,0.7 notitle, \
     $data using ($0+0.18):3:3 with labels offset 0,0.7 notitle
`, filepath.Join(dir, "speed.svg"), 1.15*highest, data.String())
	cmd := exec.CommandContext(b.ctx, "gnuplot")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("gnuplot: %w\n%s", err, out)
	}
	return nil
}
