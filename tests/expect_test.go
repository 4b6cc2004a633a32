// SPDX-License-Identifier: BSD-3-Clause

package tests

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var fixedTime = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// The right digest or no copy: every client and every kind of source, with
// the right expectation and with a wrong one.

// serveHTTP serves the files of a directory, as publishers do.
func serveHTTP(t *testing.T, dir string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: http.FileServer(http.Dir(dir))}
	go web.Serve(listener)
	t.Cleanup(func() { web.Close() })
	return "http://" + listener.Addr().String()
}

// bend changes the last digit of a digest.
func bend(sum string) string {
	last := sum[len(sum)-1:]
	if last == "0" {
		return sum[:len(sum)-1] + "1"
	}
	return sum[:len(sum)-1] + "0"
}

func TestRightDigestOrNoCopy(t *testing.T) {
	raw := filesystemImage(t)
	dir := filepath.Dir(raw)
	run(t, dir, "qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", raw, "disk.qcow2")
	run(t, dir, "xz", "-0", "-k", "--block-size=1MiB", raw)
	url := serveHTTP(t, dir)

	out := func() string { return filepath.Join(t.TempDir(), "copy.img") }
	clients := map[string]func(uri, format string) []string{
		"qemu-img": func(uri, format string) []string {
			return []string{"qemu-img", "convert", "-f", format, "-O", "raw", uri, out()}
		},
		"qemu-img -W": func(uri, format string) []string {
			return []string{"qemu-img", "convert", "-W", "-f", format, "-O", "raw", uri, out()}
		},
		"nbdcopy":     func(uri, format string) []string { return []string{"nbdcopy", uri, out()} },
		"nbdcopy one": func(uri, format string) []string { return []string{"nbdcopy", "--connections=1", uri, out()} },
		"nbdcopy synchronous": func(uri, format string) []string {
			return []string{"nbdcopy", "--synchronous", uri, out()}
		},
		"nbdsh": func(uri, format string) []string {
			return []string{"/usr/bin/python3", "-m", "nbd", "-u", uri, "-c",
				"size = h.get_size()\nfor at in range(0, size, 1 << 20): h.pread(min(1 << 20, size - at), at)"}
		},
	}
	for _, source := range []struct{ name, file, format string }{
		{"raw", "disk.img", "raw"},
		{"qcow2", "disk.qcow2", "qcow2"},
		{"xz", "disk.img.xz", "raw"},
	} {
		file := filepath.Join(dir, source.file)
		for name, client := range clients {
			if source.name == "qcow2" && !strings.HasPrefix(name, "qemu-img") {
				continue // to them it is like any raw file
			}
			for _, digest := range []string{"sha256", "blake3"} {
				got := sumOf(t, digest, file)
				for _, access := range []string{"-r", ""} {
					if digest != "sha256" && access == "" {
						continue
					}
					for _, right := range []bool{true, false} {
						t.Run(fmt.Sprintf("%s %s %s %s %v", source.name, name, digest, access, right), func(t *testing.T) {
							t.Parallel()
							sum := got
							if !right {
								sum = bend(sum)
							}
							args := strings.Fields(access)
							if source.name == "xz" {
								args = append(args, "--filter=xz")
							}
							sidecar := filepath.Join(t.TempDir(), "sum")
							s := serve(t, append(args, "--filter="+filter, "curl", url+"/"+source.file,
								"digest-expect="+digest+":"+sum, "digest-file="+sidecar)...)
							o := execute(t, "", client(s.uri(), source.format)...)
							if right {
								if o.status != 0 {
									t.Errorf("the copy fails: %s%s", o.stderr, s.stderr())
								}
								if log := s.stop(); strings.Contains(log, "mismatch") {
									t.Errorf("nbdkit says\n%s", log)
								}
								wantDigests(t, sidecar, file, digest)
								return
							}
							if o.status == 0 {
								t.Error("the copy succeeds")
							}
							if again := execute(t, "", "nbdinfo", "--size", s.uri()); again.status == 0 {
								t.Error("a later client is served")
							}
							s.signal(terminate)
							log := s.stderr()
							if status := s.cmd.ProcessState.ExitCode(); status != 1 {
								t.Errorf("nbdkit ends with status %d", status)
							}
							want := fmt.Sprintf("digest mismatch: %s expected %s got %s\n", digest, sum, got)
							if strings.Count(log, want) != 1 {
								t.Errorf("nbdkit says\n%swhere this is missing: %s", log, want)
							}
							wantComments(t, sidecar, 1)
						})
					}
				}
			}
		}
	}
}

