// SPDX-License-Identifier: BSD-3-Clause

package tests

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// build makes a filter of a package, as the Makefile does, with more flags
// for the C compiler.
func build(t *testing.T, pkg, cflags string) string {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	// nbdkit's own name for a filter's file.
	name := filepath.Base(pkg)
	if name == "." {
		name = "digest"
	}
	out := filepath.Join(t.TempDir(), "nbdkit-"+name+"-filter.so")
	run(t, root, "env", "CGO_ENABLED=1", "CGO_CFLAGS="+cflags+" -g -O2",
		"go", "build", "-trimpath", "-buildvcs=false", "-buildmode=c-shared",
		"-ldflags", `-s -w -extldflags "-Wl,-T,`+root+`/nbdkit/init.ld"`, "-o", out, pkg)
	return out
}

// All tests of a panic use one build of the filter that panics.
func TestPanicInTheFilterCostsOneRequest(t *testing.T) {
	panics := build(t, "./tests/panic", "")
	image := randomImage(t, 64*kib)

	for _, c := range []struct {
		method string
		script string // what the client does first, which must fail with EIO
		log    string
	}{
		{"Begin", "h.pread(512, 4096)", "internal error in read: assignment to entry in nil map"},
		{"End", "h.pread(512, 4096)", "internal error in read: assignment to entry in nil map"},
		{"Begin", "h.pwrite(bytes(512), 4096)", "internal error in write: "},
		{"End", "h.pwrite(bytes(512), 4096)", "internal error in write: "},
		{"Begin", "h.zero(512, 4096)", "internal error in zero: "},
		{"End", "h.trim(512, 4096)", "internal error in trim: "},
		{"Panicked", "h.pread(512, 4096)", "internal error in read: once"},
	} {
		t.Run("in "+c.method+" of "+c.script, func(t *testing.T) {
			t.Parallel()
			s := serve(t, "--filter="+panics, "memory", "64k", "panic="+c.method)
			got := nbdsh(t, s.uri(), `
import errno
try:
    `+c.script+`
    print("no error")
except nbd.Error as e:
    print(errno.errorcode[e.errnum])
print(len(h.pread(512, 0)))
`)
			if got != "EIO\n512\n" {
				t.Errorf("the client got %q, not EIO and then an answer", got)
			}
			nbdsh(t, s.uri(), "h.pread(512, 8192)")
			log := s.stop()
			if !strings.Contains(log, "error: panic: "+c.log) || strings.Count(log, "internal error") != 1 {
				t.Errorf("the log has\n%swhere one line with %q is expected", log, c.log)
			}
		})
	}

	for _, method := range []string{"Open", "Prepare"} {
		t.Run("in "+method, func(t *testing.T) {
			t.Parallel()
			s := serve(t, "--filter="+panics, "file", image, "panic="+method)
			if o := execute(t, "", "nbdinfo", s.uriOf("broken")); o.status == 0 {
				t.Errorf("the client could connect: %s", o.stdout)
			}
			nbdsh(t, s.uri(), "h.pread(512, 4096)")
			log := s.stop()
			if !strings.Contains(log, "internal error in "+strings.ToLower(method)) {
				t.Errorf("the log has no line about it:\n%s", log)
			}
		})
	}

	for _, method := range []string{"Finalize", "Close", "Finish"} {
		t.Run("in "+method, func(t *testing.T) {
			t.Parallel()
			s := serve(t, "--filter="+panics, "file", image, "panic="+method)
			for range 2 {
				nbdsh(t, s.uri(), "h.pread(512, 4096)")
			}
			if log := s.stop(); !strings.Contains(log, "internal error in ") {
				t.Errorf("the log has no line about it:\n%s", log)
			}
		})
	}

	for _, method := range []string{"Check", "Configure", "Start"} {
		t.Run("in "+method, func(t *testing.T) {
			t.Parallel()
			o := execute(t, "", "nbdkit", "-U", "-", "--filter="+panics, "file", image, "panic="+method, "--run", `nbdinfo --size "$uri"`)
			if o.status == 0 || method == "Check" && o.status != 1 || !strings.Contains(o.stderr, "internal error in ") {
				t.Errorf("exit status %d\n%s", o.status, o.stderr)
			}
		})
	}

	t.Run("in one of many requests at a time", func(t *testing.T) {
		t.Parallel()
		s := serve(t, "--filter="+panics, "file", image, "panic=End")
		var clients sync.WaitGroup
		for range 4 {
			clients.Go(func() {
				nbdsh(t, s.uri(), `
for i in range(100):
    try:
        h.pread(512, 4096)
        raise SystemExit("no error")
    except nbd.Error:
        h.pread(512, i * 512 + 8192)
`)
			})
		}
		clients.Wait()
		if n := strings.Count(s.stop(), "internal error"); n != 400 {
			t.Errorf("%d lines in the log for 400 panics", n)
		}
	})

	t.Run("and an error of End reaches the client as it is", func(t *testing.T) {
		t.Parallel()
		s := serve(t, "--filter="+panics, "file", image, "panic=ENOSPC")
		got := nbdsh(t, s.uri(), `
import errno
try:
    h.pwrite(h.pread(512, 0), 4096)
except nbd.Error as e:
    print(errno.errorcode[e.errnum])
`)
		if got != "ENOSPC\n" {
			t.Errorf("the client got %q", got)
		}
	})
}

// Without memory Go's runtime ends the process that checks the parameters, with a
// status of its own. That must not pass for parameters that are right.
func TestNoMemoryToCheckTheParameters(t *testing.T) {
	image := randomImage(t, 64*kib)
	const limit = "300000" // KiB
	o := execute(t, "", "sh", "-c", `ulimit -v $0 && timeout 30 nbdkit -r -U - --filter="$1" file "$2" signature=qcow2 --run 'nbdcopy "$uri" null: && echo copied'`,
		limit, filter, image)
	if o.status != 1 || strings.Contains(o.stdout, "copied") {
		t.Errorf("exit status %d\n%s%s", o.status, o.stdout, o.stderr)
	}
}

// The scripts of a plugin have the limits and signals that they have without the
// filter.
func TestScriptsInheritNothingOfGo(t *testing.T) {
	var seen []string
	for _, name := range []string{"nofilter", filter} {
		out := filepath.Join(t.TempDir(), "seen")
		run(t, "", "sh", "-c", `ulimit -Sn 1024 && nbdkit -r -U - --filter="$0" eval get_size='echo 512' \
			pread="{ ulimit -Sn; grep SigIgn /proc/self/status; } > $1; head -c 512 /dev/zero" --run 'nbdcopy "$uri" null:'`, name, out)
		seen = append(seen, contents(t, out))
	}
	if seen[0] != seen[1] || seen[0] == "" {
		t.Errorf("without the filter a script has\n%swith it\n%s", seen[0], seen[1])
	}
}

// Go ends the process when it cannot have what it needs to open files. So it has that
// before the first client comes.
func TestResultNeedsNoPollerAtTheEnd(t *testing.T) {
	s := serve(t, "-r", "--filter="+filter, "null", "1M", "digest-file="+filepath.Join(t.TempDir(), "sum"))
	run(t, "", "nbdinfo", "--size", s.uri()) // it has started
	open := run(t, "", "ls", "-l", fmt.Sprintf("/proc/%d/fd", s.cmd.Process.Pid))
	if !strings.Contains(open, "eventpoll") {
		t.Errorf("nbdkit has open\n%s", open)
	}
	s.stop()
}
