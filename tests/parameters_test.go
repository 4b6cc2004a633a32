// SPDX-License-Identifier: BSD-3-Clause

package tests

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestBadParameterIsAnErrorBeforeNbdkitServes(t *testing.T) {
	image := randomImage(t, 1000)
	const algorithms = "use one of md5, sha1, sha224, sha256, sha384, sha512, blake3"
	for _, c := range []struct {
		name   string
		params []string
		value  string // what the error must quote
		remedy string
	}{
		{"unknown digest", []string{"digest=crc32"}, "crc32", algorithms},
		{"unknown digest in a list", []string{"digest=sha256,sha3,blake3"}, "sha3", algorithms},
		{"unknown digest after a good one", []string{"digest=sha256", "digest=b3"}, "b3", algorithms},
		{"list with an empty place", []string{"digest=sha256,,md5"}, "sha256,,md5", algorithms},
		{"list that ends in a comma", []string{"digest=sha256,"}, "sha256,", algorithms},
		{"list with blanks", []string{"digest=sha256, md5"}, " md5", algorithms},
		{"no digest", []string{"digest="}, "digest=", "no value"},
		{"unknown format", []string{"digest-format=xml"}, "xml", "use text, gnu or json"},
		{"format in capitals", []string{"digest-format=JSON"}, "JSON", "use text, gnu or json"},
		{"no format", []string{"digest-format="}, "digest-format=", "no value"},
		{"gnu with two digests", []string{"digest-format=gnu", "digest=md5,sha1"}, "gnu", "use text or json"},
		{"gnu with two digests in turn", []string{"digest=md5", "digest-format=gnu", "digest=sha1"}, "gnu", "use text or json"},
		{"unknown time to read", []string{"digest-unread=never"}, "never", "use early, late or skip"},
		{"no time to read", []string{"digest-unread="}, "digest-unread=", "no value"},
		{"memory below the least", []string{"digest-memory=1M", "digest-memory=64k"}, "digest-memory", "more than once"},
		{"too little memory", []string{"digest-memory=1023K"}, "1023K", "[1M..1T]"},
		{"no memory at all", []string{"digest-memory=0"}, "digest-memory=0", "[1M..1T]"},
		{"too much memory", []string{"digest-memory=2T"}, "2T", "[1M..1T]"},
		{"memory beyond all numbers", []string{"digest-memory=99999999999999999999"}, "99999999999999999999", "[1M..1T]"},
		{"memory that overflows", []string{"digest-memory=8589934592G"}, "8589934592G", "[1M..1T]"},
		{"negative memory", []string{"digest-memory=-1"}, "-1", "this is not a size"},
		{"memory in words", []string{"digest-memory=lots"}, "lots", "this is not a size"},
		{"memory with two suffixes", []string{"digest-memory=1MM"}, "1MM", "this is not a size"},
		{"query in other words", []string{"digest-query=maybe"}, "digest-query=maybe", "use true or false"},
		{"no word on queries", []string{"digest-query="}, "digest-query=", "no value"},
		{"suffix alone", []string{"digest-memory=M"}, "digest-memory=M", "this is not a size"},
		{"no file", []string{"digest-file="}, "digest-file=", "no value"},
		{"directory as the file", []string{"digest-file=/tmp"}, "/tmp", "name a file in it"},
		{"directory that is to be made", []string{"digest-file=sums/"}, "sums/", "name a file in it"},
		{"file with a slash behind it", []string{"digest-file=" + image + "/"}, image + "/", "name a file in it"},
		{"directory of checksums", []string{"digest-expect=@sums/"}, "@sums/", "name a file in it"},
		{"URL of checksums", []string{"digest-expect=@https://example.com/CHECKSUM"}, "@https:", "a URL is not read"},
		{"URL as the digest", []string{"digest-expect=https://example.com/CHECKSUM"}, "=https:", "a URL is not read"},
		{"directory that is not there", []string{"digest-file=/nonexistent/disk.sum"}, "/nonexistent/disk.sum", "no such file or directory"},
		{"file as the directory", []string{"digest-file=" + image + "/disk.sum"}, image + "/disk.sum", "not a directory"},
		{"two files", []string{"digest-file=a.sum", "digest-file=b.sum"}, "digest-file", "more than once"},
		{"two names", []string{"digest-name=a", "digest-name=b"}, "digest-name", "more than once"},
		{"no name", []string{"digest-name="}, "digest-name=", "no value"},
		{"value with a newline", []string{"digest=sha\n256"}, `sha\n256`, algorithms},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			params := c.params
			// A bad parameter must not cost the result of an earlier run.
			earlier := filepath.Join(dir, "stale.sum")
			write(t, earlier, stale)
			if !strings.Contains(strings.Join(params, " "), "digest-file=") {
				params = append(params[:len(params):len(params)], "digest-file="+earlier)
			}
			for _, mode := range [][]string{{"-U", "-", "--run", "touch served"}, {"-U", "sock", "-P", "served"}} {
				o := execute(t, dir, append(append(append([]string{"nbdkit"}, mode...), "--filter="+filter, "file", image), params...)...)
				if o.status != 1 {
					t.Errorf("%v: exit status %d", mode, o.status)
				}
				if !strings.HasPrefix(o.stderr, "nbdkit: error: digest: ") || strings.Count(o.stderr, "\n") != 1 ||
					!strings.Contains(o.stderr, c.value) || !strings.Contains(o.stderr, c.remedy) {
					t.Errorf("%v: stderr should be one line with %q and %q, and is\n%s", mode, c.value, c.remedy, o.stderr)
				}
				if exists(filepath.Join(dir, "served")) {
					t.Errorf("%v: nbdkit serves all the same", mode)
				}
			}
			if contents(t, earlier) != stale {
				t.Error("the sidecar was touched")
			}
		})
	}
}

