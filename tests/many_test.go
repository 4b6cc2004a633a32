// SPDX-License-Identifier: BSD-3-Clause

package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"nbdkit-digest-filter/tests/nbd"
)

// What clients leave in the server when they have gone: nothing.

// soaking tells whether tests that last may last: see "make soak".
var soaking = os.Getenv("SOAK") != ""

// usage is what a process holds of the system.
type usage struct{ threads, fds, rssKiB int }

func (u usage) String() string {
	return fmt.Sprintf("%d threads, %d descriptors, %d MiB", u.threads, u.fds, u.rssKiB/1024)
}

func (s *server) usage() (u usage) {
	s.t.Helper()
	proc := fmt.Sprintf("/proc/%d/", s.cmd.Process.Pid)
	for line := range strings.Lines(contents(s.t, proc+"status")) {
		fields := strings.Fields(line)
		switch fields[0] {
		case "Threads:":
			u.threads, _ = strconv.Atoi(fields[1])
		case "VmRSS:":
			u.rssKiB, _ = strconv.Atoi(fields[1])
		}
	}
	fds, err := os.ReadDir(proc + "fd")
	if err != nil {
		s.t.Fatal(err)
	}
	u.fds = len(fds)
	return u
}

// waits returns how often threads of the server have waited for something.
func (s *server) waits() (n int) {
	s.t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", s.cmd.Process.Pid))
	if err != nil || len(files) == 0 {
		s.t.Fatal("no thread of the server can be seen: ", err)
	}
	for _, name := range files {
		status, _ := os.ReadFile(name) // which may have ended
		_, rest, _ := strings.Cut(string(status), "\nvoluntary_ctxt_switches:")
		fields := strings.Fields(rest)
		if len(fields) > 0 {
			more, _ := strconv.Atoi(fields[0])
			n += more
		}
	}
	return n
}

// settled waits until all clients have left the server, and returns what it
// holds then.
func (s *server) settled() (u usage) {
	s.t.Helper()
	for still := 0; still < 25; time.Sleep(20 * time.Millisecond) {
		now := s.usage()
		if still++; now.fds != u.fds || now.threads != u.threads {
			still = 0
		}
		u = now
	}
	return u
}

func dial(t *testing.T, s *server, export string) *nbd.Client {
	t.Helper()
	c, err := nbd.Dial(s.socket(), export, patience)
	if err != nil {
		t.Fatalf("%v\n%s", err, s.stderr())
	}
	return c
}

// notMore checks that a server holds what it held, but for what is kept to be
// used again.
func notMore(t *testing.T, before, after usage, rssKiB int) {
	t.Helper()
	t.Logf("before: %v; after: %v", before, after)
	// Go opens two of its own when it first has to wait for a timer or a file.
	if after.fds > before.fds+2 {
		t.Errorf("%d descriptors have leaked", after.fds-before.fds)
	}
	if after.threads > before.threads+16 {
		t.Errorf("%d threads have leaked", after.threads-before.threads)
	}
	if after.rssKiB > before.rssKiB+rssKiB {
		t.Errorf("%d KiB have leaked", after.rssKiB-before.rssKiB)
	}
}

func TestConnectionsLeaveNothingBehind(t *testing.T) {
	n := 2000
	if soaking {
		n = 10000
	}
	image := randomImage(t, 3*mib+5)
	sidecar := filepath.Join(t.TempDir(), "disk.sum")
	s := serve(t, "--filter="+filter, "file", image, "digest=sha256,blake3,blkhash", "digest-file="+sidecar)
	visit := func(i int) {
		c := dial(t, s, []string{"", "", "", ".digest", ".digest-final"}[i%5])
		c.Read(int64(i%7)*512, 4096)
		if i%3 == 0 {
			c.Drop()
		} else {
			c.Close()
		}
	}
	for i := range 200 {
		visit(i)
	}
	before := s.settled()
	for i := range n {
		visit(i)
	}
	notMore(t, before, s.settled(), 8*kib)
	s.stop()
	wantDigests(t, sidecar, image, "sha256", "blake3", "blkhash/sha256/64k")
}

// A plugin that serves whatever name a client thinks of.
func TestNamesOfExportsLeaveNothingBehind(t *testing.T) {
	n := 300
	if soaking {
		n = 1000
	}
	s := serve(t, "--filter="+filter, "memory", "32M", "digest=sha256,sha512,blkhash,fsverity/sha256/64k", "signature=any")
	visit := func(i int) { dial(t, s, fmt.Sprint("name ", i)).Close() }
	for i := range 150 { // it keeps the first 100
		visit(i)
	}
	before := s.settled()
	for i := range n {
		visit(1000 + i)
	}
	notMore(t, before, s.settled(), 8*kib)
	s.stop()
}

// Queries that read an image to its end, which no client has opened.
func TestFinalAnswersLeaveNothingBehind(t *testing.T) {
	s := serve(t, "-r", "--filter="+filter, "pattern", "24M", "digest=sha256,blake3", "signature=any")
	visit := func(i int) {
		if got := ask(t, s, fmt.Sprint(".digest-final/", i)).state(); !strings.HasPrefix(got, fmt.Sprint(i, " complete ")) {
			t.Fatalf("the answer is %s", got)
		}
	}
	for i := range 4 {
		visit(i)
	}
	before := s.settled()
	for i := range 24 {
		visit(100 + i)
	}
	notMore(t, before, s.settled(), 64*kib)
	s.stop()
}
