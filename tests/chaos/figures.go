// SPDX-License-Identifier: BSD-3-Clause

package chaos

import (
	"fmt"
	"sync"
)

// Figures are what all rounds together have done.
type Figures struct {
	mu                                       sync.Mutex
	Rounds, Clients, Killed, Requests        int
	Faults, Replaced, Compared, Wrong, Aware int
	Ends, States                             map[string]int
}

func (f *Figures) add(count *int, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	*count += n
}

func (f *Figures) addTo(counts map[string]int, key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	counts[key]++
}

func (f *Figures) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return fmt.Sprintf("%d rounds, %d clients of which %d were killed, %d requests of which %d failed, "+
		"%d sources changed and %d of them noticed, ends %v, states %v, %d complete digests compared, %d wrong",
		f.Rounds, f.Clients, f.Killed, f.Requests, f.Faults, f.Replaced, f.Aware, f.Ends, f.States, f.Compared, f.Wrong)
}
