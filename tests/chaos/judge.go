// SPDX-License-Identifier: BSD-3-Clause

package chaos

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// stale is the result of an earlier run.
const stale = "MD5 (stale) = d41d8cd98f00b204e9800998ecf8427e\n"

// document is the sidecar, as far as it matters here.
type document struct {
	Version int
	Images  []struct {
		Export  string
		Size    *int64
		State   string
		Digests []struct{ Algorithm, Hex string }
	}
}

// fault is what must never be on standard error.
var fault = regexp.MustCompile(`internal error|panic:|fatal error|goroutine \d|SIG[A-Z]+:|unexpected signal|corrupted|double free|[\x00-\x09\x0b-\x1f\x7f]`)

// nbdkitsOwn is what nbdkit 1.32 does without the filter, too, when a client
// that has several requests in flight is killed. It ends a round as SIGKILL
// does.
const nbdkitsOwn = "raw_send_socket: Assertion `sock >= 0' failed"

// isNbdkitsOwn tells whether nbdkit 1.32 has ended itself, as it does without this
// filter, too. Its shutdown does not wait for all connections: one that ends later
// calls layers that are unloaded, and uses what was freed (with nbdkit's own delay
// filter alone, 11 of 600 servers; all of 5 core dumps of this test were of such
// threads). A fault in Go would have said so; one in C would be seen with a newer
// nbdkit.
func isNbdkitsOwn(status syscall.WaitStatus, log, end string) bool {
	if !status.Signaled() {
		return false
	}
	return strings.Contains(log, nbdkitsOwn) ||
		status.Signal() == syscall.SIGSEGV && end != "KILL" && strings.HasPrefix(nbdkitVersion(), "nbdkit 1.32.")
}

var nbdkitVersion = sync.OnceValue(func() string {
	out, _ := exec.Command("nbdkit", "--version").Output()
	return string(out)
})

var printed = regexp.MustCompile(`[^\n -~]`)

// judge looks at what a round has left.
func (r *round) judge() {
	status := r.server.cmd.ProcessState.Sys().(syscall.WaitStatus)
	log := r.server.stderr()
	if isNbdkitsOwn(status, log, r.end) {
		r.end = "abort of nbdkit itself"
		log = printed.ReplaceAllString(log, "") // from memory that was freed
	}
	if s := fault.FindString(log); s != "" {
		r.failf("%q on standard error", s)
	}
	killed := r.end == "KILL" || r.end == "abort of nbdkit itself"
	switch {
	case killed:
	case status.Signaled():
		r.failf("nbdkit was ended by signal %v", status.Signal())
	case status.ExitStatus() != 0 && r.expect == "":
		r.failf("exit status %d", status.ExitStatus())
	}
	entries, err := os.ReadDir(filepath.Dir(r.sidecar()))
	if err != nil {
		r.failf("%v", err)
	}
	for _, e := range entries {
		if e.Name() != filepath.Base(r.sidecar()) && !killed {
			r.failf("%s is left behind", e.Name())
		}
	}

	content, err := os.ReadFile(r.sidecar())
	if errors.Is(err, fs.ErrNotExist) {
		touched := slices.ContainsFunc(r.disks, func(d *disk) bool { return d.touched })
		if r.end == "gone" && touched && !r.verify && len(r.server.stderr()) == 0 {
			r.failf("no sidecar")
		}
		return
	}
	if r.end == "KILL" && string(content) == stale && !r.served {
		return // killed before it began
	}
	var doc document
	if err := json.Unmarshal(content, &doc); err != nil {
		r.failf("the sidecar is not whole: %v: %q", err, content)
		return
	}
	r.compare("the sidecar", doc)
	for _, im := range doc.Images {
		r.figures.addTo(r.figures.States, im.State)
		if im.State == "pending" && !killed {
			r.failf("the last word on export %q is pending", im.Export)
		}
		// A source that is cut short may read as zeros where it ends.
		if im.State == "failed" && r.behind == "" {
			r.failf("the state is failed")
		}
		if r.isUndisturbed() && im.State != "complete" && r.expect != "wrong" {
			r.failf("the state of export %q is %s", im.Export, im.State)
		}
		if im.State == "failed" {
			r.figures.add(&r.figures.Aware, 1)
		}
	}
}

// isUndisturbed tells whether nothing was in the way of a complete digest.
func (r *round) isUndisturbed() bool {
	for _, f := range []string{"delay", "error", "retry", "retry-request", "pause"} {
		if r.filters[f] {
			return false
		}
	}
	return r.unread != "skip" && r.behind == "" && r.expect != "wrong" && (r.end == "gone" || r.end == "TERM" || r.end == "INT") &&
		r.disks[0].export == "" && !strings.Contains(r.server.stderr(), "error")
}

// compare compares the digests of a document with those of the disks.
func (r *round) compare(what string, doc document) {
	if doc.Version != 1 {
		r.failf("%s has version %d", what, doc.Version)
	}
	for _, im := range doc.Images {
		i := slices.IndexFunc(r.disks, func(d *disk) bool { return d.export == im.Export })
		if i < 0 {
			r.failf("%s has export %q, which there is not", what, im.Export)
			continue
		}
		if len(im.Digests) != len(r.digests) {
			r.failf("%s has %d digests for export %q", what, len(im.Digests), im.Export)
			continue
		}
		if r.expect == "wrong" && im.State == "complete" || r.expect == "right" && im.State == "mismatch" {
			r.failf("%s says %s where the expectation is %s", what, im.State, r.expect)
		}
		for j, a := range r.digests {
			if d := im.Digests[j]; d.Algorithm != a {
				r.failf("%s has %s for %s", what, d.Algorithm, a)
			} else if d.Hex != "" {
				r.compareDigest(what, r.disks[i], im.Size, a, d.Hex)
			} else if im.State == "complete" {
				r.failf("%s is complete without a digest", what)
			}
		}
	}
}

func (r *round) compareDigest(what string, d *disk, size *int64, algorithm, got string) {
	image := r.content(d)
	r.figures.add(&r.figures.Compared, 1)
	switch r.behind {
	case "content":
		// A range that was read before and after has told the filter. Without
		// that it may have parts of both.
		if d.again {
			r.wrong("%s: %s is complete, of a source that has changed and was read again", what, algorithm)
		}
		return
	case "size":
		if !d.opened && d.replaced && *size == int64(len(d.old)) {
			image = d.old // nobody could tell
		}
	}
	if want := digest(algorithm, image); got != want || *size != int64(len(image)) {
		r.wrong("%s: %s of %d bytes is %s, want %s of %d bytes", what, algorithm, *size, got, want, len(image))
	}
}

func (r *round) wrong(format string, args ...any) {
	r.figures.add(&r.figures.Wrong, 1)
	r.failf("WRONG DIGEST: "+format, args...)
}
