// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"encoding/hex"
	"fmt"
	"slices"
	"syscall"
	"time"

	"nbdkit-digest-filter/nbdkit"
)

// Notes on the verdict
//
// If a digest is expected, the request that makes the image known waits for
// the digest. On a mismatch it fails, as does every request after it: so the
// copy that it belongs to fails, and none begins again. What a client does not
// read is read by the filter before the client's last bytes (rest.go).

// An expected digest is looked at when it is complete, whatever the others lack:
// a linear one that a client has left behind is known at the end only.

// awaited is a digest that is expected, or any if none is.
type awaited struct {
	knowledge
	index int // in conf.digests
}

// judged is how many awaited digests were found right when so many writes had
// begun.
type judged struct{ began, count int }

// await returns the digests that are expected, or all if none is.
func (im *image) await() (list []awaited) {
	trees := im.trees
	for i, a := range im.conf.digests {
		d := awaited{im.linear, i}
		if a.new == nil {
			d.knowledge, trees = trees[0], trees[1:]
		}
		if len(im.conf.expect) == 0 || slices.ContainsFunc(im.conf.expect, func(e expectation) bool { return e.algorithm.name == a.name }) {
			list = append(list, d)
		}
	}
	return list
}

// verdict waits for the expected digests whose bytes are all known, and returns
// an error if one is not the expected one.
func (im *image) verdict() error {
	if len(im.conf.expect) == 0 {
		return nil
	}
	// Another client's request may hold the last bytes, and be hashing them.
	for !im.done.Load() && im.isDue() {
		if nbdkit.Stopping() {
			return errNoVerdict
		}
		im.drainAwaited()
		if !im.done.Load() && im.isDue() {
			time.Sleep(othersPause)
		}
	}
	if im.isHopeless() {
		return im.errHopeless()
	}
	if im.deferred.Load() {
		return im.verdictOfWriter()
	}
	return nil
}

// isHopeless tells whether the image is not the expected one, or will have no
// digest that could tell.
func (im *image) isHopeless() bool {
	return im.refused.Load() || len(im.conf.expect) > 0 && im.isLost()
}

// errHopeless returns the error of a request for such an image. A mismatch is in the
// sidecar first: the client may look there when its copy has failed, and when many
// requests fail at once, nbdkit 1.32 may not live to write it.
func (im *image) errHopeless() error {
	for im.refused.Load() && !im.announced.Load() {
		time.Sleep(othersPause)
	}
	return errMismatch
}

// drainAwaited is drain, but does not wait for digests that nobody expects.
func (im *image) drainAwaited() {
	for _, d := range im.awaited {
		if d.knowledge == im.linear {
			im.linear.drain(nbdkit.Stopping)
			break
		}
	}
	im.settle()
}

// judge looks at the expected digests that are complete, though others are not.
// A mismatch is final: all requests fail from then on.
func (im *image) judge() {
	if len(im.conf.expect) == 0 || !slices.ContainsFunc(im.awaited, func(d awaited) bool { return d.complete() }) {
		return
	}
	began, ok := im.quiet()
	if !ok || im.isJudged(began) {
		return
	}
	sums, _ := im.takeSums()
	if im.setJudged(began, sums) {
		im.announce()
	}
}

