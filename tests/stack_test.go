// SPDX-License-Identifier: BSD-3-Clause

package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestFilterWorksAmongOtherFilters(t *testing.T) {
	image := randomImage(t, 2*mib+512)
	for _, c := range []struct {
		name         string
		above, below []string
		params       []string
		readers      []string // of nbdcopy
	}{
		{"log above and below", []string{"log"}, []string{"stats"}, []string{"logfile=/dev/null", "statsfile=/dev/null"}, nil},
		{"cow below", nil, []string{"cow"}, nil, nil},
		{"cow above", []string{"cow"}, nil, nil, nil},
		{"cache above", []string{"cache"}, nil, nil, nil},
		{"cache below", nil, []string{"cache"}, nil, nil},
		{"readahead below", nil, []string{"readahead"}, nil, nil},
		{"readahead above", []string{"readahead"}, nil, nil, nil},
		{"blocksize above", []string{"blocksize"}, nil, []string{"maxlen=4k"}, nil},
		{"blocksize below", nil, []string{"blocksize"}, []string{"minblock=512", "maxlen=128k"}, nil},
		{"a layer that takes one request at a time", nil, []string{"noparallel"}, nil, []string{"--connections=4"}},
		{"a layer that takes one connection at a time", nil, []string{"noparallel"}, []string{"serialize=connections"}, nil},
		{"a layer that takes no threads at all", nil, []string{"noparallel"}, []string{"serialize=all-requests"}, []string{"--connections=4"}},
		{"a layer without extents", nil, []string{"noextents"}, nil, nil},
		{"a layer that retries", nil, []string{"retry"}, []string{"retries=1"}, nil},
		{"multi-conn and fua above", []string{"multi-conn", "fua"}, []string{"nozero"}, nil, []string{"--connections=4"}},
		{"seven of them", []string{"log", "stats", "blocksize"}, []string{"cow", "cache", "nozero", "noextents"},
			[]string{"logfile=/dev/null", "statsfile=/dev/null", "maxlen=64k"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			sidecar, copied := filepath.Join(dir, "disk.sum"), filepath.Join(dir, "copy.img")
			var args []string
			for _, f := range c.above {
				args = append(args, "--filter="+f)
			}
			args = append(args, "--filter="+filter)
			for _, f := range c.below {
				args = append(args, "--filter="+f)
			}
			s := serve(t, append(append(args, "file", image, "digest=sha256,blake3", "digest-file="+sidecar), c.params...)...)
			run(t, "", append(append([]string{"nbdcopy"}, c.readers...), s.uri(), copied)...)
			s.stop()
			wantDigests(t, sidecar, image, "sha256", "blake3")
			if !same(t, copied, image) {
				t.Error("the copy is not the image")
			}
		})
	}
}

// The multi-conn filter makes one connection's flush one of all connections,
// among them those to the filter's own exports.
func TestQueriesBehindMultiConn(t *testing.T) {
	image := randomImage(t, 1*mib)
	s := serve(t, "--filter=multi-conn", "--filter="+filter, "file", image, "multi-conn-mode=emulate", "multi-conn-track-dirty=off")
	nbdsh(t, s.uri(), fmt.Sprintf(`
q = nbd.NBD()
q.connect_uri(%q)
h.pwrite(h.pread(1 << 20, 0), 0)
h.flush()
q.flush()
assert bytes(q.pread(q.get_size(), 0)).startswith(b"{")`, s.uriOf(".digest")))
	wantState(t, askWhenGone(t, s), " complete blake3:"+sumOf(t, "blake3", image))
	s.stop()
}

