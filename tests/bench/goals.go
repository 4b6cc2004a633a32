// SPDX-License-Identifier: BSD-3-Clause

package main

import "fmt"

// A goal is what a case must reach.
type goal struct {
	text string
	met  func(result) bool
}

// ratio bounds the wall time in times that of the same copy without the filter.
func ratio(most float64) goal {
	return goal{
		fmt.Sprintf("ratio <= %.2f", most),
		func(r result) bool { return median(r.ratios()) <= most },
	}
}

// openssl bounds the rate from below, in percent of openssl's on one core.
func openssl(least float64) goal {
	return goal{
		fmt.Sprintf("openssl >= %.0f%%", least),
		func(r result) bool { return median(r.percentOfOpenssl()) >= least },
	}
}

// memory bounds nbdkit's peak above that of the same copy without the filter.
func memory(most float64) goal {
	return goal{
		fmt.Sprintf("memory <= %.0f", most),
		func(r result) bool { return median(r.extraMemory()) <= most },
	}
}

// perfect bounds the wall time in times that of a machine that does nothing but
// the copy's work and the hashing, on all of its processors all of the time.
func perfect(most float64) goal {
	return goal{
		fmt.Sprintf("perfect <= %.2f", most),
		func(r result) bool { return median(r.ofPerfect()) <= most },
	}
}
