// SPDX-License-Identifier: BSD-3-Clause

package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A checksum file is read once, by whoever starts nbdkit.

// imageWithSums makes an image and a checksum file for it, in a directory in which
// every user may read.
func imageWithSums(t *testing.T, right bool) (image, sums string) {
	t.Helper()
	dir := socketDir(t)
	image, sums = dir+"/disk.img", dir+"/SUMS"
	write(t, image, contents(t, randomImage(t, 3*mib)))
	sum := sumOf(t, "sha256", image)
	if !right {
		sum = bend(sum)
	}
	write(t, sums, sum+"  disk.img\n")
	return image, sums
}

// wantJudged copies an image, which is the expected one or is not.
func wantJudged(t *testing.T, uri string, right bool) {
	t.Helper()
	if o := execute(t, "", "nbdcopy", uri, "null:"); (o.status == 0) != right {
		t.Errorf("right is %v, and a copy ends with status %d\n%s", right, o.status, o.stderr)
	}
}

// The file is removed as soon as the parameters have been checked.
func TestChecksumFileThatHasGone(t *testing.T) {
	for _, right := range []bool{true, false} {
		for _, daemon := range []bool{false, true} {
			t.Run(fmt.Sprint(right, daemon), func(t *testing.T) {
				t.Parallel()
				image, sums := imageWithSums(t, right)
				args := []string{"-r", "--filter=" + filter, "eval", "get_ready=rm " + sums, fmt.Sprintf("get_size=echo %d", 3*mib),
					"pread=dd if=" + image + " iflag=skip_bytes,count_bytes bs=64k skip=$4 count=$3 status=none",
					"digest-expect=@" + sums, "digest-expect=sha256:@" + sums}
				defer func() {
					if exists(sums) {
						t.Error("the file is still there")
					}
				}()
				if daemon {
					d := startDaemon(t, "", args)
					wantJudged(t, "nbd+unix:///?socket="+d.socket, right)
					d.stop(t)
					return
				}
				s := serve(t, args...)
				wantJudged(t, s.uri(), right)
				s.signal(terminate)
				if status := s.cmd.ProcessState.ExitCode(); (status == 0) != right {
					t.Errorf("nbdkit ends with status %d\n%s", status, s.stderr())
				}
			})
		}
	}
}

// So are an earlier result, and the checksum file, that nobody but root may read.
func TestChecksumFileThatTheUserOfNbdkitCannotRead(t *testing.T) {
	t.Parallel()
	uid, gid, group := nobody(t)
	image, sums := imageWithSums(t, true)
	write(t, sums+".out", stale)
	for _, err := range []error{os.Chmod(sums, 0o600), os.Chmod(sums+".out", 0o600), os.Chown(filepath.Dir(sums), uid, gid)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	run(t, "", "nbdkit", "-u", "nobody", "-g", group, "-r", "-U", "-", "--filter="+filter, "file", image,
		"digest-expect=@"+sums, "digest-file="+sums+".out", "--run", "nbdcopy $uri null:")
	wantDigests(t, sums+".out", image, "sha256")
}

// What is handed on to the process that serves is more than a pipe holds.
func TestChecksumFileAndLongParameters(t *testing.T) {
	t.Parallel()
	image, sums := imageWithSums(t, true)
	name := strings.Repeat("long/", 25000) + "disk.img"
	run(t, "", "nbdkit", "-r", "-U", "-", "--filter="+filter, "file", image,
		"digest-expect=@"+sums, "digest-name="+name, "digest-file="+sums+".out", "--run", "nbdcopy $uri null:")
	if got, want := contents(t, sums+".out"), line("sha256", name, sumOf(t, "sha256", image)); got != want {
		t.Errorf("the sidecar has %d bytes, not %d", len(got), len(want))
	}
}

func TestChecksumsFromAPipe(t *testing.T) {
	t.Parallel()
	for _, right := range []bool{true, false} {
		image, sums := imageWithSums(t, right)
		o := execute(t, "", "bash", "-c", `nbdkit -r -U - --filter="$1" file "$2" digest-expect=@<(cat "$3") --run 'nbdcopy $uri null:'`,
			"bash", filter, image, sums)
		if (o.status == 0) != right || strings.Contains(o.stderr, "digest mismatch") == right {
			t.Errorf("right is %v: status %d\n%s", right, o.status, o.stderr)
		}
		o = execute(t, "", "sh", "-c", `cat "$3" | nbdkit -s -r --filter="$1" file "$2" digest-expect=@/dev/stdin`, "sh", filter, image, sums)
		if o.status != 1 || !strings.Contains(o.stderr, "standard input is the connection to the client: name a file") {
			t.Errorf("status %d\n%s", o.status, o.stderr)
		}
	}
}

// nbdkit may be ended while it waits for a checksum file. Whoever waits for what it
// prints must not wait for the process that checks.
func TestChecksumsThatDoNotCome(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	run(t, dir, "mkfifo", "fifo")
	run(t, dir, "timeout", "30", "sh", "-c", `x=$(timeout --foreground 1 nbdkit -U - --filter="$1" null 1M digest-expect=@fifo --run true 2>&1); true`, "sh", filter)
}