// What is not a whole block is not seen through the blocksize filter, nor by a
// client that rounds sizes down.
func TestQueriesBehindBlocksize(t *testing.T) {
	image := randomImage(t, 1*mib)
	for _, block := range []string{"512", "4k", "64k"} {
		for _, below := range []string{"nofilter", "blocksize"} { // nbdkit loads a filter once
			t.Run(block+" "+below, func(t *testing.T) {
				t.Parallel()
				s := serveUnseen(t, "--filter=blocksize", "--filter="+filter, "--filter="+below, "file", image, "minblock="+block)
				wantState(t, ask(t, s, ".digest"), " pending blake3:")
				wantState(t, ask(t, s, ".digest-final"), " complete blake3:"+sumOf(t, "blake3", image))
				wantState(t, ask(t, s, ".digest/"), " complete blake3:"+sumOf(t, "blake3", image))
			})
		}
	}
	s := serveUnseen(t, "--filter="+filter, "file", image)
	for _, query := range []string{".digest", ".digest-final"} {
		if size := strings.TrimSpace(run(t, "", "nbdinfo", "--size", s.uriOf(query))); size != "4096" {
			t.Errorf("the size of %s is %s", query, size)
		}
	}
}

// A filter in front that decodes finds nothing to decode in a document. The
// description passes it.
func TestQueriesBehindAFilterThatDecodes(t *testing.T) {
	image := randomImage(t, 1*mib)
	run(t, "", "xz", "-0", image)
	s := serve(t, "--filter=xz", "--filter="+filter, "file", image+".xz")
	copyAll(t, s.uri())
	if o := execute(t, "", "nbdinfo", s.uriOf(".digest-final")); o.status == 0 {
		t.Errorf("a document is decoded: %s", o.stdout)
	}
	if got := run(t, "", "nbdinfo", s.uri()); !strings.Contains(got, "digest pending: ") && !strings.Contains(got, "blake3:") {
		t.Errorf("nbdinfo says %s", got)
	}
	if got := run(t, "", "nbdinfo", "--list", "--json", s.uri()); strings.Contains(got, ".digest") {
		t.Errorf("nbdinfo lists %s", got)
	}
}

// Some filters keep what they know of one export for all, or crash at one that is
// not what they decode. Clients that ask must not get that far.
func TestNoQueriesBehindFiltersThatTakeAllExportsForOne(t *testing.T) {
	dir := t.TempDir()
	image := randomImage(t, 3*mib)
	run(t, filepath.Dir(image), "tar", "cf", dir+"/disk.tar", "disk.img")
	write(t, dir+"/key", "secret")
	// qemu-img measures how fast the key is derived, and fails if that is too fast for
	// the clock. cryptsetup need not, but has no way to fill an image without root.
	run(t, dir, "truncate", "-s", "5M", "disk.luks")
	run(t, dir, "cryptsetup", "-q", "luksFormat", "--type", "luks1", "--pbkdf-force-iterations", "1000", "disk.luks", "key")
	run(t, dir, "qemu-img", "convert", "--object", "secret,id=k,file=key", "-n",
		"--target-image-opts", image, "driver=luks,key-secret=k,file.filename=disk.luks")
	filters := filepath.Join(strings.TrimSpace(run(t, "", "sh", "-c", "nbdkit --dump-config | sed -n s/^filterdir=//p")), "nbdkit-%s-filter.so")
	for _, c := range []struct {
		name     string
		source   string
		options  []string
		closedBy string
	}{
		{"tar", dir + "/disk.tar", []string{"--filter=tar", "--filter=" + filter, "tar-entry=disk.img"}, "tar"},
		{"luks", dir + "/disk.luks", []string{"--filter=luks", "--filter=" + filter, "passphrase=secret"}, "luks"},
		{"cow", image, []string{"--filter=cow", "--filter=" + filter}, "cow"},
		{"cache", image, []string{"--filter=cache", "--filter=" + filter}, "cache"},
		{"file of the filter", image, []string{"--filter=" + fmt.Sprintf(filters, "cow"), "--filter=" + filter}, "cow"},
		{"option in two words, abbreviated", image, []string{"--fil", "cow", "--filt", filter}, "cow"},
		{"behind another", image, []string{"--filter=cache", "--filter=nofilter", "--filter=" + filter, "--filter=nozero"}, "cache"},
		{"not in front", image, []string{"--filter=nofilter", "--filter=" + filter, "--filter=cow"}, ""},
		{"a parameter of that value", image, []string{"--filter=" + filter, "--filter=cow", "digest-name=cow"}, ""},
		{"not a filter", image, []string{"--filter=" + filter, "-e", "cow", "--filter=nozero"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, append([]string{"-r", "file", c.source}, c.options...)...)
			for range 2 {
				for _, query := range []string{".digest", ".digest-final", ".digest/", ".digest-final/x"} {
					o := execute(t, "", "nbdinfo", "--size", s.uriOf(query))
					if (o.status == 0) != (c.closedBy == "") {
						t.Errorf("%s: exit status %d", query, o.status)
					}
				}
				out := filepath.Join(t.TempDir(), "copy.img")
				run(t, "", "nbdcopy", s.uri(), out)
				if !same(t, out, image) {
					t.Error("the copy is not the image")
				}
			}
			if list := run(t, "", "nbdinfo", "--list", s.uri()); strings.Contains(list, ".digest") != (c.closedBy == "") {
				t.Errorf("the list of exports is\n%s", list)
			}
			if got := description(t, s, ""); !strings.Contains(got, "blake3:") && !strings.Contains(got, "digest pending: ") {
				t.Errorf("the description is %q", got)
			}
			if log := s.stop(); c.closedBy != "" && !strings.Contains(log, "behind the "+c.closedBy+" filter") {
				t.Errorf("nbdkit says\n%s", log)
			}
		})
	}
	t.Run("all the same", func(t *testing.T) {
		t.Parallel()
		s := serve(t, "-r", "--filter=cow", "--filter="+filter, "file", image, "digest-query=true")
		run(t, "", "nbdinfo", "--size", s.uriOf(".digest"))
		s.stop()
	})
}