func TestVerifyBefore(t *testing.T) {
	const size = 9 * mib
	image := randomImage(t, size)
	sum := sumOf(t, "sha256", image)
	for _, right := range []bool{true, false} {
		t.Run(fmt.Sprint(right), func(t *testing.T) {
			dir := t.TempDir()
			expect := sum
			if !right {
				expect = bend(sum)
			}
			s := serve(t, "-r", "--filter="+filter, "--filter=cache", "--filter=log", "file", image, "logfile="+dir+"/log",
				"cache-on-read=true", "digest-verify=before", "digest-expect=sha256:"+expect, "digest-file="+dir+"/sum")
			script := "h.pread(512, h.get_size() - 512)"
			var clients []func() error
			for range 3 {
				clients = append(clients, background(t, "/usr/bin/python3", "-m", "nbd", "-u", s.uri(), "-c", script).Wait)
			}
			for _, wait := range clients {
				if err := wait(); (err == nil) != right {
					t.Errorf("a client ends with %v", err)
				}
			}
			s.signal(terminate)
			total, again := bytesRead(t, dir+"/log", size)
			if total > size+64*kib || again > 64*kib {
				t.Errorf("%d bytes were read, %d of them again", total, again)
			}
			if right {
				wantDigests(t, dir+"/sum", image, "sha256")
			}
		})
	}
}

// The sidecar has a mismatch of an image of which no client got any data.
func TestMismatchBeforeAnyRequestIsAResult(t *testing.T) {
	for _, c := range []struct {
		verify string
		size   int64
	}{{"before", 3 * mib}, {"before", 300 * kib}, {"during", 300 * kib}} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			t.Parallel()
			image := randomImage(t, c.size)
			sidecar := filepath.Join(t.TempDir(), "sum")
			s := serve(t, "-r", "--filter="+filter, "file", image, "digest-expect=sha256:"+bend(sumOf(t, "sha256", image)),
				"digest-verify="+c.verify, "digest-file="+sidecar)
			// What is small is read at the door.
			if o := execute(t, "", "nbdinfo", "--size", s.uri()); o.status == 0 && c.verify == "before" {
				t.Error("a client is served")
			}
			waitFor(t, "the result while the server is alive", func() bool { return exists(sidecar) })
			s.signal(terminate)
			wantComments(t, sidecar, 1)
			if got := contents(t, sidecar); !strings.Contains(got, ": mismatch, expected ") {
				t.Errorf("the sidecar has %q", got)
			}
		})
	}
}

// A copy into the filter fails at its last flush, if the client does not ignore the
// error as qemu-img does. The result tells in any case.
func TestWrittenCopyIsCompared(t *testing.T) {
	image := randomImage(t, 5*mib)
	qemu := []string{"qemu-img", "convert", "-n", "-f", "raw", "-O", "raw"}
	for name, client := range map[string][]string{
		"nbdcopy":               {"nbdcopy", "--flush"},
		"qemu-img":              qemu,
		"qemu-img -W":           append(qemu[:len(qemu):len(qemu)], "-W"),
		"qemu-img writethrough": append(qemu[:len(qemu):len(qemu)], "-t", "writethrough"),
		"qemu-img zero":         append(qemu[:len(qemu):len(qemu)], "--target-is-zero"),
	} {
		for _, right := range []bool{true, false} {
			t.Run(fmt.Sprint(name, " ", right), func(t *testing.T) {
				dir := t.TempDir()
				sum := sumOf(t, "blake3", image)
				if !right {
					sum = bend(sum)
				}
				write(t, dir+"/target", "")
				if err := os.Truncate(dir+"/target", 5*mib); err != nil {
					t.Fatal(err)
				}
				s := serve(t, "--filter="+filter, "file", dir+"/target", "digest-expect=blake3:"+sum, "digest-file="+dir+"/sum")
				o := execute(t, "", append(client, image, s.uri())...)
				if (o.status == 0) != right && name == "nbdcopy" {
					t.Errorf("status %d\n%s%s", o.status, o.stderr, s.stderr())
				}
				want := "complete"
				if !right {
					want = "mismatch"
				}
				if state := askWhenGone(t, s).Images[0].State; state != want {
					t.Errorf("the state is %s", state)
				}
				s.signal(terminate)
				if status := s.cmd.ProcessState.ExitCode(); (status == 0) != right {
					t.Errorf("nbdkit ends with status %d", status)
				}
			})
		}
	}
}

// A copy into a blank disk need not write much of it: it is as complete as any other,
// and compared.
func TestCopyThatWritesLittleIsCompared(t *testing.T) {
	const size = 50 * mib
	image := randomImage(t, mib)
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	for name, client := range map[string][]string{
		"nbdcopy":  {"nbdcopy", "--destination-is-zero", "--flush"},
		"qemu-img": {"qemu-img", "convert", "-n", "--target-is-zero", "-f", "raw", "-O", "raw"},
	} {
		for _, right := range []bool{true, false} {
			t.Run(fmt.Sprint(name, " ", right), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				write(t, dir+"/target", "")
				if err := os.Truncate(dir+"/target", size); err != nil {
					t.Fatal(err)
				}
				s := serve(t, "--filter="+filter, "file", dir+"/target", "digest-expect=sha256:"+expected(t, "sha256", image, right),
					"digest-file="+dir+"/sum.json")
				run(t, "", append(client, image, s.uri())...)
				s.signal(terminate)
				if status := s.cmd.ProcessState.ExitCode(); (status == 0) != right {
					t.Errorf("nbdkit ends with status %d\n%s", status, s.stderr())
				}
				want := map[bool]string{true: "complete", false: "mismatch"}[right]
				if got := contents(t, dir+"/sum.json"); !strings.Contains(got, `"state": "`+want+`"`) {
					t.Errorf("the result is %s", got)
				}
			})
		}
	}
}
