// SPDX-License-Identifier: BSD-3-Clause

package tests

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"nbdkit-digest-filter/tests/nbd"
)

// The sidecar is whole or absent, whatever is wrong with where it is to be.

// mounted runs a shell script in which a small file system can be mounted on
// the directory small, which is its first argument's.
func mounted(t *testing.T, dir, script string, args ...string) outcome {
	t.Helper()
	if o := execute(t, "", "unshare", "-m", "mount", "--bind", "/tmp", "/tmp"); o.status != 0 {
		t.Skipf("this user may not mount: %s", o.stderr)
	}
	if err := os.MkdirAll(filepath.Join(dir, "small"), 0o777); err != nil {
		t.Fatal(err)
	}
	return execute(t, dir, append([]string{"unshare", "-m", "sh", "-ec", script, "sh"}, args...)...)
}

func TestFullDisk(t *testing.T) {
	image := randomImage(t, 300*kib)
	sum := line("blake3", "-", sumOf(t, "blake3", image))
	for _, c := range []struct{ name, then, want, said string }{
		{"to the end", "true", "", "no space left on device"},
		{"that is mended before the end", "rm small/filler", sum, "no space left on device"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := mounted(t, t.TempDir(), `
				mount -t tmpfs -o size=64k none small
				head -c 1M /dev/zero > small/filler || true
				nbdkit -U - "$@" --run 'nbdcopy "$uri" null:; `+c.then+`'
				rm -f small/filler
				ls -A small; cat small/*`, "--filter="+filter, "file", image, "digest-file=small/sum")
			want := ""
			if c.want != "" {
				want = "sum\n" + c.want
			}
			if o.stdout != want || !strings.Contains(o.stderr, c.said) {
				t.Errorf("the directory has %q, want %q\n%s", o.stdout, want, o.stderr)
			}
		})
	}
}

func TestReadOnlyDirectory(t *testing.T) {
	image := randomImage(t, 300*kib)
	for _, c := range []struct{ name, before string }{
		{"that is empty", "true"},
		{"with an earlier result", "echo 'MD5 (stale) = d41d8cd98f00b204e9800998ecf8427e' > small/sum"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := mounted(t, t.TempDir(), `
				mount -t tmpfs none small
				`+c.before+`
				mount -o remount,ro small
				nbdkit -U - "$@" --run 'nbdcopy "$uri" null:' || echo failed
				ls -A small`, "--filter="+filter, "file", image, "digest-file=small/sum")
			if !strings.Contains(o.stderr, "neither the file nor its directory can be written") || !strings.Contains(o.stdout, "failed") {
				t.Errorf("%s%s", o.stdout, o.stderr)
			}
		})
	}
}

func TestLimitOnTheSizeOfFiles(t *testing.T) {
	image := randomImage(t, 300*kib)
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/results", 0o777); err != nil {
		t.Fatal(err)
	}
	// A block is 512 bytes: the document does not fit, the messages do.
	o := execute(t, dir, "sh", "-c", `ulimit -f 1; nbdkit -f -U sock "$@" & pid=$!
		while [ ! -e sock ]; do sleep 0.05; done
		nbdcopy "nbd+unix:///?socket=sock" null:; kill $pid; wait $pid`, "sh",
		"--filter="+filter, "file", image, "digest=sha256,sha512,md5,sha1,blake3,blkhash", "digest-file=results/sum.json")
	if o.status != 1 || !strings.Contains(o.stderr, "file too large") {
		t.Errorf("exit status %d\n%s", o.status, o.stderr)
	}
	if left, _ := os.ReadDir(dir + "/results"); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}