// A layer may refuse what is not whole blocks, or too much at once. The filter's
// own reads must fit as well: of both ends of an image, of gaps, and of what is
// left at the end.
func TestFilterKeepsToTheBlockSizesOfLayersBelow(t *testing.T) {
	for _, c := range []struct {
		name   string
		size   string // of a client's request
		params []string
	}{
		{"whole blocks", "4096", []string{"blocksize-minimum=4096"}},
		{"large blocks", "65536", []string{"blocksize-minimum=64k", "blocksize-preferred=64k"}},
		{"small requests", "65536", []string{"blocksize-maximum=64k"}},
		{"both", "65536", []string{"blocksize-minimum=64k", "blocksize-preferred=64k", "blocksize-maximum=128k"}},
		{"all alike", "4096", []string{"blocksize-minimum=4k", "blocksize-preferred=4k", "blocksize-maximum=4k"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			// Holes begin and end within large blocks.
			image := randomImage(t, 1*mib+4096)
			for _, size := range []int64{3*mib - 4096, 10 * mib} {
				if err := os.Truncate(image, size); err != nil {
					t.Fatal(err)
				}
				run(t, "", "sh", "-c", "head -c 100k /dev/urandom >> "+image)
			}
			if err := os.Truncate(image, 12*mib); err != nil {
				t.Fatal(err)
			}
			for how, client := range map[string]string{
				"all":  "for at in range(0, 12 << 20, SIZE):\n  h.pread(SIZE, at)",
				"gap":  "h.pread(SIZE, 0)\nfor at in range(2 << 20, 12 << 20, SIZE):\n  h.pread(SIZE, at)",
				"some": "h.pread(SIZE, 2 << 20)",
			} {
				sidecar := filepath.Join(t.TempDir(), "disk.sum")
				s := serve(t, append([]string{"--filter=" + filter, "--filter=blocksize-policy", "file", image,
					"digest=sha256,blake3", "digest-file=" + sidecar, "blocksize-error-policy=error"}, c.params...)...)
				nbdsh(t, s.uri(), strings.ReplaceAll(client, "SIZE", c.size))
				if said := s.stop(); said != "" {
					t.Errorf("%s: nbdkit says %s", how, said)
				}
				wantDigests(t, sidecar, image, "sha256", "blake3")
			}
		})
	}
}

