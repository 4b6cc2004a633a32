// SPDX-License-Identifier: BSD-3-Clause

package tests

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What a client is told of an export must be what it is told without the
// filter.
func TestExportsLookTheSameThroughTheFilter(t *testing.T) {
	image := randomImage(t, 1*mib+3)
	for _, c := range []struct {
		name  string
		layer []string
	}{
		{"file", []string{"file", image}},
		{"file for reading only", []string{"-r", "file", image}},
		{"directory", []string{"file", "dir=" + filepath.Dir(image)}},
		{"memory", []string{"memory", "10M"}},
		{"null", []string{"null", "1G"}},
		{"empty", []string{"null", "0"}},
		{"largest", []string{"memory", "9223372036854775807"}},
		{"no zero", []string{"--filter=nozero", "memory", "10M"}},
		{"no extents, no fua, no cache", []string{"--filter=noextents", "--filter=fua", "--filter=nocache", "memory", "10M", "fuamode=discard", "cachemode=none"}},
		{"block sizes", []string{"--filter=blocksize-policy", "memory", "10M", "blocksize-minimum=4096", "blocksize-preferred=64k", "blocksize-maximum=1M"}},
		{"several exports", []string{"ondemand", "dir=" + t.TempDir(), "size=1M"}},
		{"description", []string{"--filter=exportname", "memory", "1M", "default-export=disk", "exportname=disk", "exportname-list=explicit", "exportdesc=fixed:a disk"}},
		{"no multi-conn", []string{"--filter=multi-conn", "memory", "1M", "multi-conn-mode=disable"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			plain := serve(t, c.layer...)
			s := serve(t, append(append([]string{"--filter=" + filter}, c.layer...), "digest-query=false", "signature=any")...)
			for _, ask := range [][]string{{"--json"}, {"--json", "--list"}, {"--json", "--no-content"}} {
				want := execute(t, "", append(append([]string{"nbdinfo"}, ask...), plain.uri())...)
				got := execute(t, "", append(append([]string{"nbdinfo"}, ask...), s.uri())...)
				if g := strings.ReplaceAll(got.stdout, s.socket(), plain.socket()); g != want.stdout || got.status != want.status {
					t.Errorf("nbdinfo %v says\n%swhere it says without the filter\n%s", ask, g, want.stdout)
				}
			}
		})
	}
}

// commands is all that a client can ask for, and prints what it gets.
const commands = `
def attempt(what, *args, **kwargs):
    try:
        r = getattr(h, what)(*args, **kwargs)
        print(what, args[1:], r if isinstance(r, (bytes, bytearray)) and len(r) < 20 else type(r))
    except nbd.Error as e:
        print(what, args[1:], e.errno)

h.set_strict_mode(0)
data = bytes(range(256)) * 16
attempt("pwrite", data, 0)
attempt("pwrite", data, 4096, nbd.CMD_FLAG_FUA)
attempt("pwrite", b"x", 1)
attempt("pread", 10, 0)
attempt("zero", 4096, 8192)
attempt("zero", 4096, 8192, nbd.CMD_FLAG_NO_HOLE)
if h.can_fast_zero():
    attempt("zero", 4096, 12288, nbd.CMD_FLAG_FAST_ZERO)
    attempt("zero", 513, 77, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE)
attempt("zero", 4096, 12288, nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_NO_HOLE)
attempt("trim", 4096, 16384)
attempt("trim", 4096, 20480, nbd.CMD_FLAG_FUA)
attempt("flush")
attempt("cache", 4096, 4096)
attempt("pread", 10, 4090)
attempt("pread", 1, h.get_size())
attempt("pwrite", b"x", h.get_size())
attempt("zero", 10, h.get_size() - 5)
def extent(context, offset, extents, error):
    print("extents", context, offset, extents)
    return 0
try:
    h.block_status(h.get_size() - 100, 50, extent)
    h.block_status(65536, 0, extent, nbd.CMD_FLAG_REQ_ONE)
except nbd.Error as e:
    print("block_status", e.errno)
`

// Every request must come to the layer below once, with its flags, and its
// answer must come back.
func TestRequestsReachTheLayerBelowAsTheyAre(t *testing.T) {
	for _, c := range []struct {
		name  string
		layer []string
	}{
		{"memory", []string{"memory", "1M"}},
		{"memory in small blocks", []string{"memory", "1M", "allocator=malloc"}},
		{"file", []string{"file", "FILE"}},
		{"file for reading only", []string{"-r", "file", "FILE"}},
		{"no zero, fua by flush", []string{"--filter=nozero", "--filter=fua", "memory", "1M", "fuamode=emulate"}},
		{"zero that may fail to be fast", []string{"--filter=nozero", "memory", "1M", "zeromode=notrim", "fastzeromode=slow"}},
		{"full disk", []string{"full", "1M"}},
		{"errors", []string{"--filter=error", "memory", "1M", "error-pwrite=ENOSPC", "error-pwrite-rate=1", "error-trim=EPERM", "error-trim-rate=1"}},
		{"cow", []string{"--filter=cow", "memory", "1M", "cow-block-size=4096"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var logs, replies [2]string
			for i, filters := range [][]string{nil, {"--filter=" + filter}} {
				log := filepath.Join(t.TempDir(), "log")
				layer := slices.Clone(c.layer)
				if j := slices.Index(layer, "FILE"); j >= 0 {
					layer[j] = randomImage(t, 1*mib)
				}
				if filters != nil { // its own look at the image is no client's request
					layer = append(layer, "signature=any", "signature-unsafe=allow")
				}
				s := serve(t, append(append(filters, "--filter=log"), append(layer, "logfile="+log)...)...)
				replies[i] = run(t, "", "/usr/bin/python3", "-m", "nbd", "--base-allocation", "-u", s.uri(), "-c", commands)
				for _, r := range requests(t, log) {
					// The filter asks for extents after a trim.
					if r.connection == 1 && r.action != "Extents" {
						logs[i] += fmt.Sprintln(r.text)
					}
				}
				s.signal(interrupt)
			}
			if replies[0] != replies[1] {
				t.Errorf("the client gets\n%swhere it gets without the filter\n%s", replies[1], replies[0])
			}
			if logs[0] != logs[1] {
				t.Errorf("the layer below is asked\n%swhere it is asked without the filter\n%s", logs[1], logs[0])
			}
			if !strings.Contains(logs[0], "Read") {
				t.Errorf("the log tells nothing:\n%s", logs[0])
			}
		})
	}
}

// Through the filter, other readers than the client read what was written.
func TestWritesArriveInTheFile(t *testing.T) {
	t.Parallel()
	a, b := randomImage(t, 1*mib), randomImage(t, 1*mib)
	for image, filters := range map[string][]string{a: {"--filter=" + filter}, b: nil} {
		s := serve(t, append(filters, "file", image)...)
		nbdsh(t, s.uri(), `
for i in range(50):
    h.pwrite(bytes([i]) * (i * 37 + 1), i * 20011)
    h.zero(i * 11 + 1, i * 20011 + 5000)
    h.trim(4096, 4096 * (i * 5 % 256))
h.flush()
`)
		s.signal(interrupt)
	}
	if !same(t, a, b) {
		t.Error("the files differ")
	}
}
