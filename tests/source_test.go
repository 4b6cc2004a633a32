// SPDX-License-Identifier: BSD-3-Clause

package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// replaceContent writes another image of the same size into a file, as a
// publisher might who does not rename.
func replaceContent(t *testing.T, image string) {
	t.Helper()
	old := contents(t, image)
	f, err := os.OpenFile(image, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(old[len(old)/2:] + old[:len(old)/2]); err != nil {
		t.Fatal(err)
	}
}

// Bytes that pass by another time tell that they are not what was hashed.
func TestSourceThatIsReplacedHasNoDigest(t *testing.T) {
	const size = 6*mib + 2
	for _, c := range []struct{ name, before, after, params string }{
		{"after a copy", "h.pread(6 << 20, 0)", "h.pread(100000, 2 << 20)", ""},
		{"in the middle of a copy", "h.pread(3 << 20, 0)", "h.pread(4 << 20, 2 << 20)", ""},
		{"and the filter must not look at the start", "h.pread(6 << 20, 0)", "h.pread(100000, 0)", "signature=any signature-unsafe=allow"},
		{"and an expectation", "h.pread(3 << 20, 0)", `
for i in range(2):
    try:
        h.pread(100000, 2 << 20)
        raise SystemExit("no error")
    except nbd.Error:
        pass`, "expect"},
	} {
		for _, digest := range []string{"sha256", "blake3"} {
			t.Run(c.name+" "+digest, func(t *testing.T) {
				t.Parallel()
				image := randomImage(t, size)
				dir := t.TempDir()
				params := strings.Fields(c.params)
				if c.params == "expect" {
					params = []string{"digest-expect=" + digest + ":" + sumOf(t, digest, image)}
				}
				s := serve(t, append([]string{"-r", "--filter=" + filter, "file", image, "digest=" + digest, "digest-file=" + dir + "/sum"}, params...)...)
				h := dial(t, s, "") // so that the start is looked at once
				defer h.Drop()      // nbdkit waits for it to go
				nbdsh(t, s.uri(), c.before)
				replaceContent(t, image)
				nbdsh(t, s.uri(), c.after)
				if c.params == "expect" {
					if o := execute(t, "", "nbdinfo", "--size", s.uri()); o.status == 0 {
						t.Error("a later client is served")
					}
				}
				h.Drop()
				s.signal(terminate)
				if status := s.cmd.ProcessState.ExitCode(); (status == 1) != (c.params == "expect") {
					t.Errorf("nbdkit ends with status %d", status)
				}
				if log := s.stderr(); strings.Count(log, "not what was read before") != 1 {
					t.Errorf("nbdkit says\n%s", log)
				}
				if got := contents(t, filepath.Join(dir, "sum")); !strings.Contains(got, "failed: the source has changed") {
					t.Errorf("the sidecar has %q", got)
				}
			})
		}
	}
}

// Also of the destination of a copy, as long as no client has written: it is
// blank before, and need not be looked at for its kind.
func TestStartOfABlankImageIsComparedToo(t *testing.T) {
	for _, c := range []struct {
		name   string
		before string
		change string
	}{
		{"blank, then not", "truncate -s 3M disk.img", "printf x | dd of=disk.img bs=1 seek=100 conv=notrunc status=none"},
		{"not blank, then so", "head -c 3M /dev/urandom > disk.img", "truncate -s 0 disk.img; truncate -s 3M disk.img"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			run(t, dir, "sh", "-c", c.before)
			s := serve(t, "--filter="+filter, "file", dir+"/disk.img", "digest=sha256,blake3")
			copyAll(t, s.uri())
			run(t, dir, "sh", "-c", c.change)
			// The first client may still be about to leave.
			waitFor(t, "the change to be seen", func() bool {
				return strings.Contains(run(t, "", "nbdinfo", s.uri()), "description: digest failed\n")
			})
			s.stop()
		})
	}
}

// A plugin that does not say that all connections see the same may serve each its
// own image, as the tmpdisk plugin does: a client gets no byte of another's, and the
// export has no digest.
func TestEachConnectionHasItsOwnImage(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"first", "other"} {
		run(t, dir, "sh", "-c", "head -c 2M /dev/urandom > "+name+".img")
	}
	s := serve(t, "-r", "--filter="+filter, "eval", "digest=sha256,blake3",
		"open=mkdir "+dir+"/opened 2>/dev/null && echo first || echo other", "get_size=echo 2M",
		"pread=dd if="+dir+"/$2.img skip=$4 count=$3 iflag=skip_bytes,count_bytes,fullblock status=none")
	offline(t, fmt.Sprintf(`
clients = []
for name in ["first", "other"]:
    c = nbd.NBD()
    c.connect_uri(%q)
    clients.append((c, open(%q + "/" + name + ".img", "rb").read()))
for at in [0, 512, (1 << 20) - 512, 1 << 20]:
    for c, data in clients:
        assert c.pread(1024, at) == data[at:at + 1024], at
`, s.uri(), dir))
	if d := ask(t, s, ".digest"); d.Images[0].State != "failed" {
		t.Errorf("the answer is %+v", d.Images[0])
	}
	s.stop()
}

// The first of them, and mostly the only one, is answered from what was read for it.
func TestOnlyConnectionReadsNothingTwice(t *testing.T) {
	image, log := randomImage(t, 2*mib), filepath.Join(t.TempDir(), "log")
	s := serve(t, "-r", "--filter="+filter, "--filter=log", "--filter=multi-conn", "file", image,
		"multi-conn-mode=disable", "logfile="+log)
	copyAll(t, s.uri())
	wantState(t, ask(t, s, ".digest"), " complete blake3:"+sumOf(t, "blake3", image))
	s.stop()
	// The door looks at the end of an image, too.
	if total, again := bytesRead(t, log, 2*mib); total-again != 2*mib || again > 2*kib {
		t.Errorf("%d bytes were read, %d of them again", total, again)
	}
}
