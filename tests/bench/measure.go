// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A sample is one copy, in seconds and MiB.
type sample struct {
	wall      float64 // from the client's start until nbdkit is gone
	shutdown  float64 // the part of it after the client's end
	serverCPU float64
	clientCPU float64
	memory    float64 // nbdkit's peak
}

// measure runs the pairs of a case. Who goes first changes from pair to pair.
func (b *bench) measure(c copyCase) (r result, err error) {
	if err := b.prepareImage(); err != nil {
		return r, err
	}
	pairs := b.pairs * max(c.times, 1)
	if c.pairs > 0 {
		pairs = min(pairs, c.pairs)
	}
	r = result{copyCase: c, plain: make([]sample, pairs), filtered: make([]sample, pairs), tools: make(map[string][]usage)}
	for i := range pairs {
		for turn := range 2 {
			if (i+turn)%2 == 0 {
				r.plain[i], err = b.copy(c, false)
			} else {
				r.filtered[i], err = b.copy(c, true)
			}
			if err != nil {
				return r, err
			}
		}
		for _, name := range c.tools() {
			tool := onOneCore[name]
			used, err := b.command(append(tool[:len(tool):len(tool)], b.image)...)
			if err != nil {
				return r, err
			}
			r.tools[name] = append(r.tools[name], used)
		}
	}
	return r, nil
}

// copy starts nbdkit, runs the client and shuts nbdkit down.
func (b *bench) copy(c copyCase, filtered bool) (s sample, err error) {
	dir, err := os.MkdirTemp(b.dir, "copy.")
	if err != nil {
		return s, err
	}
	defer os.RemoveAll(dir)

	args := []string{"-r", "file", b.image}
	if c.server != nil {
		if args, err = c.server(b, dir); err != nil {
			return s, err
		}
	}
	sidecar := filepath.Join(dir, "digest.json")
	if filtered {
		args = append([]string{"--filter=" + b.filter}, args...)
		args = append(args, "digest="+c.digest, "digest-file="+sidecar)
	}
	server, err := b.serve(dir, args...)
	if err != nil {
		return s, err
	}
	client := c.client(b, "nbd+unix:///?socket="+server.socket)
	used, err := b.command(client...)
	if err != nil {
		server.stop()
		return s, err
	}
	if err := server.stop(); err != nil {
		return s, err
	}
	// Work that the filter puts off until the shutdown is no less work.
	s.wall = used.wall + server.shutdown
	s.shutdown, s.memory = server.shutdown, server.memory
	s.serverCPU, s.clientCPU = server.cpu, used.cpu
	if filtered && !c.unchecked {
		err = b.check(sidecar, c.digest)
	}
	return s, err
}

// check compares the sidecar's digests with those of the reference tools.
func (b *bench) check(sidecar, digests string) error {
	text, err := os.ReadFile(sidecar)
	if err != nil {
		return err
	}
	var document struct {
		Images []struct {
			State   string
			Digests []struct{ Algorithm, Hex string }
		}
	}
	if err := json.Unmarshal(text, &document); err != nil {
		return fmt.Errorf("%s: %w", sidecar, err)
	}
	if n := len(document.Images); n != 1 {
		return fmt.Errorf("the sidecar has %d images instead of one", n)
	}
	got := make(map[string]string)
	for _, d := range document.Images[0].Digests {
		got[d.Algorithm] = d.Hex
	}
	for _, algorithm := range strings.Split(digests, ",") {
		if got[algorithm] != b.want[algorithm] {
			return fmt.Errorf("wrong digest: %s should be %s, the sidecar (state %s) has %q",
				algorithm, b.want[algorithm], document.Images[0].State, got[algorithm])
		}
	}
	return nil
}

// usage is what a finished command took, in seconds.
type usage struct {
	wall, cpu, user float64
	stdout          string
}

func (b *bench) command(args ...string) (usage, error) { return b.commandIn("", args...) }

func (b *bench) commandIn(dir string, args ...string) (usage, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(b.ctx, args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	err := cmd.Run()
	wall := time.Since(start).Seconds()
	if err != nil {
		return usage{}, fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, &stderr)
	}
	return usage{wall, cpuTime(cmd.ProcessState), cmd.ProcessState.UserTime().Seconds(), stdout.String()}, nil
}

func cpuTime(p *os.ProcessState) float64 {
	return (p.UserTime() + p.SystemTime()).Seconds()
}

// A server is an nbdkit in the foreground.
type server struct {
	cmd    *exec.Cmd
	stderr bytes.Buffer
	exited chan struct{}
	err    error // of cmd.Wait, once exited is closed
	socket string

	// after stop
	shutdown, cpu, memory float64
}

// serve returns when nbdkit is ready for clients.
func (b *bench) serve(dir string, args ...string) (*server, error) {
	s := &server{
		exited: make(chan struct{}),
		socket: filepath.Join(dir, "socket"),
	}
	pidfile := filepath.Join(dir, "pid")
	s.cmd = exec.CommandContext(b.ctx, "nbdkit", append([]string{"-f", "-U", s.socket, "-P", pidfile}, args...)...)
	s.cmd.Stderr = &s.stderr
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		s.err = s.cmd.Wait()
		close(s.exited)
	}()
	// nbdkit writes the file when it listens.
	for deadline := time.Now().Add(10 * time.Second); ; {
		if _, err := os.Stat(pidfile); err == nil {
			return s, nil
		}
		select {
		case <-s.exited:
			return nil, fmt.Errorf("nbdkit did not start: %v\n%s", s.err, &s.stderr)
		case <-time.After(time.Millisecond):
		}
		if time.Now().After(deadline) {
			s.cmd.Process.Kill()
			<-s.exited
			return nil, fmt.Errorf("nbdkit did not start in 10 seconds\n%s", &s.stderr)
		}
	}
}

// serveOnce runs one client and stops the server.
func (b *bench) serveOnce(dir string, args []string, client func(uri string) []string) (*server, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	s, err := b.serve(dir, args...)
	if err != nil {
		return nil, err
	}
	_, failed := b.command(client("nbd+unix:///?socket=" + s.socket)...)
	return s, errors.Join(failed, s.stop())
}

// stop ends nbdkit and takes its measure. The peak of memory is not taken from
// its resource usage, where Linux counts this program's own, before exec, in.
func (s *server) stop() error {
	start := time.Now()
	s.memory = peakMemory(s.cmd.Process.Pid)
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("nbdkit has gone: %w\n%s", err, &s.stderr)
	}
	for {
		select {
		case <-s.exited:
			s.shutdown = time.Since(start).Seconds()
			s.cpu = cpuTime(s.cmd.ProcessState)
			if s.err != nil {
				return fmt.Errorf("nbdkit: %w\n%s", s.err, &s.stderr)
			}
			return nil
		case <-time.After(time.Millisecond):
			s.memory = max(s.memory, peakMemory(s.cmd.Process.Pid))
		}
	}
}

// peakMemory returns the peak resident size of a process in MiB, or 0 when the
// process is no more.
func peakMemory(pid int) float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, after, found := bytes.Cut(status, []byte("\nVmHWM:"))
	var kib float64
	if found {
		fmt.Sscan(string(after), &kib)
	}
	return kib / 1024
}
