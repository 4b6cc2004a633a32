// SPDX-License-Identifier: BSD-3-Clause

// Package docs runs what the documents tell a reader to run, so that it does
// not go stale: every block of commands, with a real nbdkit and real clients.
// What a transcript prints must come, but for digests, times and numbers.
//
// A block that cannot be run, or that has no commands, stands in the list with
// a reason or with the command that prints it. One that is neither run nor in
// the list is an error, and so is an entry of the list without a block.
package docs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// filter is the absolute path of the filter.
var filter string

func TestMain(m *testing.M) {
	os.Setenv("PATH", "/usr/bin:/usr/sbin:/bin:/sbin:"+os.Getenv("PATH"))
	os.Setenv("LC_ALL", "C.UTF-8")
	var err error
	if filter, err = filepath.Abs("../../nbdkit-digest-filter.so"); err == nil {
		_, err = os.Stat(filter)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "build the filter first, with make:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

const manual = "nbdkit-digest-filter.pod"

// documents are those whose blocks are run.
func documents(t *testing.T) []string {
	t.Helper()
	files := []string{"README.md", "CONTRIBUTING.md", manual}
	more, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range more {
		files = append(files, "docs/"+filepath.Base(file))
	}
	return files
}

// An exception is a block that is not run as it stands.
type exception struct {
	file  string
	start string // of its first line
	why   string
	// by is a command that prints it, where there is one.
	by string
}

// isCommands tells whether a block is to be run. In Markdown the fence says so.
func isCommands(b block) bool {
	return b.kind == "" || b.kind == "sh" || b.kind == "console"
}

func TestCommandsDoWhatTheDocumentsSay(t *testing.T) {
	for _, tool := range []string{"gpg", "jq", "curl", "sfdisk"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is missing: make deps installs it", tool)
		}
	}
	k := newKit(t)
	used := make([]bool, len(exceptions))
	ran := 0
	for _, file := range documents(t) {
		var w *world
		section := ""
		for _, b := range blocksOf(t, file) {
			if !isCommands(b) {
				continue
			}
			if w == nil || b.section != section {
				w, section = k.newWorld(t), b.section
			}
			if i := exceptionFor(b); i >= 0 {
				used[i] = true
				if by := exceptions[i].by; by != "" {
					w.prints(b, by)
					continue
				}
				t.Logf("%v is not run: %s", b, exceptions[i].why)
				if b.kind != "" && incomplete(b.text) {
					t.Errorf("%v: no shell understands\n%s", b, b.text)
				}
				continue
			}
			ran++
			start := time.Now()
			w.run(b)
			t.Logf("%v took %v", b, time.Since(start))
		}
	}
	for i, e := range exceptions {
		if !used[i] {
			t.Errorf("%s has no block that starts with %q", e.file, e.start)
		}
	}
	t.Logf("%d blocks were run", ran)
}

func exceptionFor(b block) int {
	for i, e := range exceptions {
		if e.file == b.file && strings.HasPrefix(b.firstLine(), e.start) {
			return i
		}
	}
	return -1
}

// run runs one block, and looks at what it has left.
func (w *world) run(b block) {
	w.t.Helper()
	w.serveIfNeeded(b)
	if b.isTranscript() {
		w.transcript(b)
	} else {
		w.commands(b)
	}
	w.useServers(b)
	w.checkSidecars(b)
}

// serveIfNeeded starts a server for a block that talks to one, but starts
// none.
func (w *world) serveIfNeeded(b block) {
	w.t.Helper()
	socket := "/tmp/nbd.sock"
	if strings.Contains(b.text, "-U "+socket) || !strings.Contains(b.text, socket) && !strings.Contains(b.text, "$socket") {
		return
	}
	if output, status := w.bash("nbdkit -r -U " + w.real(socket) + " --filter=digest file disk.img"); status != 0 {
		w.t.Fatalf("%v: exit status %d\n%s", b, status, output)
	}
	// The copy that the block watches.
	w.bash("nbdcopy 'nbd+unix:///?socket=" + w.real(socket) + "' null:")
}
