package main

import "testing"

// A forgetful knowledge does something just before it forgets.
type forgetful struct {
	knowledge
	before func()
}

func (k forgetful) forget(lo, hi int64) {
	k.before()
	k.knowledge.forget(lo, hi)
}

// A client of another export writes, and while what it changes is being forgotten,
// a thread of a reader looks whether the image is complete.
func TestNoDigestOfWhatIsBeingForgotten(t *testing.T) {
	im, c := newTestImage(t, mib, "digest", "blake3")
	c.read(0, mib)
	im.known[0] = forgetful{im.known[0], im.settle}
	im.overwritten(0, 4096)
	if r := im.snapshot(); r.State == complete || r.Bytes.Known == mib {
		t.Errorf("the image is %s, and %d bytes are known", r.State, r.Bytes.Known)
	}
	// If that was behind its end, all is as it was.
	c.read(0, mib)
	im.overwritten(mib, mib+4096)
	if state := im.snapshot().State; state != complete {
		t.Errorf("the image is %s after a change of another one", state)
	}
	im.end()
}