// Where the filter stands decides what is hashed.
func TestPlaceInTheStackDecidesWhatIsHashed(t *testing.T) {
	t.Parallel()
	image := randomImage(t, 1*mib)
	packed := image + ".xz"
	run(t, "", "xz", "-0", "--keep", image)
	for _, c := range []struct {
		name    string
		filters []string
		hashed  string
	}{
		{"in front", []string{"--filter=" + filter, "--filter=xz"}, image},
		{"behind", []string{"--filter=xz", "--filter=" + filter}, packed},
	} {
		t.Run(c.name+" of xz", func(t *testing.T) {
			sidecar := filepath.Join(t.TempDir(), "disk.sum")
			s := serve(t, append(c.filters, "file", packed, "digest=sha256,blake3", "digest-file="+sidecar)...)
			copyAll(t, s.uri())
			s.stop()
			wantDigests(t, sidecar, c.hashed, "sha256", "blake3")
		})
	}
}

func TestFilterWorksBehindTLS(t *testing.T) {
	image := randomImage(t, 1*mib+99)

	t.Run("with a shared key", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		keys, sidecar := filepath.Join(dir, "keys.psk"), filepath.Join(dir, "disk.sum")
		run(t, "", "psktool", "-u", "alice", "-p", keys)
		s := serve(t, "--tls=require", "--tls-psk="+keys, "--filter="+filter, "file", image,
			"digest=sha256,blake3", "digest-file="+sidecar)
		run(t, "", "nbdcopy", "nbds+unix://alice@/?socket="+s.socket()+"&tls-psk-file="+keys, "null:")
		s.stop()
		wantDigests(t, sidecar, image, "sha256", "blake3")
	})

	t.Run("with certificates", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		sidecar := filepath.Join(dir, "disk.sum")
		certificates(t, dir)
		s := serve(t, "--tls=on", "--tls-certificates="+dir, "--tls-verify-peer", "--filter="+filter, "file", image,
			"digest=sha256,blake3", "digest-file="+sidecar)
		run(t, "", "nbdcopy", "nbds+unix://localhost/?socket="+s.socket()+"&tls-certificates="+dir, "null:")
		s.stop()
		wantDigests(t, sidecar, image, "sha256", "blake3")
	})
}

// At shutdown, the filter has no TLS. A plugin that serves clients without it another
// image must not have that one hashed.
func TestRestOfAnImageForTLSOnly(t *testing.T) {
	dir := t.TempDir()
	keys, sidecar, image := filepath.Join(dir, "keys.psk"), filepath.Join(dir, "disk.sum"), filepath.Join(dir, "image")
	run(t, "", "psktool", "-u", "alice", "-p", keys)
	write(t, image, strings.Repeat("\x81", 8*mib))
	complete, incomplete := " complete blake3:"+sumOf(t, "blake3", image), " incomplete blake3:"
	script := func(without string) []string {
		return []string{"eval", `open=[ "$4" = true ] && echo 1 || echo ` + without,
			`get_size=echo 8M`, `pread=head -c $3 /dev/zero | tr '\0' "\20$2"`}
	}
	const reads = "h.pread(1 << 20, 0); h.pread(1 << 20, 1 << 20); h.pread(1 << 20, 2 << 20)"
	const writes = `h.pwrite(b"\x81" * 4096, 1 << 20)`
	for _, c := range []struct {
		layer               []string
		params, does, asked string
		want                string
	}{
		{script("0"), "", reads, "", incomplete},
		{script("1"), "", reads, "", complete},
		{script("0"), "signature=any signature-unsafe=allow", reads, "", complete}, // when the client leaves
		{script("0"), "", reads, "nbd+unix://", incomplete},
		{script("0"), "", reads, "nbds+unix://alice@", complete},
		{[]string{"file", image}, "", writes, "", complete},
	} {
		s := serve(t, slices.Concat([]string{"--tls=on", "--tls-psk=" + keys, "--filter=" + filter}, c.layer,
			[]string{"digest=blake3", "digest-unread=late", "digest-format=json", "digest-file=" + sidecar}, strings.Fields(c.params))...)
		offline(t, fmt.Sprintf(`
h.set_tls(nbd.TLS_REQUIRE)
h.set_tls_username("alice")
h.set_tls_psk_file(%q)
h.connect_unix(%q)
%s`, keys, s.socket(), c.does))
		if c.asked != "" {
			out := filepath.Join(dir, "answer")
			run(t, "", "nbdcopy", c.asked+"/.digest-final?socket="+s.socket()+"&tls-psk-file="+keys, out)
			wantState(t, parse(t, contents(t, out)), c.want)
		}
		s.cmd.Process.Signal(terminate)
		<-s.exited
		wantState(t, parse(t, contents(t, sidecar)), c.want)
	}
}

