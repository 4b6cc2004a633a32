// SPDX-License-Identifier: BSD-3-Clause

package tests

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// A document is what a query answers.
type document struct {
	Version int
	Filter  string
	Images  []struct {
		Export, Name, State, Error string
		Size                       *int64
		Digests                    []struct{ Algorithm, Hex string }
		Bytes                      map[string]int64
		Estimate                   *int64 `json:"estimated_seconds"`
	}
}

func parse(t *testing.T, answer string) (d document) {
	t.Helper()
	if err := json.Unmarshal([]byte(answer), &d); err != nil {
		t.Fatalf("%v in %q", err, answer)
	}
	if len(d.Images) == 0 {
		t.Fatalf("no image in %s", answer)
	}
	return d
}

// ask reads an export that is a query.
func ask(t *testing.T, s *server, query string) document {
	t.Helper()
	out := filepath.Join(t.TempDir(), "answer")
	run(t, "", "nbdcopy", s.uriOf(query), out)
	return parse(t, contents(t, out))
}

// askWhenGone asks for the final digest when the client that has written is gone:
// nbdkit may still be closing its connection.
func askWhenGone(t *testing.T, s *server) (d document) {
	t.Helper()
	waitFor(t, "the client that has written to be gone", func() bool {
		d = ask(t, s, ".digest-final")
		return d.Images[0].State != "changing"
	})
	return d
}

// state tells about each image of a document in a line.
func (d document) state() string {
	var all []string
	for _, im := range d.Images {
		line := im.Export + " " + im.State
		for _, digest := range im.Digests {
			line += " " + digest.Algorithm + ":" + digest.Hex
		}
		all = append(all, line)
	}
	return strings.Join(all, "\n")
}

func description(t *testing.T, s *server, export string) string {
	t.Helper()
	return strings.TrimSpace(nbdsh(t, s.uriOf(export), `
h = nbd.NBD()
h.set_opt_mode(True)
h.set_full_info(True)
h.connect_uri("`+s.uriOf(export)+`")
h.opt_info()
print(h.get_export_description())
h.opt_abort()`))
}

func wantState(t *testing.T, d document, want string) {
	t.Helper()
	if got := d.state(); got != want {
		t.Errorf("the answer is\n%s, want\n%s", got, want)
	}
}

func TestEveryClientCanAsk(t *testing.T) {
	image := randomImage(t, 2*mib+77)
	sums := "complete sha256:" + sumOf(t, "sha256", image) + " blake3:" + sumOf(t, "blake3", image)
	for _, c := range []struct {
		name string
		ask  func(t *testing.T, uri string) string
	}{
		{"nbdcopy", func(t *testing.T, uri string) string {
			return run(t, "", "sh", "-c", `nbdcopy "$0" - | cat`, uri)
		}},
		{"nbdcopy synchronously", func(t *testing.T, uri string) string {
			return run(t, "", "sh", "-c", `nbdcopy --synchronous "$0" - | cat`, uri)
		}},
		{"qemu-img dd", func(t *testing.T, uri string) string {
			out := filepath.Join(t.TempDir(), "answer")
			run(t, "", "qemu-img", "dd", "-f", "raw", "-O", "raw", "if="+uri, "of="+out)
			return contents(t, out)
		}},
		{"qemu-img convert", func(t *testing.T, uri string) string {
			out := filepath.Join(t.TempDir(), "answer")
			run(t, "", "qemu-img", "convert", "-f", "raw", "-O", "raw", uri, out)
			return contents(t, out)
		}},
		{"nbdsh", func(t *testing.T, uri string) string {
			return nbdsh(t, uri, "import sys\nsys.stdout.buffer.write(h.pread(h.get_size(), 0))")
		}},
		{"nbdsh, a byte at a time", func(t *testing.T, uri string) string {
			return nbdsh(t, uri, "import sys\nfor i in range(h.get_size()): sys.stdout.buffer.write(h.pread(1, i))")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := serveUnseen(t, "--filter="+filter, "file", image, "digest=sha256,blake3")
			wantState(t, parse(t, c.ask(t, s.uriOf(".digest"))), " pending sha256: blake3:")
			copyAll(t, s.uri())
			wantState(t, parse(t, c.ask(t, s.uriOf(".digest-final"))), " "+sums)
			wantState(t, parse(t, c.ask(t, s.uriOf(".digest"))), " "+sums)
			wantState(t, parse(t, c.ask(t, s.uriOf(".digest/"))), " "+sums)
		})
	}
}

