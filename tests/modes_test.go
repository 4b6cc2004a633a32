// SPDX-License-Identifier: BSD-3-Clause

package tests

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// The filter must start Go's runtime in the right process, whatever nbdkit
// does between loading it and serving. Each of these is another path through
// nbdkit's start.

// A mode starts nbdkit, reads all of the image through it, and ends it.
type mode struct {
	name string
	run  func(t *testing.T, args []string)
}

var modes = []mode{
	{"run", func(t *testing.T, args []string) {
		run(t, "", append(append([]string{"nbdkit", "-U", "-"}, args...), "--run", `nbdcopy "$uri" null:`)...)
	}},
	{"run with the exit status of the command", func(t *testing.T, args []string) {
		o := execute(t, "", append(append([]string{"nbdkit", "-U", "-"}, args...), "--run", `nbdcopy "$uri" null: && exit 7`)...)
		if o.status != 7 {
			t.Errorf("exit status %d, and not that of the command, 7", o.status)
		}
	}},
	{"run over TCP", func(t *testing.T, args []string) {
		run(t, "", append(append([]string{"nbdkit", "-i", "127.0.0.1", "-p", freePort(t)}, args...), "--run", `nbdcopy "$uri" null:`)...)
	}},
	{"in the foreground", func(t *testing.T, args []string) {
		s := serve(t, args...)
		copyAll(t, s.uri())
		s.stop()
	}},
	{"in the foreground, ended by SIGINT", func(t *testing.T, args []string) {
		s := serve(t, args...)
		copyAll(t, s.uri())
		s.signal(syscall.SIGINT)
	}},
	{"as a daemon", func(t *testing.T, args []string) { runDaemon(t, "", args) }},
	{"as a daemon without threads", func(t *testing.T, args []string) {
		runDaemon(t, "", append([]string{"-t", "1"}, args...))
	}},
	{"without fork, for --swap", func(t *testing.T, args []string) {
		s := serveSwap(t, args...)
		copyAll(t, s.uri())
		s.stop()
	}},
	{"with SIGCHLD ignored by its parent", func(t *testing.T, args []string) {
		socket := filepath.Join(socketDir(t), "sock")
		c := background(t, append([]string{"env", "--ignore-signal=CHLD", "nbdkit", "-f", "-U", socket}, args...)...)
		waitFor(t, "the socket", func() bool { return isListening(t, socket) })
		copyAll(t, "nbd+unix:///?socket="+socket)
		c.Process.Signal(syscall.SIGTERM)
		c.Wait()
	}},
	{"over stdin and stdout", func(t *testing.T, args []string) {
		offline(t, fmt.Sprintf("h.connect_command(%s)\n", pyList(append([]string{"nbdkit", "-s"}, args...)))+readAllScript)
	}},
	{"over a socket of its parent", func(t *testing.T, args []string) {
		// libnbd's own socket activation.
		offline(t, fmt.Sprintf("h.connect_systemd_socket_activation(%s)\n", pyList(append([]string{"nbdkit"}, args...)))+readAllScript)
	}},
	{"behind systemd-socket-activate", runActivated},
	{"with old-style negotiation", func(t *testing.T, args []string) {
		s := serve(t, append([]string{"-o"}, args...)...)
		copyAll(t, s.uri())
		s.stop()
	}},
	{"for reading only", func(t *testing.T, args []string) {
		s := serve(t, append([]string{"-r"}, args...)...)
		copyAll(t, s.uri())
		s.stop()
	}},
	{"until its parent has gone", func(t *testing.T, args []string) {
		dir := t.TempDir()
		script := `nbdkit -f --exit-with-parent -P pid -U sock "$@" &
			while [ ! -e pid ]; do sleep 0.05; done
			nbdcopy "nbd+unix:///?socket=sock" null:`
		run(t, dir, append([]string{"sh", "-c", script, "sh"}, args...)...)
	}},
	{"verbose", func(t *testing.T, args []string) {
		s := serve(t, append([]string{"-v"}, args...)...)
		copyAll(t, s.uri())
		s.stop()
	}},
}

// readAllScript reads an image in pieces and says goodbye.
const readAllScript = `
for at in range(0, h.get_size(), 1 << 18):
    h.pread(min(1 << 18, h.get_size() - at), at)
h.shutdown()
del h
`