// Who has TLS and asks for the digest of a named export reads what its clients do, even
// if nobody has looked at its start.
func TestFinalOfANamedExportOverTLS(t *testing.T) {
	image := randomImage(t, 3*mib)
	keys := filepath.Join(t.TempDir(), "keys.psk")
	run(t, "", "psktool", "-u", "alice", "-p", keys)
	s := serveUnseen(t, "-r", "--tls=require", "--tls-psk="+keys, "--filter="+filter, "file", "dir="+filepath.Dir(image), "digest=blake3")
	got := offline(t, fmt.Sprintf(`
def connect(export):
    h = nbd.NBD()
    h.set_tls(nbd.TLS_REQUIRE)
    h.set_tls_username("alice")
    h.set_tls_psk_file(%q)
    h.set_export_name(export)
    h.connect_unix(%q)
    return h
client = connect("disk.img")
client.pread(1 << 20, 1 << 20)
query = connect(".digest-final/disk.img")
print(bytes(query.pread(query.get_size(), 0)).decode())`, keys, s.socket()))
	wantState(t, parse(t, got), "disk.img complete blake3:"+sumOf(t, "blake3", image))
	s.stop()
}

// certificates makes an authority, a server's and a client's certificate.
func certificates(t *testing.T, dir string) {
	t.Helper()
	write(t, filepath.Join(dir, "ca.info"), "cn = test\nca\ncert_signing_key\n")
	write(t, filepath.Join(dir, "server.info"), "cn = localhost\ndns_name = localhost\ntls_www_server\nencryption_key\nsigning_key\n")
	write(t, filepath.Join(dir, "client.info"), "cn = alice\ntls_www_client\nencryption_key\nsigning_key\n")
	for _, who := range []string{"ca", "server", "client"} {
		run(t, dir, "certtool", "--generate-privkey", "--key-type=ecdsa", "--outfile="+who+"-key.pem")
		how := []string{"certtool", "--generate-certificate", "--load-ca-certificate=ca-cert.pem", "--load-ca-privkey=ca-key.pem"}
		if who == "ca" {
			how = []string{"certtool", "--generate-self-signed"}
		}
		run(t, dir, append(how, "--load-privkey="+who+"-key.pem", "--template="+who+".info", "--outfile="+who+"-cert.pem")...)
	}
}

