// SPDX-License-Identifier: BSD-3-Clause

package deploy

import (
	"bytes"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// An importer is CDI's: it starts the nbdkit that is the first in PATH, which
// is the wrapper, and runs qemu-img twice.
type importer struct {
	t      *testing.T
	dir    string // a name short enough for sockets
	nbdkit *exec.Cmd
	log    bytes.Buffer // nbdkit's output, which CDI copies to its own log
}

// startImporter starts nbdkit as CDI does, and waits for its pid file.
func startImporter(t *testing.T, url string, env ...string) *importer {
	t.Helper()
	dir, err := os.MkdirTemp("", "cdi")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	i := &importer{t: t, dir: dir}
	p := realInstall(t, append(env, "TMPDIR="+dir)...)
	pid := filepath.Join(dir, "nbdkit.pid")
	i.nbdkit = p.command("--foreground", "--readonly", "--exit-with-parent", "-U", i.socket(), "--pidfile", pid,
		"--filter=readahead", "--filter=retry", "-r", "curl", "header=User-Agent: cdi-nbdkit-importer",
		"retry-exponential=no", "url="+url)
	i.nbdkit.Stdout, i.nbdkit.Stderr = &i.log, &i.log
	if err := i.nbdkit.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		i.nbdkit.Process.Kill()
		i.nbdkit.Wait()
	})
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(pid); err == nil {
			return i
		}
		if time.Since(start) > 15*time.Second { // CDI's own patience
			t.Fatal("nbdkit does not start")
		}
	}
}

func (i *importer) socket() string { return filepath.Join(i.dir, "nbdkit.sock") }

func (i *importer) disk() string { return filepath.Join(i.dir, "disk.img") }

// qemuImg returns what qemu-img prints, and its exit status.
func (i *importer) qemuImg(args ...string) (output string, status int) {
	i.t.Helper()
	cmd := exec.Command("qemu-img", args...)
	out, err := cmd.CombinedOutput()
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		i.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// run is an import: info, and convert if that has not failed. CDI removes the
// disk of a convert that fails, and kills nbdkit in any case.
func (i *importer) run() (output string, status int) {
	i.t.Helper()
	uri := "nbd+unix:///?socket=" + i.socket()
	output, status = i.qemuImg("info", "--output=json", uri)
	if status == 0 {
		output, status = i.qemuImg("convert", "-t", "writeback", "-p", "-O", "raw", uri, i.disk())
	}
	// The wrapper is nbdkit by now: the signal reaches it.
	if err := i.nbdkit.Process.Signal(syscall.SIGINT); err != nil {
		i.t.Fatalf("nbdkit has gone: %v\n%s", err, i.log.String())
	}
	i.nbdkit.Wait()
	return output, status
}

func TestImportAsCDI(t *testing.T) {
	t.Parallel()
	right, other := makeEdition(t, 1), makeEdition(t, 2)
	for _, c := range []struct {
		what     string
		handler  http.Handler
		dies     bool // halfway, and comes back
		checksum string
		good     bool
		log      string // in nbdkit's log
	}{
		{what: "no checksum", handler: file(right.qcow2), good: true},
		{what: "right checksum", handler: file(right.qcow2), checksum: "sha256:" + right.sum, good: true},
		{what: "a server that dies halfway and comes back", handler: file(right.qcow2), dies: true, checksum: "sha256:" + right.sum, good: true, log: "curl"},
		{what: "another image", handler: file(other.qcow2), checksum: "sha256:" + right.sum,
			log: "digest mismatch: sha256 expected " + right.sum + " got " + other.sum},
		{what: "another image from a server that dies halfway and comes back", handler: file(other.qcow2), dies: true, checksum: "sha256:" + right.sum,
			log: "digest mismatch: sha256 expected " + right.sum + " got " + other.sum},
		{what: "an error page", handler: page(http.StatusOK), log: "signature=sane wants a disk image, but it is html (text)"},
		{what: "an error page and a checksum", handler: page(http.StatusOK), checksum: "sha256:" + right.sum,
			log: "signature=sane wants a disk image, but it is html (text)"},
		{what: "an error", handler: page(http.StatusServiceUnavailable), checksum: "sha256:" + right.sum, log: "503"},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			web := publishMortal(t, c.handler, c.dies)
			env := []string{"DIGEST=sha256"}
			if c.checksum != "" {
				env = []string{"IMPORTER_CHECKSUM=" + c.checksum}
			}
			i := startImporter(t, web.url(), env...)
			output, status := i.run()
			t.Logf("qemu-img: exit status %d, %s\nnbdkit: %s", status, output, i.log.String())
			if c.good != (status == 0) {
				t.Errorf("exit status %d of qemu-img\n%s%s", status, output, i.log.String())
			}
			if !strings.Contains(i.log.String(), c.log) || c.good && strings.Contains(i.log.String(), "digest:") {
				t.Errorf("nbdkit's log is\n%s\nwithout %q", i.log.String(), c.log)
			}
			// A mismatch is the verdict on the source: it is not tried again.
			if n := strings.Count(i.log.String(), "digest mismatch"); n > 1 {
				t.Errorf("the mismatch is reported %d times", n)
			}
			if !c.good {
				return
			}
			if exit := i.nbdkit.ProcessState.ExitCode(); exit != 0 {
				t.Errorf("exit status %d of nbdkit\n%s", exit, i.log.String())
			}
			if contents(t, i.disk()) != right.content {
				t.Error("the copy is not the image")
			}
			sidecar := contents(t, filepath.Join(i.dir, "digest.json"))
			if stateIn(t, sidecar) != "complete" || !strings.Contains(sidecar, `"hex": "`+right.sum+`"`) {
				t.Errorf("the sidecar does not have %s:\n%s", right.sum, sidecar)
			}
		})
	}
}
