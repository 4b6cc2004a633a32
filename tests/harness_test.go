// SPDX-License-Identifier: BSD-3-Clause

// Package tests runs the filter in a real nbdkit, with real clients, and
// compares its digests with those of coreutils and b3sum.
package tests

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// filter is the absolute path of the filter, for --filter.
var filter string

// patience is how long a program may take before it is taken to hang. PATIENCE
// sets it for a machine that has other work, too.
var patience = 2 * time.Minute

const (
	kib = 1 << 10
	mib = 1 << 20

	interrupt = syscall.SIGINT
	terminate = syscall.SIGTERM
)

func TestMain(m *testing.M) {
	// The python3 of the distribution is the one that has the nbd module. What
	// is in FIRST goes before it.
	os.Setenv("PATH", strings.TrimPrefix(os.Getenv("FIRST")+":/usr/bin:/usr/sbin:/bin:/sbin:"+os.Getenv("PATH"), ":"))
	os.Setenv("LC_ALL", "C")
	var err error
	if p := os.Getenv("PATIENCE"); p != "" {
		if patience, err = time.ParseDuration(p); err != nil {
			fmt.Fprintln(os.Stderr, "PATIENCE:", err)
			os.Exit(1)
		}
	}
	// asan.sh has built another one.
	if filter, err = filepath.Abs(cmp.Or(os.Getenv("FILTER"), "../nbdkit-digest-filter.so")); err == nil {
		_, err = os.Stat(filter)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "build the filter first, with make:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// stale is the result of an earlier run.
const stale = "MD5 (stale) = d41d8cd98f00b204e9800998ecf8427e\n"

// An outcome is what a program has left.
type outcome struct {
	stdout, stderr string
	status         int // of exit, or -1 after a signal
}

// execute runs a program in a directory and waits for its end, which a
// program that hangs meets by force. The output goes to files, so that a
// process that is left behind is not waited for.
func execute(t *testing.T, dir string, args ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = dir
	stdout, stderr := outputFile(t), outputFile(t)
	defer stdout.Close()
	defer stderr.Close()
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("%s hangs\n%s", strings.Join(args, " "), contents(t, stderr.Name()))
	}
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return outcome{contents(t, stdout.Name()), contents(t, stderr.Name()), cmd.ProcessState.ExitCode()}
}

// run is execute for programs that must succeed. It returns their output.
func run(t *testing.T, dir string, args ...string) string {
	t.Helper()
	o := execute(t, dir, args...)
	if o.status != 0 {
		t.Fatalf("%s: exit status %d\n%s%s", strings.Join(args, " "), o.status, o.stdout, o.stderr)
	}
	return o.stdout
}

func outputFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "output")
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// contents returns what a file has.
func contents(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// exists tells whether there is a file, or a link, of that name.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// randomImage makes an image that cannot be compressed.
func randomImage(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	seed := [32]byte{byte(size), byte(size >> 8), byte(size >> 16)}
	if _, err := io.CopyN(f, rand.NewChaCha8(seed), size); err != nil {
		t.Fatal(err)
	}
	return path
}

// waitFor waits until a condition holds.
func waitFor(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for start := time.Now(); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Since(start) > patience {
			t.Fatalf("waited too long for %s", what)
		}
	}
}

// waitForClose waits until nbdkit, which must be verbose, has closed a connection
// down to the plugin: a client is gone before that.
func (s *server) waitForClose(t *testing.T, plugin string) {
	t.Helper()
	waitFor(t, "nbdkit to close the connection", func() bool { return strings.Contains(s.stderr(), "debug: "+plugin+": close") })
}

// nbdsh runs a script of nbdsh, in which h is connected, and returns what it
// prints.
func nbdsh(t *testing.T, uri, script string) string {
	t.Helper()
	return run(t, "", "/usr/bin/python3", "-m", "nbd", "-u", uri, "-c", script)
}

// offline runs a script of nbdsh, in which h is not connected.
func offline(t *testing.T, script string) string {
	t.Helper()
	return run(t, "", "/usr/bin/python3", "-m", "nbd", "-c", script)
}

// copyAll reads the whole of an image as most clients do.
func copyAll(t *testing.T, uri string) {
	t.Helper()
	run(t, "", "nbdcopy", uri, "null:")
}