// Answers are for reading only, and nothing else can be done with them, but for a
// flush that does nothing.
func TestAnswersAreReadOnly(t *testing.T) {
	s := serveUnseen(t, "--filter="+filter, "memory", "1M")
	for _, query := range []string{".digest", ".digest-final"} {
		got := nbdsh(t, s.uriOf(query), `
print(h.is_read_only(), h.can_flush(), h.can_trim(), h.can_zero(), h.can_fua(),
      h.can_cache(), h.can_multi_conn(), h.is_rotational(), h.get_size() % 4096)`)
		if got != "True True False False False False False False 0\n" {
			t.Errorf("%s: %s", query, got)
		}
		run(t, "", "nbdinfo", s.uriOf(query))
		run(t, "", "nbdinfo", "--map", s.uriOf(query))
	}
}

// To look at the exports, and at what is known of them, reads nothing, and
// the layer below is not even opened for it.
func TestQueriesDoNotReadTheImage(t *testing.T) {
	dir := filepath.Dir(randomImage(t, 2*mib))
	log := filepath.Join(t.TempDir(), "log")
	s := serveUnseen(t, "--filter="+filter, "--filter=log", "file", "dir="+dir, "logfile="+log)
	for _, query := range []string{".digest", ".digest/", ".digest/disk.img", ".digest/nosuch"} {
		ask(t, s, query)
		run(t, "", "nbdinfo", "--size", s.uriOf(query))
	}
	run(t, "", "nbdinfo", "--size", s.uriOf(".digest-final/disk.img"))
	if got := contents(t, log); strings.Contains(got, "connection=") && strings.Contains(got, "Connect") {
		t.Errorf("the layer below is opened:\n%s", got)
	}
	run(t, "", "nbdinfo", "--list", s.uri())
	run(t, "", "nbdinfo", "--list", "--json", s.uri())
	ask(t, s, ".digest/disk.img")
	if total, _ := bytesRead(t, log, 2*mib); total != 0 {
		t.Errorf("%d bytes are read", total)
	}
	ask(t, s, ".digest-final/disk.img")
	if total, again := bytesRead(t, log, 2*mib); total != 2*mib || again != 0 {
		t.Errorf("%d bytes are read in the end, %d again", total, again)
	}
	ask(t, s, ".digest-final/disk.img")
	if total, _ := bytesRead(t, log, 2*mib); total != 2*mib {
		t.Errorf("%d bytes are read for a digest that is known", total)
	}
}

