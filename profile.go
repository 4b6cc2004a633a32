// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"

	"nbdkit-digest-filter/nbdkit"
)

// startProfile writes where Go's time goes to a file in the directory in which
// nbdkit was started, for "go tool pprof". It is for whoever works on the
// filter: nbdkit -D digest.profile=1.
func (f *filter) startProfile() (err error) {
	path := filepath.Join(f.directory, fmt.Sprintf("nbdkit-digest-%d.pprof", os.Getpid()))
	if f.profile, err = os.Create(path); err != nil {
		return fmt.Errorf("-D digest.profile=1: %w", err)
	}
	nbdkit.Debug("the profile goes to %s", path)
	return pprof.StartCPUProfile(f.profile)
}

func (f *filter) stopProfile() {
	if f.profile == nil {
		return
	}
	pprof.StopCPUProfile()
	if err := f.profile.Close(); err != nil {
		nbdkit.Error("the profile is not whole: %v", err)
	}
}
