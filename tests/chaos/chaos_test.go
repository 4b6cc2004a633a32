// SPDX-License-Identifier: BSD-3-Clause

package chaos

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

var (
	seed    = flag.Uint64("seed", 1, "of what happens; 0 is a new one")
	first   = flag.Uint64("first", 0, "the first round")
	rounds  = flag.Uint64("rounds", 60, "how many")
	minutes = flag.Float64("minutes", 0, "go on for so long, however many rounds that are")
)

func TestChaos(t *testing.T) {
	filter, err := filepath.Abs("../../nbdkit-digest-filter.so")
	if err == nil {
		_, err = os.Stat(filter)
	}
	if err != nil {
		t.Fatal("build the filter first, with make: ", err)
	}
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", *seed)
	if *minutes > 0 {
		fmt.Printf("seed %d\n", *seed)
	}
	figures := &Figures{Ends: make(map[string]int), States: make(map[string]int)}
	begun := time.Now()
	for number := *first; ; number++ {
		if *minutes > 0 && time.Since(begun).Minutes() >= *minutes || *minutes == 0 && number >= *first+*rounds {
			break
		}
		one(t, filter, number, figures)
	}
	fmt.Printf("seed %d, %v: %v\n", *seed, time.Since(begun).Round(time.Second), figures)
}

func one(t *testing.T, filter string, number uint64, figures *Figures) {
	dir, err := os.MkdirTemp("", "chaos")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	failures, about := Run(*seed, number, filter, dir, figures)
	for _, f := range failures {
		t.Errorf("round %d: %s", number, f)
	}
	if len(failures) > 0 {
		t.Logf("%s\nto repeat: go test -count=1 ./tests/chaos -args -seed=%d -first=%d -rounds=1", about, *seed, number)
	}
}
