// SPDX-License-Identifier: BSD-3-Clause

// Package chaos runs the filter in a real nbdkit, with clients, faults and
// shutdowns as they fall, and looks whether it ever reports a wrong digest,
// crashes, hangs, or leaves half a result.
//
// A round is made of a seed and its number, so that one that fails can be tried
// again. What threads and programs do in it is up to the machine.
package chaos

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const (
	kib = 1 << 10
	mib = 1 << 20
)

// A disk is one export.
type disk struct {
	export string
	path   string
	size   int64

	// Of a round that replaces the content or changes the size meanwhile:
	// what there was before.
	old []byte

	mu       sync.Mutex // guards all below
	replaced bool
	earlier  map[int64]bool // blocks of 64 KiB that were read before that
	again    bool           // one of them was read after it
	opened   bool           // a client has connected after it
	touched  bool           // a client has asked for data
}

// A round is a server, its clients, and what befalls them.
type round struct {
	r       *rand.Rand
	dir     string
	figures *Figures

	disks    []*disk
	args     []string // of nbdkit
	filters  map[string]bool
	digests  []string
	unread   string
	writable bool // clients write
	behind   string
	expect   string // "", "right" or "wrong"
	verify   bool
	looks    bool
	end      string
	server   *server
	clients  []*client
	stopping chan struct{} // closed when the round ends

	mu       sync.Mutex // guards all below
	failures []string
	served   bool // a client was let in
}

// Run runs a round in a directory, and returns what was wrong.
func Run(seed, number uint64, filter, dir string, figures *Figures) (failures []string, about string) {
	r := &round{r: rand.New(rand.NewPCG(seed, number)), dir: dir, figures: figures, filters: make(map[string]bool), stopping: make(chan struct{})}
	r.choose(filter)
	if err := r.makeDisks(); err != nil {
		return []string{err.Error()}, ""
	}
	r.parameters()
	r.play()
	figures.add(&figures.Rounds, 1)
	figures.addTo(figures.Ends, r.end)
	about = fmt.Sprintf("nbdkit %s\nend %s, behind %q, expect %q, clients write %v\nstderr:\n%s",
		strings.Join(r.args, " "), r.end, r.behind, r.expect, r.writable, r.server.stderr())
	return r.failures, about
}

func (r *round) failf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

func (r *round) chance(percent int) bool { return r.r.IntN(100) < percent }

