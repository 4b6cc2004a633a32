// SPDX-License-Identifier: BSD-3-Clause

package tests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// nbdkit, as the tests start it.

// A server is an nbdkit that serves on a Unix socket.
type server struct {
	t      *testing.T
	dir    string // the socket is in it
	cmd    *exec.Cmd
	log    *os.File // its stderr
	exited chan struct{}
}

// serve starts nbdkit in the foreground. The arguments begin with what
// follows the options that every server here has.
func serve(t *testing.T, args ...string) *server {
	t.Helper()
	s := &server{t: t, dir: socketDir(t), log: outputFile(t), exited: make(chan struct{})}
	pidfile := filepath.Join(s.dir, "pid")
	s.cmd = exec.Command("nbdkit", append([]string{"-f", "-P", pidfile, "-U", s.socket()}, args...)...)
	s.cmd.Stderr = s.log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		s.cmd.Wait()
		close(s.exited)
	}()
	t.Cleanup(func() {
		s.cmd.Process.Kill()
		<-s.exited
		s.log.Close()
	})
	waitFor(t, "nbdkit to start", func() bool {
		select {
		case <-s.exited:
			t.Fatalf("nbdkit does not start\n%s", s.stderr())
		default:
		}
		return exists(pidfile)
	})
	return s
}

// serveUnseen is serve for images at which the filter need not look.
func serveUnseen(t *testing.T, args ...string) *server {
	t.Helper()
	return serve(t, append(args, "signature=any", "signature-unsafe=allow")...)
}

// pidOf waits until nbdkit listens, and returns the number in its pid file, which
// is there a moment before its content.
func pidOf(t *testing.T, pidfile string) (pid int) {
	t.Helper()
	waitFor(t, "nbdkit to start", func() bool {
		b, _ := os.ReadFile(pidfile)
		pid, _ = strconv.Atoi(strings.TrimSpace(string(b)))
		return pid != 0
	})
	return pid
}

// waitForEnd waits until a process that is not our child has ended. Who is to bury it
// may take its time.
func waitForEnd(t *testing.T, pid int) {
	t.Helper()
	waitFor(t, "nbdkit to end", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
}

// isListening tells whether somebody listens at a socket, which is there a moment
// before that.
func isListening(t *testing.T, socket string) bool {
	t.Helper()
	const acceptsConnections = " 00010000 " // __SO_ACCEPTCON among the flags
	for line := range strings.Lines(contents(t, "/proc/net/unix")) {
		if strings.HasSuffix(line, " "+socket+"\n") && strings.Contains(line, acceptsConnections) {
			return true
		}
	}
	return false
}

// socketDir makes a directory with a name short enough for sockets, in which
// every user may write.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "digest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (s *server) socket() string { return filepath.Join(s.dir, "sock") }

func (s *server) uri() string { return "nbd+unix:///?socket=" + s.socket() }

// uriOf is the address of an export that has a name.
func (s *server) uriOf(export string) string {
	return "nbd+unix:///" + export + "?socket=" + s.socket()
}

func (s *server) stderr() string { return contents(s.t, s.log.Name()) }

// stop ends the server with SIGTERM and returns what it has said.
func (s *server) stop() string {
	s.t.Helper()
	s.signal(syscall.SIGTERM)
	if status := s.cmd.ProcessState.ExitCode(); status != 0 {
		s.t.Errorf("nbdkit: exit status %d\n%s", status, s.stderr())
	}
	return s.stderr()
}

// wantFailure ends the server, which must say once why it ends with status 1.
func wantFailure(t *testing.T, s *server, why string) {
	t.Helper()
	s.signal(terminate)
	if status, log := s.cmd.ProcessState.ExitCode(), s.stderr(); status != 1 || strings.Count(log, why) != 1 {
		t.Errorf("exit status %d, and stderr has\n%s", status, log)
	}
}

// signal sends a signal that ends the server.
func (s *server) signal(sig os.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatalf("nbdkit has gone: %v\n%s", err, s.stderr())
	}
	select {
	case <-s.exited:
	case <-time.After(patience):
		s.t.Fatalf("nbdkit does not end\n%s", s.stderr())
	}
}