// A name that was mistyped must not cost a file.
func TestFileThatIsNoResultIsNotReplaced(t *testing.T) {
	t.Parallel()
	image := randomImage(t, 300*kib)
	before := contents(t, image)
	hard := filepath.Join(filepath.Dir(image), "hard")
	if err := os.Link(image, hard); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{image, hard} {
		o := execute(t, t.TempDir(), "nbdkit", "-U", "-", "-r", "--filter="+filter, "null", "1M", "digest-file="+file, "--run", "touch served")
		if o.status != 1 || !strings.Contains(o.stderr, "digest-file="+file+": the file is no earlier result") || strings.Count(o.stderr, "\n") != 1 {
			t.Errorf("exit status %d\n%s", o.status, o.stderr)
		}
		if contents(t, image) != before || !exists(file) {
			t.Fatal("the image has gone")
		}
	}
	// Not even if the image looks like a result.
	dir := t.TempDir()
	write(t, dir+"/sums", stale)
	for _, err := range []error{os.Link(dir+"/sums", dir+"/hard"), os.Symlink("sums", dir+"/link")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, names := range [][2]string{{"sums", "sums"}, {"file=sums", dir + "/sums"}, {"./sums", "hard"}, {"link", "sums"}, {"sums", "link"}, {"link", "link"}} {
		o := execute(t, dir, "nbdkit", "-U", "-", "-r", "--filter="+filter, "--filter=offset", "file", names[0], "signature=any", "digest-file="+names[1], "--run", "touch served")
		if o.status != 1 || !strings.Contains(o.stderr, ": this is the file of file=") || exists(dir+"/served") {
			t.Errorf("%v: exit status %d\n%s", names, o.status, o.stderr)
		}
		for _, name := range []string{"sums", "hard", "link"} {
			if !exists(dir+"/"+name) || contents(t, dir+"/"+name) != stale {
				t.Fatalf("%v: %s has gone", names, name)
			}
		}
	}
	// Nor a file that is not there yet.
	o := execute(t, dir, "nbdkit", "-U", "-", "-r", "--filter="+filter, "--filter=log", "null", "1M", "digest-file=log.txt", "logfile=log.txt", "--run", "touch served")
	if o.status != 1 || !strings.Contains(o.stderr, ": this is the file of logfile=") || exists(dir+"/served") {
		t.Errorf("exit status %d\n%s", o.status, o.stderr)
	}
	run(t, dir, "nbdkit", "-U", "-", "-r", "--filter="+filter, "--filter=log", "null", "1M", "signature=any", "digest-file=/dev/null", "logfile=/dev/null",
		"--run", "nbdcopy $uri null:")
	for _, format := range []string{"text", "gnu", "json"} {
		file := filepath.Join(t.TempDir(), "sum")
		for range 2 {
			digestOf(t, image, "digest-format="+format, "digest-file="+file)
		}
	}
}

// With --run the command would wait for a server that has ended.
func TestFileThatCannotBeWrittenIsAnErrorBeforeNbdkitServes(t *testing.T) {
	t.Parallel()
	dir := socketDir(t)
	mine := filepath.Join(dir, filepath.Base(filter)) // readable for every user
	write(t, mine, contents(t, filter))
	closed := filepath.Join(dir, "closed")
	if err := os.Mkdir(closed, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(closed, "stale.sum"), stale)
	var other []string
	if os.Getuid() == 0 {
		other = []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"}
	} else if err := errors.Join(os.Chmod(filepath.Join(closed, "stale.sum"), 0o444), os.Chmod(closed, 0o555)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"stale.sum", "new.sum"} {
		o := execute(t, "", append(other, "nbdkit", "-U", "-", "--filter="+mine, "null", "1M", "digest-file="+filepath.Join(closed, name),
			"--run", "echo served; nbdinfo --size $uri")...)
		if o.status != 1 || !strings.Contains(o.stderr, "neither the file nor its directory can be written") || o.stdout != "" {
			t.Errorf("%s: exit status %d\n%s%s", name, o.status, o.stdout, o.stderr)
		}
	}
}

// So is what a directory such as /tmp keeps a user from removing, and a FIFO that
// is another user's.
func TestFilesOfOtherUsersAreAnErrorBeforeNbdkitServes(t *testing.T) {
	t.Parallel()
	nobody(t)
	dir := socketDir(t)
	mine := filepath.Join(dir, filepath.Base(filter))
	write(t, mine, contents(t, filter))
	for _, err := range []error{os.Chmod(dir, 0o777|os.ModeSticky), syscall.Mkfifo(dir+"/fifo", 0o644), os.Symlink("nowhere", dir+"/link")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir+"/stale.sum", stale)
	for name, why := range map[string]string{
		"stale.sum": "neither removed nor written",
		"link":      "neither removed nor written",
		"fifo":      "cannot be written: permission denied",
	} {
		o := execute(t, "", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "nbdkit", "-U", "-", "--filter="+mine, "null", "1M",
			"digest-file="+dir+"/"+name, "--run", "echo served")
		if o.status != 1 || !strings.Contains(o.stderr, why) || o.stdout != "" {
			t.Errorf("%s: exit status %d\n%s%s", name, o.status, o.stdout, o.stderr)
		}
	}
	write(t, dir+"/open.sum", stale)
	if err := os.Chmod(dir+"/open.sum", 0o666); err != nil {
		t.Fatal(err)
	}
	run(t, "", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "nbdkit", "-U", "-", "--filter="+mine, "null", "1M",
		"signature=any", "digest-file="+dir+"/open.sum", "--run", "nbdcopy $uri null:")
	if got := contents(t, dir+"/open.sum"); !strings.HasPrefix(got, "BLAKE3 (-) = ") {
		t.Errorf("what can be written in place has %q", got)
	}
}

// Which user nbdkit will be is not known before it has forked. What is found then
// must not leave the command waiting.
func TestCommandEndsIfTheUserOfNbdkitCannotWriteTheFile(t *testing.T) {
	t.Parallel()
	_, _, group := nobody(t)
	for _, option := range []string{"--run", "--ru"} {
		o := execute(t, "", "nbdkit", "-u", "nobody", "-g", group, "-U", "-", "--filter="+filter, "null", "1M", "digest-file="+t.TempDir()+"/sum",
			option, "nbdinfo $uri || exit 7")
		if o.status != 7 || !strings.Contains(o.stderr, "no client is served") {
			t.Errorf("%s: exit status %d\n%s%s", option, o.status, o.stdout, o.stderr)
		}
	}
}

func TestGoodParametersMeanWhatTheySay(t *testing.T) {
	image := randomImage(t, 200*kib+7)
	for _, c := range []struct {
		name       string
		params     []string
		algorithms []string
	}{
		{"blake3 is the default", nil, []string{"blake3"}},
		{"all digests at once", []string{"digest=md5,sha1,sha224,sha256,sha384,sha512,blake3"},
			[]string{"md5", "sha1", "sha224", "sha256", "sha384", "sha512", "blake3"}},
		{"the order is that of the command line", []string{"digest=blake3,sha512", "digest=md5"}, []string{"blake3", "sha512", "md5"}},
		{"a digest is computed once", []string{"digest=sha1,sha1", "digest=sha1"}, []string{"sha1"}},
		{"names may be in capitals", []string{"digest=SHA256,Blake3"}, []string{"sha256", "blake3"}},
		{"the least memory", []string{"digest-memory=1048576", "digest=sha224"}, []string{"sha224"}},
		{"the most memory", []string{"digest-memory=1T", "digest=sha384"}, []string{"sha384"}},
		{"queries", []string{"digest-query=On"}, []string{"blake3"}},
		{"no queries", []string{"digest-query=0"}, []string{"blake3"}},
		{"read late", []string{"digest-unread=late", "digest=sha1,blake3"}, []string{"sha1", "blake3"}},
		{"format by its name", []string{"digest-format=text"}, []string{"blake3"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			sidecar := filepath.Join(t.TempDir(), "disk.sum")
			s := serve(t, append([]string{"--filter=" + filter, "file", image, "digest-file=" + sidecar}, c.params...)...)
			copyAll(t, s.uri())
			s.stop()
			wantDigests(t, sidecar, image, c.algorithms...)
		})
	}
}

// What is not the filter's goes to the layer below, whose errors stay its own.
func TestOtherParametersGoToTheNextLayer(t *testing.T) {
	t.Parallel()
	o := execute(t, "", "nbdkit", "-U", "-", "--filter="+filter, "null", "digest-colour=red", "--run", "true")
	plain := execute(t, "", "nbdkit", "-U", "-", "null", "digest-colour=red", "--run", "true")
	if o.status != 1 || o.stderr != plain.stderr {
		t.Errorf("exit status %d\n%swhere without the filter it is\n%s", o.status, o.stderr, plain.stderr)
	}
}