func TestExportsOfAPluginThatHasSeveral(t *testing.T) {
	dir := t.TempDir()
	sums := make(map[string]string)
	for i, name := range []string{"a", "b", "c"} {
		if err := os.Rename(randomImage(t, mib+int64(i)), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		sums[name] = sumOf(t, "sha256", filepath.Join(dir, name))
	}
	sidecar := filepath.Join(t.TempDir(), "disk.sum")
	s := serveUnseen(t, "--filter="+filter, "file", "dir="+dir, "digest=sha256", "digest-unread=late", "digest-file="+sidecar)
	var list struct {
		Exports []struct {
			Name string `json:"export-name"`
			Size int64  `json:"export-size"`
		}
	}
	if err := json.Unmarshal([]byte(run(t, "", "nbdinfo", "--list", "--json", s.uri())), &list); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list.Exports {
		names = append(names, e.Name)
	}
	if n := len(names); n != 5 || names[3] != ".digest" || names[4] != ".digest-final" {
		t.Errorf("the exports are %q", names)
	}

	wantState(t, ask(t, s, ".digest/a"), "a pending sha256:")
	wantState(t, ask(t, s, ".digest-final/a"), "a complete sha256:"+sums["a"])
	nbdsh(t, s.uriOf("b"), "h.pread(512, 4096)")
	// An export with a name is completed when its last client leaves.
	waitFor(t, "the digest of b", func() bool { return strings.Contains(ask(t, s, ".digest/b").state(), sums["b"]) })
	wantState(t, ask(t, s, ".digest"), "a complete sha256:"+sums["a"]+"\nb complete sha256:"+sums["b"])
	nbdsh(t, s.uriOf("c"), "h.pread(512, 4096)")
	// Several are completed one after the other.
	wantState(t, ask(t, s, ".digest-final"),
		"a complete sha256:"+sums["a"]+"\nb complete sha256:"+sums["b"]+"\nc complete sha256:"+sums["c"])
	if d := ask(t, s, ".digest-final/nosuch"); d.Images[0].State != "incomplete" || d.Images[0].Error == "" {
		t.Errorf("an export that is not there is %+v", d.Images[0])
	}
	if !exists(sidecar) {
		t.Error("there is no sidecar")
	}
	s.stop()
}

func TestDescriptionTellsTheState(t *testing.T) {
	image := randomImage(t, 8*mib)
	s := serveUnseen(t, "--filter="+filter, "file", image, "digest=sha256,blake3", "digest-unread=late")
	if got := description(t, s, ""); got != "digest pending: 0.0% of 8 MiB" {
		t.Errorf("at first: %q", got)
	}
	nbdsh(t, s.uri(), "h.pread(2 << 20, 0)")
	if got := description(t, s, ""); got != "digest pending: 25.0% of 8 MiB" {
		t.Errorf("after a quarter: %q", got)
	}
	ask(t, s, ".digest-final")
	want := "sha256:" + sumOf(t, "sha256", image) + " blake3:" + sumOf(t, "blake3", image)
	if got := description(t, s, ""); got != want {
		t.Errorf("in the end: %q", got)
	}
	if got := run(t, "", "nbdinfo", s.uri()); !strings.Contains(got, want) {
		t.Errorf("nbdinfo says %s", got)
	}

	below := []string{"--filter=exportname", "memory", "1M", "default-export=disk", "exportname=disk", "exportdesc=fixed:a disk"}
	s = serveUnseen(t, append([]string{"--filter=" + filter}, below...)...)
	if got := description(t, s, "disk"); got != "digest pending: 0.0% of 1 MiB; a disk" {
		t.Errorf("with a description below: %q", got)
	}
	s = serveUnseen(t, append([]string{"--filter=" + filter}, append(below, "digest-query=no")...)...)
	if got := description(t, s, "disk"); got != "a disk" {
		t.Errorf("without queries: %q", got)
	}
}

// An export of the layer below with a name that is ours.
func TestHiddenExport(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, ".digest"), strings.Repeat("the layer below\n", 32))
	const first = "print(bytes(h.pread(15, 0)))"
	s := serveUnseen(t, "--filter="+filter, "file", "dir="+dir, "digest-unread=skip")
	for range 2 {
		if got := run(t, "", "nbdinfo", "--list", s.uri()); strings.Count(got, `export=".digest":`) != 1 {
			t.Errorf("the list is %s", got)
		}
	}
	if got := nbdsh(t, s.uriOf(".digest"), first); strings.Contains(got, "below") {
		t.Error("the export of the layer below is served")
	}
	if log := s.stop(); strings.Count(log, "digest-query=false") != 1 {
		t.Errorf("the log is %s", log)
	}
	s = serveUnseen(t, "--filter="+filter, "file", "dir="+dir, "digest-unread=skip", "digest-query=false")
	if got := nbdsh(t, s.uriOf(".digest"), first); !strings.Contains(got, "the layer below") {
		t.Errorf("with digest-query=false there is %s", got)
	}
	if log := s.stop(); strings.Contains(log, "error") {
		t.Errorf("the log is %s", log)
	}
}

