// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"time"

	"nbdkit-digest-filter/nbdkit"
)

// Notes on when the sidecar is written
//
// It has the results of all exports, so whoever adds one writes all of it, at once.
// Where a plugin serves thousands, that would take most of the time: then what is only
// added waits, so that the file is written for a tenth of the time at most. What takes a
// result back, or says that an image is not the right one, never waits.

const (
	// publishedAtOnce is from how many results on the file rests.
	publishedAtOnce = 100
	// publishRest is how many times as long as it was written the file rests.
	publishRest = 9
)

// A publication is how far the results have been written.
type publication struct {
	rest time.Time   // until then nothing is added
	due  *time.Timer // writes it then, or nil if nothing has been left for it
}

// publish writes the results when one of them has come, and takes them back
// when one has gone.
func (f *filter) publish() {
	if f.conf.file == "" {
		return // stderr gets them once, at the end
	}
	// One after the other, so that the last one is the newest.
	f.publishing.Lock()
	defer f.publishing.Unlock()
	if f.finished {
		return
	}
	if f.results.due != nil {
		f.results.due.Stop()
		f.results.due = nil
	}
	began := time.Now()
	var results []result
	final := false
	for _, im := range f.touched() {
		r := im.snapshot()
		results = append(results, r)
		final = final || r.State == complete || r.State == mismatch || r.State == failed
	}
	var err error
	if final {
		err = f.sidecar.write(results)
	} else {
		err = f.sidecar.withdraw()
	}
	if err != nil {
		nbdkit.Error("%v", err)
	}
	if len(results) >= publishedAtOnce {
		f.results.rest = time.Now().Add(publishRest * time.Since(began))
	}
}

// publishSoon is publish for a result that is only added.
func (f *filter) publishSoon() {
	if f.mayWait() {
		return
	}
	f.publish()
}

// mayWait tells whether somebody will publish what is there now. If the file is to rest,
// and nobody is, it sees to that.
func (f *filter) mayWait() bool {
	f.publishing.Lock()
	defer f.publishing.Unlock()
	rest := time.Until(f.results.rest)
	if rest > 0 && f.results.due == nil {
		f.results.due = time.AfterFunc(rest, func() {
			defer func() {
				if v := recover(); v != nil {
					nbdkit.Error("internal error in writing the results: %v", v)
				}
			}()
			f.publish()
		})
	}
	return rest > 0
}
