// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"encoding/hex"
	"time"

	"nbdkit-digest-filter/nbdkit"
)

// How a result comes, and goes: image.go has the design.

// settle looks whether the image is complete, and if so, takes the digests.
func (im *image) settle() {
	if im.done.Load() {
		return
	}
	if im.linear != nil && im.linear.failed.Load() {
		im.failAsHashing()
		return
	}
	for _, t := range im.trees {
		t.flushLast()
		t.foldLast()
	}
	im.cutLast(func() bool { return im.mayChange() || nbdkit.Hurried() })
	for _, k := range im.known {
		if !k.complete() {
			im.judge()
			return
		}
	}
	began, ok := im.quiet()
	if !ok {
		return
	}
	if sums, all := im.takeSums(); all && im.setSums(began, sums) {
		im.announce()
	}
}

// mayChange tells whether a client may yet replace what is there: holes that it
// overwrites would have been hashed in vain, each time.
func (im *image) mayChange() bool {
	if im.deferred.Load() {
		return true
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.writers > 0
}

// cutLast makes nodes of the holes of trees of which all else is known, until
// interrupted returns true.
func (im *image) cutLast(interrupted func() bool) {
	for _, t := range im.trees {
		if t.hasHoles.Load() && t.isCovered() {
			t.cutHoles(lastCost, interrupted)
		}
	}
}

// announce publishes digests that have just been compared.
func (im *image) announce() {
	if im.refused.Load() {
		defer im.announced.Store(true)
	}
	im.publish()
}

// quiet tells whether no request can make a digest wrong.
func (im *image) quiet() (began int, ok bool) {
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.began, im.quietLocked()
}

func (im *image) quietLocked() bool {
	return !im.inDoubtLocked() && im.writers == 0 && im.failure == "" && im.sums == nil && !im.ended && !im.deferred.Load()
}

// takeSums returns the digests, with "" for those that are not complete (any
// more), and whether all are.
func (im *image) takeSums() (sums []string, all bool) {
	var linear [][]byte
	if im.linear != nil {
		linear = im.linear.sums()
	}
	trees := im.trees
	all = true
	for _, a := range im.conf.digests {
		var sum []byte
		if a.new == nil {
			sum, trees = trees[0].sum(), trees[1:]
		} else if len(linear) > 0 {
			sum, linear = linear[0], linear[1:]
		}
		all = all && sum != nil
		sums = append(sums, hex.EncodeToString(sum))
	}
	return sums, all
}

// setSums makes the digests the result, unless a write has begun since.
func (im *image) setSums(began int, sums []string) bool {
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.began != began || !im.quietLocked() {
		return false
	}
	im.compare(sums)
	im.setResult(sums)
	return true
}

func (im *image) setResult(sums []string) {
	im.sums = sums
	im.results++
	im.finished = time.Now()
	im.done.Store(!im.deferred.Load())
}

// failAsHashing is called when a hash function has failed, as one does that
// GODEBUG=fips140=only forbids.
func (im *image) failAsHashing() {
	if im.lost.Load() {
		return
	}
	if err := im.linear.err(); im.fail(err.Error()) {
		logError("%v has no digest: %v", im, err)
	}
}

// fail ends the computation because of a fault in the filter, or of the source.
// It tells whether there was none before.
func (im *image) fail(why string) (first bool) {
	im.mu.Lock()
	if first = im.failure == ""; first {
		im.failure = why
		im.lost.Store(true)
	}
	im.sums = nil
	im.done.Store(false)
	im.mu.Unlock()
	if first && len(im.conf.expect) > 0 {
		nbdkit.Fail()
	}
	im.changed()
	return first
}