// An answer is of the moment when it was opened.
func TestAnswerIsASnapshot(t *testing.T) {
	image := randomImage(t, 1*mib)
	s := serveUnseen(t, "--filter="+filter, "file", image)
	got := nbdsh(t, s.uriOf(".digest"), `
before = h.pread(100, 0)
c = nbd.NBD()
c.connect_uri("`+s.uri()+`")
c.pread(1 << 20, 0)
import json
print(json.loads(bytes(h.pread(h.get_size(), 0)))["images"][0]["state"])`)
	if got != "pending\n" {
		t.Errorf("the state is %s", got)
	}
	wantState(t, ask(t, s, ".digest"), " complete blake3:"+sumOf(t, "blake3", image))
}

func TestQueriesOverTLS(t *testing.T) {
	image := randomImage(t, 1*mib)
	dir := t.TempDir()
	psk := filepath.Join(dir, "psk")
	write(t, psk, "alice:"+strings.Repeat("0123456789abcdef", 4)+"\n")
	if err := os.Chmod(psk, 0o600); err != nil {
		t.Fatal(err)
	}
	s := serveUnseen(t, "--tls=require", "--tls-psk="+psk, "--filter="+filter, "file", image)
	for _, query := range []string{".digest-final", ".digest", ".digest/"} {
		out := filepath.Join(dir, "answer")
		run(t, "", "nbdcopy", "nbds+unix://alice@/"+query+"?socket="+s.socket()+"&tls-psk-file="+psk, out)
		wantState(t, parse(t, contents(t, out)), " complete blake3:"+sumOf(t, "blake3", image))
	}
	if o := execute(t, "", "nbdinfo", s.uriOf(".digest")); o.status == 0 {
		t.Error("a client without TLS is served")
	}
}

// Queries, copies and disconnects, all at once.
func TestRaceOfQueriesAndCopies(t *testing.T) {
	image := randomImage(t, 16*mib)
	want := " complete sha256:" + sumOf(t, "sha256", image) + " blake3:" + sumOf(t, "blake3", image)
	dir := t.TempDir()
	for _, memory := range []string{"1M", "64M"} {
		s := serveUnseen(t, "-r", "--filter="+filter, "file", image, "digest=sha256,blake3", "digest-memory="+memory)
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				out := filepath.Join(dir, fmt.Sprint(memory, i))
				run(t, "", "nbdcopy", s.uri(), out)
				if !same(t, out, image) {
					t.Error("the copy is not the image")
				}
			})
		}
		for i := range 3 {
			wg.Go(func() {
				for range 4 {
					switch i {
					case 0:
						if d := ask(t, s, ".digest"); d.Images[0].State != "pending" {
							wantState(t, d, want)
						}
					case 1:
						run(t, "", "nbdinfo", "--list", s.uri())
						wantState(t, ask(t, s, ".digest-final"), want)
					case 2:
						// One that goes away in the middle.
						exec.Command("timeout", "-s", "KILL", "0.05", "nbdcopy", "--requests=1", s.uriOf(".digest-final"), "null:").Run()
						exec.Command("timeout", "-s", "KILL", "0.05", "nbdcopy", "--requests=1", "--connections=1", s.uri(), "null:").Run()
					}
				}
			})
		}
		wg.Wait()
		wantState(t, ask(t, s, ".digest-final"), want)
		s.stop()
	}
}

// The loop in the man page, as it stands there.
func TestProgressLoopOfTheManPage(t *testing.T) {
	page := contents(t, "../nbdkit-digest-filter.pod")
	_, loop, found := strings.Cut(page, "shows a bar:\n\n")
	loop, _, ended := strings.Cut(loop, "\n\n")
	if !found || !ended || strings.Count(loop, "\n") != 4 {
		t.Fatalf("the man page has no such loop of five lines: %q", loop)
	}
	if _, err := exec.LookPath("jq"); err != nil {
		t.Skip("jq is not installed")
	}
	image := randomImage(t, 16*mib)
	s := serveUnseen(t, "-r", "--filter="+filter, "--filter=rate", "file", image, "rate=20M", "digest-unread=late")
	copying := background(t, "nbdcopy", s.uri(), "null:")
	got := run(t, "", "sh", "-c", "socket="+s.socket()+"\n"+loop)
	if err := copying.Wait(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(got, "100%") || strings.Count(got, "%") < 2 {
		t.Errorf("the bar is %q", got)
	}
}
