// SPDX-License-Identifier: BSD-3-Clause

package deploy

import (
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// A publisher is a web server for one image. What it answers can change, and
// it can die in the middle of an answer.
type publisher struct {
	t       *testing.T
	address string

	mu      sync.Mutex
	server  *http.Server
	handler http.Handler
	budget  int64 // bytes that it sends before it dies; negative: it lives
}

func publish(t *testing.T, handler http.Handler) *publisher {
	t.Helper()
	p := &publisher{t: t, address: "127.0.0.1:0", handler: handler, budget: -1}
	p.start()
	t.Cleanup(p.die)
	return p
}

// publishMortal is publish for a server that may die halfway and come back.
func publishMortal(t *testing.T, handler http.Handler, dies bool) *publisher {
	t.Helper()
	p := publish(t, handler)
	if dies {
		p.dieAfter(6<<20, time.Second)
	}
	return p
}

func (p *publisher) url() string { return "http://" + p.address + "/disk.qcow2" }

// start listens, after a death on the same port as before.
func (p *publisher) start() {
	p.t.Helper()
	listener, err := net.Listen("tcp", p.address)
	for deadline := time.Now().Add(10 * time.Second); err != nil && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
		listener, err = net.Listen("tcp", p.address)
	}
	if err != nil {
		p.t.Error(err)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.address = listener.Addr().String()
	p.server = &http.Server{Handler: http.HandlerFunc(p.serve)}
	go p.server.Serve(listener)
}

// die closes the port and all connections, whatever is on its way.
func (p *publisher) die() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.server.Close()
}

// dieAfter makes the server die once it has sent so many bytes. It comes back
// after a while, or not if that is 0.
func (p *publisher) dieAfter(bytes int64, while time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.budget = bytes
	inner := p.handler
	p.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		inner.ServeHTTP(&mortal{w, p, while}, r)
	})
}

func (p *publisher) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	handler := p.handler
	p.mu.Unlock()
	handler.ServeHTTP(w, r)
}

// A mortal is an answer in which the server can die.
type mortal struct {
	http.ResponseWriter
	p     *publisher
	while time.Duration
}

func (m *mortal) Write(b []byte) (int, error) {
	p := m.p
	p.mu.Lock()
	alive := p.budget < 0
	dies := !alive && p.budget < int64(len(b))
	switch {
	case dies:
		p.budget = -1
	case !alive:
		p.budget -= int64(len(b))
	}
	p.mu.Unlock()
	if dies {
		p.die()
		if m.while > 0 {
			time.AfterFunc(m.while, p.start)
		}
		return 0, io.ErrClosedPipe
	}
	return m.ResponseWriter.Write(b)
}

// file serves one file under every name.
func file(path string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, path) })
}

// page answers every request with a status and a page in HTML.
func page(status int) http.Handler {
	body := "<!DOCTYPE html>\n<html><head><title>Sorry</title></head><body>" + strings.Repeat("<p>Not here. ", 1000) + "</body></html>\n"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		if status == http.StatusOK {
			// As most servers do: with a length, and in pieces if asked.
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader(body))
			return
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
	})
}

// An edition is a disk image as it is published: a compressed qcow2.
type edition struct {
	qcow2   string // path
	sum     string // SHA-256 of that file
	content string // what a guest would see
}

// makeEdition makes a disk that cannot be compressed to less than half.
func makeEdition(t *testing.T, seed byte) edition {
	t.Helper()
	dir := t.TempDir()
	raw, qcow2 := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "disk.qcow2")
	content := noise(seed, 16<<20, 1<<20, 13<<20)
	if err := os.WriteFile(raw, content, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", raw, qcow2).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img: %v\n%s", err, out)
	}
	return edition{qcow2, sumOf([]byte(contents(t, qcow2))), string(content)}
}

// noise is an image of zeros, but from one offset to another.
func noise(seed byte, size, from, to int) []byte {
	content := make([]byte, size)
	rand.NewChaCha8([32]byte{seed}).Read(content[from:to])
	return content
}
