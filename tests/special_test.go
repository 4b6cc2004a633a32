// SPDX-License-Identifier: BSD-3-Clause

package tests

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Results for what is not a regular file, and for links.

func TestSpecialFilesAreWrittenInPlace(t *testing.T) {
	path := randomImage(t, 100*kib)
	sum := line("blake3", "-", sumOf(t, "blake3", path))

	t.Run("FIFO", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		run(t, dir, "mkfifo", "fifo")
		background(t, "sh", "-c", `cat "$1/fifo" > "$1/out"; touch "$1/done"`, "sh", dir)
		digestOf(t, path, "digest-file="+dir+"/fifo")
		waitFor(t, "the reader", func() bool { return exists(dir + "/done") })
		if got := contents(t, dir+"/out"); got != sum {
			t.Errorf("the reader got %q", got)
		}
		if info, err := os.Lstat(dir + "/fifo"); err != nil || info.Mode().Type() != os.ModeNamedPipe {
			t.Error("the FIFO was replaced")
		}
	})

	t.Run("FIFO that nobody reads", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		run(t, dir, "mkfifo", "fifo")
		s := serveUnseen(t, "--filter="+filter, "file", path, "digest-file="+dir+"/fifo")
		copyAll(t, s.uri())
		wantFailure(t, s, "cannot be written: nobody has opened the FIFO for reading")
	})

	t.Run("FIFO with a reader that does not read", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		run(t, dir, "mkfifo", "fifo")
		reader, err := os.OpenFile(dir+"/fifo", os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		s := serveUnseen(t, "--filter="+filter, "file", path, "digest-name="+strings.Repeat("x", 100000), "digest-file="+dir+"/fifo")
		copyAll(t, s.uri())
		wantFailure(t, s, "its reader does not read")
	})

	t.Run("FIFO that takes a part at a time", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		run(t, dir, "mkfifo", "fifo")
		name := strings.Repeat("x", 100000)
		background(t, "sh", "-c", `{ sleep 1; cat; } < "$1/fifo" > "$1/out"; touch "$1/done"`, "sh", dir)
		digestOf(t, path, "digest-name="+name, "digest-file="+dir+"/fifo")
		waitFor(t, "the reader", func() bool { return exists(dir + "/done") })
		if got := contents(t, dir+"/out"); got != line("blake3", name, sumOf(t, "blake3", path)) {
			t.Errorf("the reader got %d bytes", len(got))
		}
	})

	for _, device := range []string{"/dev/stdout", "/proc/self/fd/1", "/dev/stderr"} {
		t.Run(device, func(t *testing.T) {
			t.Parallel()
			o := execute(t, "", "nbdkit", "-U", "-", "--filter="+filter, "file", path, "digest-file="+device, "--run",
				`echo before; echo before >&2; nbdcopy "$uri" null:`)
			got, other := o.stdout, o.stderr
			if device == "/dev/stderr" {
				got, other = other, got
			}
			if got != "before\n"+sum || other != "before\n" {
				t.Errorf("stdout has\n%sand stderr\n%s", o.stdout, o.stderr)
			}
		})
		t.Run(device+" as a pipe", func(t *testing.T) {
			t.Parallel()
			got := run(t, "", "sh", "-c", `{ nbdkit -U - "$@" --run 'echo before; nbdcopy "$uri" null:' 2>&1; } | cat`, "sh",
				"--filter="+filter, "file", path, "digest-file="+device)
			if got != "before\n"+sum {
				t.Errorf("the pipe has\n%s", got)
			}
		})
	}

	t.Run("link to /dev/stdout", func(t *testing.T) {
		t.Parallel()
		link := filepath.Join(t.TempDir(), "link")
		if err := os.Symlink("/dev/stdout", link); err != nil {
			t.Fatal(err)
		}
		got := run(t, "", "nbdkit", "-U", "-", "--filter="+filter, "file", path, "digest-file="+link, "--run", `nbdcopy "$uri" null:`)
		if got != sum {
			t.Errorf("stdout has\n%s", got)
		}
		if target, err := os.Readlink(link); err != nil || target != "/dev/stdout" {
			t.Errorf("the link was replaced: %v", err)
		}
	})

	for name, redirect := range map[string]string{"log": "9>>log", "file that is written to": "9>log; echo earlier >&9"} {
		for _, file := range []string{"/dev/fd/9", "/proc/self/fd/9"} {
			t.Run(name+" as "+file, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				write(t, dir+"/log", "earlier\n")
				run(t, dir, "sh", "-c", `exec `+redirect+`; nbdkit -U - "$@" --run 'nbdcopy "$uri" null:'; echo later >&9`, "sh",
					"--filter="+filter, "file", path, "digest-file="+file)
				if got := contents(t, dir+"/log"); got != "earlier\n"+sum+"later\n" {
					t.Errorf("the log has\n%s", got)
				}
			})
		}
	}

	t.Run("log of another process", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		write(t, dir+"/log", "earlier\n")
		run(t, dir, "sh", "-c", `exec 9>>log; (exec 9>&-; exec nbdkit -U - "$@" digest-file=/proc/$$/fd/9 --run 'nbdcopy "$uri" null:'); true`, "sh",
			"--filter="+filter, "file", path)
		if got := contents(t, dir+"/log"); got != "earlier\n"+sum {
			t.Errorf("the log has\n%s", got)
		}
	})

	t.Run("/dev/null", func(t *testing.T) {
		t.Parallel()
		if log := digestOf(t, path, "digest-file=/dev/null"); log != "" {
			t.Errorf("stderr has %q", log)
		}
		if info, err := os.Lstat("/dev/null"); err != nil || info.Mode().Type() != os.ModeDevice|os.ModeCharDevice {
			t.Errorf("/dev/null is not a device any more: %v %v", info, err)
		}
	})

	t.Run("file that is a mount point", func(t *testing.T) {
		t.Parallel()
		if o := execute(t, "", "unshare", "-m", "mount", "--bind", "/tmp", "/tmp"); o.status != 0 {
			t.Skipf("this user may not mount: %s", o.stderr)
		}
		dir := t.TempDir()
		write(t, dir+"/outside", stale)
		write(t, dir+"/inside", "")
		run(t, dir, "unshare", "-m", "sh", "-ec", `mount --bind outside inside; nbdkit -U - "$@" --run 'nbdcopy "$uri" null:'`, "sh",
			"--filter="+filter, "file", path, "digest-file=inside")
		if got := contents(t, dir+"/outside"); got != sum {
			t.Errorf("the file has %q", got)
		}
		if got := contents(t, dir+"/inside"); got != "" {
			t.Errorf("the mount point has %q", got)
		}
	})
}

func TestSymbolicLinkIsReplaced(t *testing.T) {
	t.Parallel()
	path := randomImage(t, 100*kib)
	dir := t.TempDir()
	write(t, dir+"/precious", "precious")
	for _, target := range []string{"precious", dir + "/precious", "nowhere", "/proc/self/root" + dir + "/precious"} {
		sidecar := filepath.Join(dir, "disk.sum")
		os.Remove(sidecar)
		if err := os.Symlink(target, sidecar); err != nil {
			t.Fatal(err)
		}
		digestOf(t, path, "digest-file="+sidecar)
		wantDigests(t, sidecar, path, "blake3")
		if info, err := os.Lstat(sidecar); err != nil || !info.Mode().IsRegular() {
			t.Errorf("the link to %s is still there", target)
		}
		if contents(t, dir+"/precious") != "precious" || exists(dir+"/nowhere") {
			t.Errorf("the link to %s was followed", target)
		}
	}
}
