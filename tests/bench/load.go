// SPDX-License-Identifier: BSD-3-Clause

package main

import "slices"

const loading = "loading the filter"

// load measures an nbdkit that starts and stops, with and without the filter.
func (b *bench) load() error {
	const pairs, most = 21, 30
	var plain, filtered, extra []float64
	for range pairs {
		without, err := b.command("nbdkit", "-U", "-", "null", "--run", "true")
		if err != nil {
			return err
		}
		with, err := b.command("nbdkit", "-U", "-", "--filter="+b.filter, "null", "--run", "true")
		if err != nil {
			return err
		}
		plain = append(plain, 1000*without.wall)
		filtered = append(filtered, 1000*with.wall)
		extra = append(extra, 1000*(with.wall-without.wall))
	}
	b.printf("\n%s: %.1f ms > %.1f ms, %+.1f ms (%+.1f..%+.1f), want <= %d ms: %s\n",
		loading, median(plain), median(filtered), median(extra),
		slices.Min(extra), slices.Max(extra), most, b.verdict(median(extra) <= most))
	return nil
}