func TestFilterWorksInEveryModeOfNbdkit(t *testing.T) {
	image := randomImage(t, 3*mib+1234)
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			sidecar := filepath.Join(t.TempDir(), "disk.sum")
			m.run(t, []string{"--filter=" + filter, "file", image,
				"digest=sha256,blake3", "digest-file=" + sidecar})
			waitFor(t, "the result", func() bool { return exists(sidecar) })
			wantDigests(t, sidecar, image, "sha256", "blake3")
		})
	}
}

// The result must be there when nbdkit is done, even if there is much to
// read after the command's end.
func TestRunEndsWhenTheResultIsWritten(t *testing.T) {
	image := randomImage(t, 64*mib)
	for _, unread := range []string{"early", "late"} {
		t.Run(unread, func(t *testing.T) {
			t.Parallel()
			sidecar := filepath.Join(t.TempDir(), "disk.sum")
			run(t, "", "nbdkit", "-U", "-", "--filter="+filter, "file", image,
				"digest=sha512,blake3", "digest-unread="+unread, "digest-file="+sidecar,
				"--run", `nbdinfo "$uri" && qemu-io -f raw -r -c "read 0 3M" "$uri"`)
			wantDigests(t, sidecar, image, "sha512", "blake3")
		})
	}
}

// A daemon changes to the root directory; names on its command line still
// mean what they meant when it was started.
func TestDaemonWritesToTheDirectoryItWasStartedIn(t *testing.T) {
	t.Parallel()
	image := randomImage(t, 100*kib)
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "results"), 0o777); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"disk.sum", "./results/disk.sum", "results/../other.sum"} {
		runDaemon(t, dir, []string{"--filter=" + filter, "file", image, "digest=sha1", "digest-file=" + name})
		wantDigests(t, filepath.Join(dir, name), image, "sha1")
	}
}

// Who starts a daemon and reads what it prints waits for its end, unless the
// filter has no use for standard output.
func TestDaemonLetsGoOfStandardOutput(t *testing.T) {
	t.Parallel()
	image := randomImage(t, 100*kib)
	const start = `out=$(nbdkit -P pid -U sock "$@") && echo "started $out"
		while [ ! -s pid ]; do sleep 0.05; done`
	for _, params := range [][]string{nil, {"digest-file=-"}, {"digest-file=disk.sum"}, {"digest-file=/dev/null"}} {
		dir := socketDir(t)
		t.Cleanup(func() { killDaemon(dir) })
		got := run(t, dir, append([]string{"sh", "-c", start, "sh", "--filter=" + filter, "file", image}, params...)...)
		if got != "started \n" {
			t.Errorf("%v: %q", params, got)
		}
	}
}

// killDaemon ends a daemon that a script has started, if the script has not.
func killDaemon(dir string) {
	b, _ := os.ReadFile(filepath.Join(dir, "pid"))
	if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
		syscall.Kill(pid, syscall.SIGKILL)
	}
}

// If it is where the result goes, a daemon keeps it.
func TestDaemonWritesToStandardOutput(t *testing.T) {
	t.Parallel()
	image := randomImage(t, 100*kib)
	for _, file := range []string{"/dev/stdout", "/proc/self/fd/1"} {
		dir := socketDir(t)
		t.Cleanup(func() { killDaemon(dir) })
		got := run(t, dir, "sh", "-c", `
			{ nbdkit -P pid -U sock "$@"
			  while [ ! -s pid ]; do sleep 0.05; done
			  nbdcopy "nbd+unix:///?socket=sock" null:
			  kill $(cat pid); } | cat`, "sh", "--filter="+filter, "file", image, "digest-file="+file)
		if want := line("blake3", "-", sumOf(t, "blake3", image)); got != want {
			t.Errorf("%s: got %q", file, got)
		}
	}
}

// With a limit on address space the filter does without what it can spare. It is
// started often, as Go's heap begins anywhere.
func TestFilterWorksWithLittleAddressSpace(t *testing.T) {
	t.Parallel()
	image, sidecar := randomImage(t, 3*mib), filepath.Join(t.TempDir(), "disk.sum")
	for range 30 {
		run(t, "", "sh", "-c", `ulimit -s 1024; ulimit -v 1800000; exec nbdkit -r -t 2 -U - "$@" --run 'timeout 20 nbdcopy "$uri" null:'`, "sh",
			"--filter="+filter, "file", image, "digest=sha256", "digest-file="+sidecar)
		wantDigests(t, sidecar, image, "sha256")
	}
}

