package main

import (
	"encoding/hex"
	"fmt"
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

// verdict waits for the digest if all of the image is known, and returns an
// error if it is not the expected one.
func (im *image) verdict() error {
	if len(im.conf.expect) == 0 {
		return nil
	}
	// Another client's request may hold the last bytes, and be hashing them.
	for !im.done.Load() && im.isDue() {
		if nbdkit.Stopping() {
			return errNoVerdict
		}
		im.drain(nbdkit.Stopping)
		if !im.done.Load() {
			time.Sleep(othersPause)
		}
	}
	if im.isHopeless() {
		return errMismatch
	}
	return nil
}

// isHopeless tells whether the image is not the expected one, or will have no
// digest that could tell.
func (im *image) isHopeless() bool {
	return im.refused.Load() || len(im.conf.expect) > 0 && im.isLost()
}

// isLost tells whether there will be no digest to compare: the log has said
// why.
func (im *image) isLost() bool {
	if im.linear != nil && im.linear.err() != nil {
		return true
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.failure != "" || im.ended
}

// isDue tells whether the digest will come without another read.
func (im *image) isDue() bool {
	if im.linear != nil && !im.linear.isCovered() {
		return false
	}
	for _, t := range im.trees {
		if !t.isCovered() || t.outer == nil && t.hasHoles.Load() {
			return false
		}
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.writers == 0 && im.failure == "" && !im.ended
}

// verdictOfWriter looks at what a writer has written so far, if that is all of
// the image. It may still go on, so nothing is final.
func (im *image) verdictOfWriter() error {
	if im.isHopeless() {
		return errMismatch
	}
	if len(im.conf.expect) == 0 || im.done.Load() || im.progress() < im.size {
		return nil
	}
	im.drain(nbdkit.Stopping)
	sums := im.takeSums()
	if sums == nil && nbdkit.Stopping() {
		return errNoVerdict
	}
	if sums != nil {
		for _, line := range im.mismatches(sums) {
			return fmt.Errorf("%v: %s", im, line)
		}
	}
	return nil
}

// errNoVerdict fails a request that waits for the digest when nbdkit is told to
// end: the copy must not be taken for a good one.
var errNoVerdict = fmt.Errorf("no digest yet: %w: %w", nbdkit.ErrSilent, syscall.EIO)

// mismatches compares digests with those that are expected, and returns a line
// for each that differs.
func (im *image) mismatches(sums []string) (lines []string) {
	for _, e := range im.conf.expect {
		for i, a := range im.conf.digests {
			if a.name != e.algorithm.name {
				continue
			}
			if sum, err := hex.DecodeString(sums[i]); err != nil || !e.matches(sum) {
				lines = append(lines, fmt.Sprintf("digest mismatch: %s expected %x got %s", a.name, e.sum, sums[i]))
			}
		}
	}
	return lines
}

// compare makes the image refused if its digests are not the expected ones.
func (im *image) compare(sums []string) {
	lines := im.mismatches(sums)
	if len(lines) == 0 {
		return
	}
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
	if !im.finishedOrFailed() {
		pass := endPass{im: im, next: next, interrupted: nbdkit.Stopping}
		if err := pass.run(readers); err != nil {
			return fmt.Errorf("%v cannot be verified: %w", im, err)
		}
	}
	switch {
	case im.refused.Load():
		return fmt.Errorf("%v is refused: its digest is not the expected one", im)
	case !im.done.Load():
		return fmt.Errorf("%v cannot be verified: %s", im, im.snapshot().explain(digestResult{}))
	}
	return nil
}