// An image of a plugin that is a script, of a tar file, of a part of a disk,
// and over HTTP: other layers than a file.
func TestFilterWorksOverOtherPlugins(t *testing.T) {
	image := randomImage(t, 1*mib)
	disk := filepath.Join(t.TempDir(), "two.img")
	write(t, disk, contents(t, image)+contents(t, image)+strings.Repeat("x", 512))
	archive := filepath.Join(t.TempDir(), "disk.tar")
	run(t, filepath.Dir(image), "tar", "-cf", archive, filepath.Base(image))
	server := httpServer(t, filepath.Dir(image))
	other := serve(t, "file", image)
	for _, c := range []struct {
		name  string
		layer []string
	}{
		{"a script", []string{"eval", "get_size=stat -c %s " + image, "pread=dd if=" + image + " skip=$4 count=$3 iflag=skip_bytes,count_bytes status=none"}},
		{"a part of a file", []string{"--filter=offset", "file", disk, "offset=1M", "range=1M"}},
		{"a file in an archive", []string{"--filter=tar", "file", archive, "tar-entry=disk.img"}},
		{"HTTP", []string{"curl", server + "/disk.img"}},
		{"another NBD server", []string{"nbd", other.uri()}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			sidecar := filepath.Join(t.TempDir(), "disk.sum")
			s := serve(t, append(append([]string{"--filter=" + filter}, c.layer...), "digest=sha256,blake3", "digest-file="+sidecar)...)
			nbdsh(t, s.uri(), "h.pread(70000, 300000)\nh.pread(512, h.get_size() - 512)")
			s.stop() // the rest is read at the end
			wantDigests(t, sidecar, image, "sha256", "blake3")
		})
	}
}

// httpServer serves a directory with nginx and returns its address.
func httpServer(t *testing.T, root string) string {
	t.Helper()
	dir := t.TempDir()
	port := freePort(t)
	var paths strings.Builder
	for _, p := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		paths.WriteString(p + "_temp_path " + filepath.Join(dir, p) + ";\n")
	}
	write(t, filepath.Join(dir, "nginx.conf"), `daemon off; master_process off;
pid `+dir+`/nginx.pid; error_log `+dir+`/error.log;
events { }
http { access_log `+dir+`/access.log; `+paths.String()+`
server { listen 127.0.0.1:`+port+`; root `+root+`; } }
`)
	background(t, "nginx", "-e", dir+"/error.log", "-c", dir+"/nginx.conf")
	waitFor(t, "nginx", func() bool {
		_, err := os.Stat(filepath.Join(dir, "nginx.pid"))
		return err == nil
	})
	return "http://127.0.0.1:" + port
}

// nbdkit's cache filter tells of holes where it holds what a client has written, or
// still has what was trimmed.
func TestWrittenThroughACacheBelow(t *testing.T) {
	for name, write := range map[string]string{
		// More than digest-memory, so that a part must be read again.
		"backwards": `
for at in range(15 << 20, -1, -(1 << 20)):
    h.pwrite(os.urandom(1 << 20), at)`,
		"trimmed": `
h.pwrite(os.urandom(16 << 20), 0)
h.trim(1 << 20, 1 << 20)`,
		"asked": `
h.pwrite(os.urandom(16 << 20), 0)
h.pread(1 << 20, 15 << 20)
h.block_status(16 << 20, 0, lambda *args: 0)
h.trim(1 << 20, 1 << 20)
h.block_status(16 << 20, 0, lambda *args: 0)`,
	} {
		for _, digest := range []string{"sha256", "blake3"} {
			t.Run(name+", "+digest, func(t *testing.T) {
				t.Parallel()
				image, copied := filepath.Join(t.TempDir(), "disk.img"), filepath.Join(t.TempDir(), "copy.img")
				run(t, "", "truncate", "-s", "16M", image)
				s := serve(t, "--filter="+filter, "--filter=cache", "file", image, "digest="+digest, "digest-memory=1M")
				offline(t, fmt.Sprintf(`
import os
h.add_meta_context("base:allocation")
h.connect_uri(%q)
%s
h.shutdown()`, s.uri(), write))
				state := askWhenGone(t, s)
				// Not nbdcopy, which believes what it is told of holes.
				offline(t, fmt.Sprintf(`
h.connect_uri(%q)
open(%q, "wb").write(h.pread(16 << 20, 0))
h.shutdown()`, s.uri(), copied))
				wantState(t, state, " complete "+digest+":"+sumOf(t, digest, copied))
				s.stop()
			})
		}
	}
}
