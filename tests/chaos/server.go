// SPDX-License-Identifier: BSD-3-Clause

package chaos

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// patience is how long anything may take before it is taken to hang. The
// machine may be busy.
const patience = 2 * time.Minute

const (
	interrupt = syscall.SIGINT
	terminate = syscall.SIGTERM
	kill      = syscall.SIGKILL
)

// A server is an nbdkit in the foreground.
type server struct {
	cmd    *exec.Cmd
	log    string
	exited chan struct{}
	err    error // why it has not started
}

func start(dir string, args []string) *server {
	s := &server{cmd: exec.Command("nbdkit", args...), log: filepath.Join(dir, "stderr"), exited: make(chan struct{})}
	log, err := os.Create(s.log)
	if err != nil {
		s.err = err
		return s
	}
	defer log.Close()
	s.cmd.Stderr = log
	if s.err = s.cmd.Start(); s.err != nil {
		return s
	}
	go func() {
		s.cmd.Wait()
		close(s.exited)
	}()
	for begun := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		select {
		case <-s.exited:
			s.err = errors.New(s.stderr())
			return s
		default:
		}
		if _, err := os.Stat(filepath.Join(dir, "pid")); err == nil {
			return s
		}
		if time.Since(begun) > patience {
			s.cmd.Process.Kill()
			s.err = errors.New("it takes too long")
			return s
		}
	}
}

func (s *server) stderr() string {
	b, _ := os.ReadFile(s.log)
	return string(b)
}

func (s *server) signal(sig syscall.Signal) { s.cmd.Process.Signal(sig) }

// ended waits for the end of the server, which one that hangs meets by force.
func (s *server) ended() bool {
	select {
	case <-s.exited:
		return true
	case <-time.After(patience):
		s.cmd.Process.Kill()
		<-s.exited
		return false
	}
}

// pause makes nbdkit's pause filter hold all requests for a while.
func (s *server) pause(socket string, d time.Duration) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	var answer [1]byte
	conn.Write([]byte("p"))
	conn.Read(answer[:])
	time.Sleep(d)
	conn.Write([]byte("r"))
	conn.Read(answer[:])
}