// sumOf returns the digest of a file, as coreutils or b3sum compute it, or the
// tool that the tree is of.
func sumOf(t *testing.T, algorithm, path string) string {
	t.Helper()
	if strings.Contains(algorithm, "/") {
		return treeSum(t, algorithm, "", path)
	}
	tool := []string{algorithm + "sum", path}
	if algorithm == "blake3" {
		tool = []string{"b3sum", path}
	}
	return strings.TrimPrefix(strings.Fields(run(t, "", tool...))[0], `\`)
}

// line is a line of a sidecar in the text format.
func line(algorithm, name, sum string) string {
	tag := strings.ToUpper(strings.ReplaceAll(algorithm, "/", "-"))
	return fmt.Sprintf("%s (%s) = %s\n", tag, name, sum)
}

// wantDigests checks that a sidecar in the text format has the digests of an
// image, in that order, and nothing else.
func wantDigests(t *testing.T, sidecar, image string, algorithms ...string) {
	t.Helper()
	got, err := os.ReadFile(sidecar)
	if err != nil {
		t.Errorf("no result: %v", err)
		return
	}
	var want strings.Builder
	for _, a := range algorithms {
		want.WriteString(line(a, "-", sumOf(t, a, image)))
	}
	if string(got) != want.String() {
		t.Errorf("the sidecar has\n%swhere the tools say\n%s", got, want.String())
	}
}

// wantComments checks that a sidecar has as many comments, and no digest.
func wantComments(t *testing.T, sidecar string, count int) {
	t.Helper()
	got := contents(t, sidecar)
	if lines := strings.Count(got, "\n"); lines != count || strings.Count(got, "# ") != count || !strings.HasPrefix(got, "# ") {
		t.Errorf("the sidecar has\n%swhere %d comments are expected", got, count)
	}
}

// A request is one line of nbdkit's log filter, but for numbers that differ
// from run to run.
type request struct {
	connection    int
	action        string // Read, Write, ...
	offset, count int64
	text          string // what follows the number of the request
}

// requests reads what nbdkit's log filter has written: the beginnings of all
// requests, in order.
func requests(t *testing.T, log string) []request {
	t.Helper()
	var found []request
	for l := range strings.Lines(contents(t, log)) {
		fields := strings.Fields(l)
		// The time before it is two fields, or one where nbdkit 1.48 tells none.
		for len(fields) > 0 && !strings.HasPrefix(fields[0], "connection=") {
			fields = fields[1:]
		}
		if len(fields) < 3 || !strings.HasPrefix(fields[2], "id=") || strings.HasPrefix(fields[1], "...") {
			continue
		}
		r := request{action: fields[1], text: strings.Join(append(fields[1:2:2], fields[3:]...), " ")}
		for _, f := range fields {
			key, value, _ := strings.Cut(f, "=")
			n, _ := strconv.ParseInt(value, 0, 64)
			switch key {
			case "connection":
				r.connection = int(n)
			case "offset":
				r.offset = n
			case "count":
				r.count = n
			}
		}
		found = append(found, r)
	}
	return found
}

// bytesRead returns how many bytes were asked for, and how many of them for
// another time.
func bytesRead(t *testing.T, log string, size int64) (total, again int64) {
	t.Helper()
	seen := make([]bool, size)
	for _, r := range requests(t, log) {
		if r.action != "Read" {
			continue
		}
		total += r.count
		for i := range seen[r.offset : r.offset+r.count] {
			if seen[r.offset+int64(i)] {
				again++
			}
			seen[r.offset+int64(i)] = true
		}
	}
	return total, again
}

// same tells whether two files have the same bytes.
func same(t *testing.T, a, b string) bool {
	t.Helper()
	return bytes.Equal([]byte(contents(t, a)), []byte(contents(t, b)))
}

// background starts a program that the test ends itself.
func background(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	stderr := outputFile(t)
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		stderr.Close()
	})
	return cmd
}

// freePort returns a TCP port that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// pyList writes strings as a list in Python.
func pyList(items []string) string {
	var quoted []string
	for _, s := range items {
		quoted = append(quoted, strconv.QuoteToASCII(s))
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}