// nobody is the user that nbdkit becomes in a test: only root can do that.
func nobody(t *testing.T) (uid, gid int, group string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can become another user")
	}
	u, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ = strconv.Atoi(u.Uid)
	gid, _ = strconv.Atoi(u.Gid)
	g, err := user.LookupGroupId(u.Gid)
	if err != nil {
		t.Fatal(err)
	}
	return uid, gid, g.Name
}

func TestUserOfNbdkitWritesTheResult(t *testing.T) {
	t.Parallel()
	uid, gid, group := nobody(t)
	// All parents of the directory must be open to nobody.
	dir := socketDir(t)
	if err := os.Chown(dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(dir, "disk.img")
	write(t, image, contents(t, randomImage(t, 190000)))

	for _, daemon := range []bool{false, true} {
		sidecar := filepath.Join(dir, fmt.Sprintf("daemon-%v.sum", daemon))
		write(t, sidecar, stale)
		args := []string{"-u", "nobody", "-g", group, "--filter=" + filter, "file", image,
			"digest=sha256,blake3", "digest-file=" + sidecar}
		if daemon {
			runDaemon(t, "", args)
		} else {
			s := serve(t, args...)
			copyAll(t, s.uri())
			s.stop()
		}
		wantDigests(t, sidecar, image, "sha256", "blake3")
		var st syscall.Stat_t
		if err := syscall.Stat(sidecar, &st); err != nil {
			t.Fatal(err)
		}
		if int(st.Uid) != uid || int(st.Gid) != gid {
			t.Errorf("daemon=%v: the sidecar belongs to %d:%d, not to %d:%d", daemon, st.Uid, st.Gid, uid, gid)
		}
	}
}

// runDaemon starts nbdkit in the background, reads all of the image, ends
// the daemon, and waits until it has gone.
func runDaemon(t *testing.T, dir string, args []string) {
	t.Helper()
	d := startDaemon(t, dir, args)
	copyAll(t, "nbd+unix:///?socket="+d.socket)
	d.stop(t)
}

type daemon struct {
	pid    int
	socket string
}

func startDaemon(t *testing.T, dir string, args []string) daemon {
	t.Helper()
	tmp := socketDir(t)
	d := daemon{socket: filepath.Join(tmp, "sock")}
	pidfile := filepath.Join(tmp, "pid")
	run(t, dir, append([]string{"nbdkit", "-P", pidfile, "-U", d.socket}, args...)...)
	d.pid = pidOf(t, pidfile)
	t.Cleanup(func() { syscall.Kill(d.pid, syscall.SIGKILL) })
	return d
}

func (d daemon) stop(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(d.pid, syscall.SIGTERM); err != nil {
		t.Fatalf("the daemon has gone: %v", err)
	}
	waitForEnd(t, d.pid)
}

// serveSwap serves with all memory locked, if this user may do so.
func serveSwap(t *testing.T, args ...string) *server {
	t.Helper()
	o := execute(t, "", "nbdkit", "-U", "-", "--swap", "null", "--run", "true")
	if o.status != 0 && strings.Contains(o.stderr, "mlockall") {
		t.Skipf("memory may not be locked here: %s", o.stderr)
	}
	return serve(t, append([]string{"--swap"}, args...)...)
}

// runActivated lets systemd listen for the first client.
func runActivated(t *testing.T, args []string) {
	dir := socketDir(t)
	socket := filepath.Join(dir, "sock")
	c := background(t, append([]string{"systemd-socket-activate", "--listen=" + socket, "nbdkit"}, args...)...)
	waitFor(t, "the socket", func() bool { return isListening(t, socket) })
	copyAll(t, "nbd+unix:///?socket="+socket)
	c.Process.Signal(syscall.SIGTERM) // it has become nbdkit
	c.Wait()
}

// Whoever works on the filter can ask where its time goes.
func TestProfile(t *testing.T) {
	dir := t.TempDir()
	run(t, dir, "nbdkit", "-r", "-U", "-", "-D", "digest.profile=1", "--filter="+filter, "pattern", "8M",
		"digest-file="+dir+"/sum", "--run", `nbdcopy "$uri" null:`)
	if found, _ := filepath.Glob(dir + "/nbdkit-digest-*.pprof"); len(found) != 1 || fileSize(t, found[0]) == 0 {
		t.Errorf("the profiles are %q", found)
	}
}