// isJudged tells whether all that is complete was found right.
func (im *image) isJudged(began int) bool {
	count := 0
	for _, d := range im.awaited {
		if d.complete() {
			count++
		}
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.judgedSince(began) >= count
}

func (im *image) judgedSince(began int) int {
	if im.judged.began != began {
		return 0
	}
	return im.judged.count
}

// setJudged compares digests, unless a write has begun since they were taken. It
// tells whether there is a mismatch.
func (im *image) setJudged(began int, sums []string) bool {
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.began != began || !im.quietLocked() {
		return false
	}
	im.judged = judged{began, im.countAwaited(sums)}
	if im.compare(sums); !im.refused.Load() && !im.deferred.Load() {
		return false
	}
	im.setResult(sums)
	return true
}

// isLost tells whether there will be no digest to compare: the log has said
// why.
func (im *image) isLost() bool {
	return im.lost.Load() || im.linear != nil && im.linear.failed.Load()
}

// isDue tells whether an expected digest will come, or be looked at, without
// another read.
func (im *image) isDue() bool {
	due := im.countDue()
	if due == 0 {
		return false // as nearly always, without the lock
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	return due > im.judgedSince(im.began) && im.writers == 0 && im.failure == "" && !im.ended && !im.deferred.Load()
}

// countDue counts the expected digests whose bytes are all known, or being hashed.
func (im *image) countDue() (due int) {
	for _, d := range im.awaited {
		if d.isDue() {
			due++
		}
	}
	return due
}

// countAwaited counts the expected digests among those that are known.
func (im *image) countAwaited(sums []string) (count int) {
	for _, d := range im.awaited {
		if sums[d.index] != "" {
			count++
		}
	}
	return count
}

func (l *linear) isDue() bool { return l.isCovered() }

// isDue leaves out holes that take too long.
func (t *tree) isDue() bool {
	return t.isCovered() && (t.outer != nil || !t.hasHoles.Load())
}

// verdictOfWriter looks at what a writer has written so far, if an expected digest
// of it is known. It may still go on, so nothing is final.
func (im *image) verdictOfWriter() error {
	if im.isHopeless() {
		return im.errHopeless()
	}
	if len(im.conf.expect) == 0 {
		return nil
	}
	im.settle()
	im.cutLast(nbdkit.Stopping)
	// Another thread may be merging nodes, or folding them.
	for !im.done.Load() && !im.isLost() {
		due := im.countDue()
		if due == 0 {
			return nil
		}
		im.drainAwaited()
		began, doubt := im.inDoubt()
		sums, _ := im.takeSums()
		if again, _ := im.inDoubt(); !doubt && again == began {
			for _, line := range im.mismatches(sums) {
				return fmt.Errorf("%v: %s", im, line)
			}
			if im.countAwaited(sums) >= due {
				return nil
			}
		}
		if nbdkit.Stopping() {
			return errNoVerdict
		}
		time.Sleep(othersPause)
	}
	if im.isHopeless() {
		return im.errHopeless()
	}
	return nil
}

// inDoubt tells whether a request in flight may soon make unknown what is known.
func (im *image) inDoubt() (began int, doubt bool) {
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.began, im.inDoubtLocked()
}

func (im *image) inDoubtLocked() bool { return im.doubtful > 0 || im.writes > 0 }

// errNoVerdict fails a request that waits for the digest when nbdkit is told to
// end: the copy must not be taken for a good one.
var errNoVerdict = fmt.Errorf("no digest yet: %w: %w", nbdkit.ErrSilent, syscall.EIO)

// mismatches compares digests that are known with those that are expected, and
// returns a line for each that differs.
func (im *image) mismatches(sums []string) (lines []string) {
	for _, e := range im.conf.expect {
		for i, a := range im.conf.digests {
			if a.name != e.algorithm.name || sums[i] == "" {
				continue
			}
			if sum, err := hex.DecodeString(sums[i]); err != nil || !e.matches(sum) {
				lines = append(lines, fmt.Sprintf("digest mismatch: %s expected %x got %s", a.name, e.sum, sums[i]))
			}
		}
	}
	return lines
}

// compare makes the image refused if its digests are not the expected ones. If nobody
// has read it since it was written, another copy may be about to replace it: then the
// verdict waits.
func (im *image) compare(sums []string) {
	switch lines := im.mismatches(sums); {
	case len(lines) == 0:
	case im.wanted:
		im.refuse(lines)
	default:
		im.deferred.Store(true)
	}
}

// refuse fails all requests from now on. The lines say why.
func (im *image) refuse(lines []string) {
	im.refused.Store(true)
	im.touched.Store(true) // a result, even if no client has got any data
	nbdkit.Fail()
	for _, line := range lines {
		logError("%v: %s", im, line)
	}
}

// verify reads all of an image before its first client is served. The others
// wait.
func (im *image) verify(next layer, readers int) error {
	im.verifying.Lock()
	defer im.verifying.Unlock()
	im.endDeferral()
	if !im.finishedOrFailed() {
		pass := endPass{im: im, next: next, interrupted: func() bool { return nbdkit.Stopping() || im.refused.Load() }}
		if err := pass.run(readers); err != nil && !im.refused.Load() {
			return fmt.Errorf("%v cannot be verified: %w", im, err)
		}
	}
	switch {
	case im.refused.Load():
		return im.refusal()
	case !im.done.Load():
		return fmt.Errorf("%v cannot be verified: %s", im, im.snapshot().explain(digestResult{}))
	}
	return nil
}

// failUncompared makes nbdkit end with status 1, and says why, if there was an
// expected digest that nobody can compare any more. To end as after a good copy
// would be a lie.
func (im *image) failUncompared() {
	if im.isCompared() {
		return
	}
	nbdkit.Fail()
	logError("%v: its digest was not compared with the expected one: %s", im, im.snapshot().explain(digestResult{}))
}

// isCompared tells whether all expected digests have been compared with what the
// image is now.
func (im *image) isCompared() bool {
	im.mu.Lock()
	defer im.mu.Unlock()
	return len(im.conf.expect) == 0 || im.refused.Load() ||
		im.failure == "" && !im.deferred.Load() && (im.sums != nil || im.judgedSince(im.began) >= len(im.awaited))
}