func pick[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

// choose decides what kind of a round it is.
func (r *round) choose(filter string) {
	r.args = []string{"-f", "-P", filepath.Join(r.dir, "pid"), "-U", filepath.Join(r.dir, "sock")}
	r.end = pick(r.r, "gone", "gone", "gone", "TERM", "INT", "TERM twice", "KILL")
	switch r.r.IntN(6) {
	case 0, 1, 2:
		r.writable = true
	case 3:
		r.behind = pick(r.r, "content", "content", "size")
	case 4:
		r.expect = pick(r.r, "right", "wrong")
		r.verify = r.chance(25)
	}
	if !r.writable && r.chance(60) {
		r.args = append(r.args, "-r")
	}
	if r.chance(30) {
		r.args = append(r.args, "-t", fmt.Sprint(1+r.r.IntN(8)))
	}
	above := r.filtersFrom("delay", "error", "rate", "blocksize", "noparallel", "exitlast")
	below := r.filtersFrom("delay", "error", "error", "noextents", "nozero", "noparallel", "retry", "readahead", "cache", "pause", "retry-request")
	for _, f := range above {
		r.args = append(r.args, "--filter="+f)
	}
	r.args = append(r.args, "--filter="+filter)
	for _, f := range below {
		r.args = append(r.args, "--filter="+f)
	}
	for range 1 + r.r.IntN(3) {
		r.digests = append(r.digests, pick(r.r, algorithms...))
	}
	r.digests = unique(r.digests)
	r.unread = pick(r.r, "early", "early", "late", "skip")
	r.looks = r.chance(30)
}

// filtersFrom returns some of the filters, each of which may be used once.
func (r *round) filtersFrom(list ...string) (some []string) {
	for range r.r.IntN(3) {
		f := pick(r.r, list...)
		switch {
		case r.filters[f]:
		// A cache keeps what the oracle cannot see, or what has changed.
		case (f == "cache" || f == "readahead") && (r.writable || r.behind != ""):
		default:
			r.filters[f] = true
			some = append(some, f)
		}
	}
	return some
}

func unique(list []string) (short []string) {
	seen := make(map[string]bool)
	for _, s := range list {
		if !seen[s] {
			seen[s], short = true, append(short, s)
		}
	}
	return short
}

func (r *round) makeDisks() error {
	names := []string{""}
	if r.behind == "" && r.expect == "" && r.chance(20) {
		names = []string{"a.img", "b.img", "c.img"}[:1+r.r.IntN(3)]
		if r.filters["cache"] {
			names = names[:1] // nbdkit's takes all exports for one
		}
	}
	if err := os.Mkdir(filepath.Join(r.dir, "disks"), 0o755); err != nil {
		return err
	}
	for _, name := range names {
		d := &disk{export: name, earlier: make(map[int64]bool)}
		d.path = filepath.Join(r.dir, "disks", "disk"+name)
		if name != "" {
			d.path = filepath.Join(r.dir, "disks", name)
		}
		d.size = 1 + r.r.Int64N(pick[int64](r.r, 5000, 300*kib, 4*mib, 8*mib))
		for _, a := range r.digests {
			d.size += (blockOf(a) - d.size%blockOf(a)) % blockOf(a)
		}
		if err := r.fill(d); err != nil {
			return err
		}
		r.disks = append(r.disks, d)
	}
	if names[0] == "" {
		r.args = append(r.args, "file", r.disks[0].path)
	} else {
		r.args = append(r.args, "file", "dir="+filepath.Join(r.dir, "disks"))
	}
	return nil
}

// fill writes data and leaves holes.
func (r *round) fill(d *disk) error {
	f, err := os.Create(d.path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(d.size); err != nil {
		return err
	}
	for at := int64(0); at < d.size; {
		n := min(d.size-at, 1+r.r.Int64N(mib))
		if r.chance(70) || r.behind != "" {
			if _, err := f.WriteAt(randomBytes(r.r, n), at); err != nil {
				return err
			}
		}
		at += n
	}
	return nil
}

func randomBytes(r *rand.Rand, n int64) []byte {
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(r.Uint32())
	}
	p := make([]byte, n)
	rand.NewChaCha8(seed).Read(p)
	return p
}

// parameters are the filter's, and those of the filters around it.
func (r *round) parameters() {
	add := func(format string, args ...any) { r.args = append(r.args, fmt.Sprintf(format, args...)) }
	add("digest=%s", strings.Join(r.digests, ","))
	add("digest-file=%s", r.sidecar())
	add("digest-unread=%s", r.unread)
	if r.chance(50) {
		add("digest-memory=%dM", 1+r.r.IntN(3))
	}
	if !r.looks {
		add("signature=any")
		add("signature-unsafe=allow")
	} else {
		add("signature=any") // random data may look like anything
	}
	if r.expect != "" {
		sum := digest(r.digests[0], r.content(r.disks[0]))
		if r.expect == "wrong" {
			sum = strings.Repeat("0", len(sum))
		}
		add("digest-expect=%s:%s", r.digests[0], sum)
		if r.verify {
			add("digest-verify=before")
		}
	}
	for _, p := range []struct{ filter, params string }{
		{"delay", fmt.Sprintf("rdelay=%dms wdelay=%dms delay-extents=1ms", r.r.IntN(4), r.r.IntN(4))},
		{"error", r.errors()},
		{"rate", fmt.Sprintf("rate=%dM", 200+r.r.IntN(500))},
		{"blocksize", pick(r.r, "maxdata=64k", "minblock=512 maxdata=128k", "maxlen=1M")},
		{"noparallel", pick(r.r, "serialize=requests", "serialize=all-requests")},
		{"retry", "retries=1 retry-delay=1"},
		{"retry-request", "retry-request-retries=2 retry-request-delay=1"},
		{"cache", pick(r.r, "cache-on-read=true", "cache=writeback")},
		{"pause", "pause-control=" + filepath.Join(r.dir, "pause")},
	} {
		if r.filters[p.filter] && p.params != "" {
			r.args = append(r.args, strings.Fields(p.params)...)
		}
	}
}

func (r *round) errors() string {
	var list []string
	for _, op := range []string{"pread", "pwrite", "trim", "zero", "extents"} {
		if r.chance(50) {
			list = append(list, fmt.Sprintf("error-%s=%s error-%s-rate=%d%%", op, pick(r.r, "EIO", "ENOMEM", "ENOSPC", "ESHUTDOWN"), op, 1+r.r.IntN(15)))
		}
	}
	return strings.Join(list, " ")
}

func (r *round) sidecar() string { return filepath.Join(r.dir, "sidecar", "sum.json") }

func (r *round) content(d *disk) []byte {
	b, err := os.ReadFile(d.path)
	if err != nil {
		r.failf("%v", err)
	}
	return b
}

// play runs the server and its clients until the end.
func (r *round) play() {
	if err := os.Mkdir(filepath.Dir(r.sidecar()), 0o755); err != nil {
		r.failf("%v", err)
	}
	os.WriteFile(r.sidecar(), []byte(stale), 0o644)
	r.server = start(r.dir, r.args)
	if r.server.err != nil {
		r.failf("nbdkit does not start: %v", r.server.err)
		return
	}
	for range 1 + r.r.IntN(6) {
		r.begin(r.newClient())
	}
	if r.behind != "" {
		r.wait(r.moment(300))
		r.change()
	}
	if r.filters["pause"] && r.chance(50) {
		r.server.pause(filepath.Join(r.dir, "pause"), r.moment(100))
	}
	if r.end == "gone" {
		r.wait(patience)
		if r.behind != "" {
			// A last client reads all, so that there is something to notice.
			c := r.newClient()
			c.kind, c.rude = "reader", false
			r.begin(c)
			r.wait(patience)
		}
	} else {
		r.wait(r.moment(600))
	}
	r.shutdown()
	r.judge()
}

// begin starts a client.
func (r *round) begin(c *client) {
	r.clients = append(r.clients, c)
	r.figures.add(&r.figures.Clients, 1)
	go func() {
		defer close(c.done)
		c.run()
	}()
}

// wait waits until all clients are done, but not for ever.
func (r *round) wait(limit time.Duration) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for _, c := range r.clients {
		select {
		case <-c.done:
		case <-timer.C:
			if limit == patience {
				r.failf("a client (%s) waits for ever", c.kind)
			}
			return
		}
	}
}

