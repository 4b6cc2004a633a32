// SPDX-License-Identifier: BSD-3-Clause

package docs

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Stand-ins for what the documents name: files, a publisher's web server,
// sockets, a server that runs already.

// A world is a directory in which the blocks of a section run.
type world struct {
	t   *testing.T
	kit *kit
	dir string
}

// A kit is what all worlds begin with.
type kit struct {
	dir    string // the files
	gpg    string // GNUPGHOME
	web    *httptest.Server
	mirror *httptest.Server // has another build of the same names
	bin    string           // in it is the nbdkit of these tests
	real   string           // the real one
}

// size is that of disk.img.
const size = 50 << 20

// shim is the nbdkit that blocks find. The filter is not installed, and a
// server that would stay is put into the background, where it is found again
// by its pid file.
const shim = `#!/bin/sh
run='' unix='' skip=''
for word do
    shift
    if [ "$skip" ]; then skip=''; continue; fi
    case $word in
        --filter=digest) word=--filter=$FILTER ;;
        -f | --foreground | --exit-with-parent) continue ;;
        -P | --pidfile) skip=yes; continue ;;
        --run | --dump-* | --help | --version) run=yes ;;
        -U | --unix*) unix=yes ;;
    esac
    set -- "$@" "$word"
done
[ ! "$run" ] || exec "$NBDKIT" "$@"
[ "$unix" ] || set -- -U "$WORLD/nbd.sock" "$@"
"$NBDKIT" -P "$WORLD/pid.$$" "$@" || exit
until [ -s "$WORLD/pid.$$" ]; do sleep 0.01; done
`

func (k *kit) run(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = k.dir
	cmd.Env = append(os.Environ(), "GNUPGHOME="+k.gpg)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

func newKit(t *testing.T) *kit {
	t.Helper()
	temp := func() string {
		dir, err := os.MkdirTemp("", "docs") // a name short enough for sockets
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		return dir
	}
	k := &kit{dir: temp(), gpg: temp(), bin: temp()}
	var err error
	if k.real, err = exec.LookPath("nbdkit"); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(k.bin, "nbdkit"), shim)
	if err := os.Chmod(filepath.Join(k.bin, "nbdkit"), 0o755); err != nil {
		t.Fatal(err)
	}

	other := temp()
	k.makeDisk(t, filepath.Join(other, "disk.img"), 2)
	k.run(t, "qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", filepath.Join(other, "disk.img"), filepath.Join(other, "disk.qcow2"))
	k.makeDisk(t, filepath.Join(k.dir, "disk.img"), 1)
	k.run(t, "qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "disk.img", "disk.qcow2")
	k.run(t, "xz", "-0", "--keep", "--block-size=1MiB", "disk.img")

	// As Fedora's: signed.
	k.run(t, "sh", "-c", "for f in disk.qcow2 disk.img; do echo \"# $f: $(stat -c %s $f) bytes\"; sha256sum --tag $f; done > sums")
	t.Cleanup(func() { exec.Command("gpgconf", "--homedir", k.gpg, "--kill", "all").Run() })
	k.run(t, "gpg", "--batch", "--quiet", "--passphrase", "", "--quick-gen-key", "publisher@example.com", "ed25519", "sign")
	k.run(t, "gpg", "--batch", "--quiet", "--clearsign", "--output", "CHECKSUM", "sums")

	k.web = httptest.NewServer(http.FileServer(http.Dir(k.dir)))
	t.Cleanup(k.web.Close)
	k.mirror = httptest.NewServer(http.FileServer(http.Dir(other)))
	t.Cleanup(k.mirror.Close)
	return k
}

// makeDisk makes a disk with a GPT, a partition, some data and holes.
func (k *kit) makeDisk(t *testing.T, path string, seed byte) {
	t.Helper()
	write(t, path, "")
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	k.run(t, "sh", "-c", `printf 'label: gpt\nstart=1MiB, size=48MiB, type=linux' | sfdisk --quiet `+path)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{seed}).Read(data)
	for _, at := range []int64{1 << 20, 20 << 20} {
		if _, err := f.WriteAt(data, at); err != nil {
			t.Fatal(err)
		}
	}
}

func (k *kit) newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "docs")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, kit: k, dir: dir}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Cleanup(w.endServers)
	for _, file := range []string{"disk.img", "disk.qcow2", "disk.img.xz", "CHECKSUM"} {
		w.copy(file, file)
	}
	if err := os.Mkdir(w.path("images"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"disk.img", "disk.qcow2"} {
		if err := os.Link(w.path(file), w.path("images/"+file)); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) copy(from, to string) {
	w.t.Helper()
	w.kit.run(w.t, "cp", "--sparse=always", from, w.path(to))
}

// names are what the documents name, and what stands in for it.
func (w *world) names() []string {
	return []string{
		"https://example.com", w.kit.web.URL,
		"https://mirror.example.com", w.kit.mirror.URL,
		"/tmp/nbd.sock", w.path("nbd.sock"),
		"/tmp/nbd.pid", w.path("nbd.pid"),
		"/tmp/digest.json", w.path("digest.json"),
		"/srv/images", w.path("images"),
		"/tmp/digests.json", w.path("digests.json"),
	}
}

// real replaces the names in a block, and unreal what has come of it in a
// program's output.
func (w *world) real(text string) string {
	text = strings.NewReplacer(w.names()...).Replace(text)
	// An example of a digest is that of the file that the block names.
	for _, file := range []string{"disk.qcow2", "disk.img"} {
		if strings.Contains(text, file) {
			return abbreviated.ReplaceAllString(text, "${1}"+sumOf(w.t, filepath.Join(w.kit.dir, file)))
		}
	}
	return text
}

func (w *world) unreal(text string) string {
	names := w.names()
	for i := 0; i < len(names); i += 2 {
		names[i], names[i+1] = names[i+1], names[i]
	}
	return strings.NewReplacer(names...).Replace(text)
}

func (w *world) environment() []string {
	sum := sumOf(w.t, filepath.Join(w.kit.dir, "disk.img"))
	return []string{
		"PATH=" + w.kit.bin + ":/usr/bin:/usr/sbin:/bin:/sbin", "LC_ALL=C.UTF-8", "HOME=" + w.dir, "GNUPGHOME=" + w.kit.gpg,
		"FILTER=" + filter, "NBDKIT=" + w.kit.real, "WORLD=" + w.dir,
		"EXPECTED=" + sum, "socket=" + w.path("nbd.sock"),
	}
}

// servers are the pids of those that the shim has started.
func (w *world) servers() map[string]int {
	w.t.Helper()
	files, err := filepath.Glob(w.path("pid.*"))
	if err != nil {
		w.t.Fatal(err)
	}
	pids := make(map[string]int)
	for _, file := range files {
		text, _ := os.ReadFile(file)
		if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			pids[file] = pid
		}
	}
	return pids
}

// endServers waits until the servers have written their results.
func (w *world) endServers() {
	w.t.Helper()
	for file, pid := range w.servers() {
		os.Remove(file)
		if syscall.Kill(pid, syscall.SIGTERM) != nil {
			continue // it has gone
		}
		for start := time.Now(); runs(pid); time.Sleep(10 * time.Millisecond) {
			if time.Since(start) > patience {
				w.t.Errorf("nbdkit %d does not end", pid)
				syscall.Kill(pid, syscall.SIGKILL)
				break
			}
		}
	}
}

// runs tells whether there is such a process that has not ended, whether its
// parent has noticed that or not.
func runs(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, _ := strings.Cut(string(stat), ") ")
	return err == nil && !strings.HasPrefix(state, "Z")
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func sumOf(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(b))
}