// In a directory in which a user may not remove a link, it must not be followed
// either: it may lead to a file of that user.
func TestLinkThatCannotBeReplacedIsNotFollowed(t *testing.T) {
	uid, gid, group := nobody(t)
	dir := socketDir(t)
	image := filepath.Join(dir, "disk.img")
	write(t, image, contents(t, randomImage(t, 190000)))
	write(t, dir+"/precious", "precious")
	others := filepath.Join(dir, "others")
	if err := os.Mkdir(others, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{os.Chown(dir+"/precious", uid, gid), os.Symlink(dir+"/precious", others+"/sum")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	o := execute(t, "", "nbdkit", "-f", "-u", "nobody", "-g", group, "-U", dir+"/sock", "--filter="+filter, "file", image, "digest-file="+others+"/sum")
	if o.status == 0 || !strings.Contains(o.stderr, "a symbolic link is not followed") {
		t.Errorf("exit status %d\n%s", o.status, o.stderr)
	}
	if got := contents(t, dir+"/precious"); got != "precious" {
		t.Errorf("the link was followed: %q", got)
	}
}

// In a container, every nbdkit may be process 1: what one that was killed has
// left must not be in the way.
func TestTemporaryFilesOfOthersAreNotInTheWay(t *testing.T) {
	image := randomImage(t, 300*kib)
	dir := t.TempDir()
	if o := execute(t, "", "unshare", "-pf", "true"); o.status != 0 {
		t.Skipf("this user may not make a namespace: %s", o.stderr)
	}
	for pid := range 10 {
		write(t, fmt.Sprintf("%s/.sum.%d.tmp", dir, pid), "half")
	}
	run(t, dir, "unshare", "-pf", "nbdkit", "-U", "-", "--filter="+filter, "file", image, "digest-file=sum", "--run", `nbdcopy "$uri" null:`)
	wantDigests(t, dir+"/sum", image, "blake3")
}

func TestTwoServersWithOneSidecar(t *testing.T) {
	a, b := randomImage(t, 500*kib), randomImage(t, 700*kib)
	dir := t.TempDir()
	sums := []string{line("blake3", "-", sumOf(t, "blake3", a)), line("blake3", "-", sumOf(t, "blake3", b))}
	for range 5 {
		first := serveUnseen(t, "--filter="+filter, "file", a, "digest-file="+dir+"/sum")
		second := serveUnseen(t, "--filter="+filter, "file", b, "digest-file="+dir+"/sum")
		one := background(t, "nbdcopy", first.uri(), "null:")
		copyAll(t, second.uri())
		one.Wait()
		// Both end at once, and write.
		if err := first.cmd.Process.Signal(terminate); err != nil {
			t.Fatal(err)
		}
		second.stop()
		<-first.exited
		if got := contents(t, dir+"/sum"); got != sums[0] && got != sums[1] {
			t.Errorf("the sidecar has %q", got)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("%v is left", left)
	}
}

// The server is killed while results come and go.
func TestKilledServerLeavesAWholeResultOrNone(t *testing.T) {
	n := 15
	if soaking {
		n = 200
	}
	r := rand.New(rand.NewPCG(1, 1))
	image := randomImage(t, 10*kib)
	digests := "md5,sha1,sha224,sha256,sha384,sha512,blake3"
	sidecar := filepath.Join(t.TempDir(), "sum")
	for i := range n {
		s := serveUnseen(t, "--filter="+filter, "file", image, "digest="+digests, "digest-file="+sidecar)
		go func() {
			for {
				c, err := nbd.Dial(s.socket(), "", patience)
				if err != nil {
					return
				}
				same, err := c.Read(0, c.Size)
				if err == nil {
					err = c.Do(nbd.CmdWrite, 0, c.Size, same).Err
				}
				if c.Close(); err != nil {
					return
				}
			}
		}()
		time.Sleep(time.Duration(r.IntN(200)) * time.Millisecond)
		s.signal(syscall.SIGKILL)
		if exists(sidecar) {
			wantDigests(t, sidecar, image, strings.Split(digests, ",")...)
		}
		if t.Failed() {
			t.Fatalf("in round %d", i)
		}
	}
}

// nbdkit ends with its parent, and leaves its result.
func TestEndOfTheParentWhileHashing(t *testing.T) {
	image := randomImage(t, 64*mib)
	dir := t.TempDir()
	parent := exec.Command("sh", "-c", `nbdkit -f --exit-with-parent -P pid -U sock "$@" & wait`, "sh",
		"--filter="+filter, "file", image, "digest=md5,sha1,sha512,blake3", "digest-unread=late", "digest-file=sum")
	parent.Dir = dir
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	pid := pidOf(t, dir+"/pid")
	nbdsh(t, "nbd+unix:///?socket="+dir+"/sock", "for at in range(0, 32 << 20, 8 << 20): h.pread(8 << 20, at)")
	parent.Process.Kill()
	parent.Wait()
	waitForEnd(t, pid)
	wantDigests(t, dir+"/sum", image, "md5", "sha1", "sha512", "blake3")
}

// quitSignals are those that end nbdkit after it has cleaned up.
var quitSignals = []os.Signal{terminate, interrupt, syscall.SIGQUIT, syscall.SIGHUP}

// A signal that comes while an image is verified lets the client go, and the
// server end.
func TestSignalEndsAVerification(t *testing.T) {
	for _, sig := range quitSignals {
		for _, digest := range []string{"sha256", "blake3"} {
			sidecar := filepath.Join(t.TempDir(), "sum")
			s := serve(t, "-r", "--filter="+filter, "pattern", "16T", // which would take hours
				"digest-expect="+digest+":"+strings.Repeat("0", 64), "digest-verify=before", "digest-file="+sidecar)
			client := background(t, "nbdinfo", "--size", s.uri())
			waitFor(t, "the verification", func() bool { return ask(t, s, ".digest/").Images[0].Bytes["filter_read"] > 2*mib })
			s.signal(sig)
			client.Wait()
			if b, err := os.ReadFile(sidecar); err == nil && strings.Contains(string(b), " = ") {
				t.Errorf("the sidecar has %q", b)
			}
		}
	}
}

// A second signal ends what the filter does for a named export.
func TestSecondSignalWhileANamedExportIsCompleted(t *testing.T) {
	for i, sig := range quitSignals {
		dir := t.TempDir()
		sidecar := filepath.Join(dir, "sum")
		digest := []string{"sha256", "blkhash/sha256/4k"}[i%2] // which take time for each zero
		s := serve(t, "--filter="+filter, "memory", "9223372036854775807", "digest="+digest, "digest-unread=late", "digest-file="+sidecar)
		c := dial(t, s, "disk")
		if _, err := c.Read(0, 3*mib); err != nil {
			t.Fatal(err)
		}
		c.Drop()
		waitFor(t, "the end pass", func() bool { return ask(t, s, ".digest/disk").Images[0].Bytes["holes"] > 4*mib })
		s.cmd.Process.Signal(sig)
		time.Sleep(300 * time.Millisecond)
		s.signal(sig)
		wantComments(t, sidecar, 1)
	}
}