func (r *round) moment(ms int64) time.Duration {
	return time.Duration(r.r.Int64N(ms)) * time.Millisecond
}

// change gives the disk another content or size, behind nbdkit's back.
func (r *round) change() {
	d := r.disks[0]
	d.old = r.content(d)
	f, err := os.OpenFile(d.path, os.O_WRONLY, 0)
	if err != nil {
		r.failf("%v", err)
		return
	}
	defer f.Close()
	r.figures.add(&r.figures.Replaced, 1)
	d.mu.Lock()
	earlier := d.earlier
	d.earlier, d.replaced = nil, true // what is read now is neither
	d.mu.Unlock()
	if r.behind == "size" {
		block := int64(1)
		for _, a := range r.digests {
			block = max(block, blockOf(a))
		}
		err = f.Truncate(block * (1 + r.r.Int64N(2*d.size/block)))
	} else {
		other := make([]byte, len(d.old))
		for i, b := range d.old {
			other[i] = ^b
		}
		_, err = f.WriteAt(other, 0)
	}
	if err != nil {
		r.failf("%v", err)
	}
	d.mu.Lock()
	d.earlier = earlier
	d.mu.Unlock()
}

// shutdown ends the server, and its clients.
func (r *round) shutdown() {
	close(r.stopping)
	switch r.end {
	case "INT":
		r.server.signal(interrupt)
	case "KILL":
		r.server.signal(kill)
	default:
		r.server.signal(terminate)
	}
	if r.end != "gone" {
		time.Sleep(r.moment(200))
	}
	if r.end == "TERM twice" {
		r.server.signal(terminate)
	}
	// nbdkit waits for clients that are idle.
	for _, c := range r.clients {
		c.drop()
	}
	if !r.server.ended() {
		r.failf("nbdkit does not end")
	}
	r.wait(patience)
}
