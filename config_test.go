// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"math"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"nbdkit-digest-filter/nbdkit"
)

func TestBadParametersSayWhatIsAllowed(t *testing.T) {
	for _, test := range []struct{ key, value, want string }{
		{"digest", "sha3", "md5, sha1"},
		{"digest", "sha256,", `remove a comma: unknown digest ""`},
		{"digest", "", "no value"},
		{"digest-format", "xml", "text, gnu or json"},
		{"digest-unread", "never", "early, late or skip"},
		{"digest-memory", "4k", "[1M..1T]"},
		{"digest-memory", "2T", "[1M..1T]"},
		{"digest-memory", "99999999999999999999", "[1M..1T]"},
		{"digest-memory", "much", "not a size"},
		{"digest-memory", "-1", "not a size"},
		{"digest-query", "maybe", "true or false"},
		{"digest-file", "/", "directory"},
		{"digest-file", "/nowhere/at/all", "no such file"},
		{"digest-file", "/dev/null/x", "not a directory"},
		{"digest-file", "/dev/fd/9999", "descriptor 9999 is not open"},
	} {
		_, err := parseConfig([]nbdkit.Param{{Key: test.key, Value: test.value}}, "/")
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s=%s: the error is %v, want %q in it", test.key, test.value, err, test.want)
		}
	}
}

// What is at digest-file is removed at start: not a file that is needed, or that
// is no sidecar.
func TestDigestFileIsNotAFileThatIsNeeded(t *testing.T) {
	dir := t.TempDir()
	sums := "CHECKSUM"
	if err := os.WriteFile(filepath.Join(dir, "stale"), formatText(someResults("a")), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, sums), []byte(strings.Repeat("0", 32)+"  disk.img\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(sums, filepath.Join(dir, "to-sums")); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(dir, sums), filepath.Join(dir, "other-name")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ expect, file, want string }{
		{"@" + sums, "stale", ""},
		{"@" + sums, "new", ""},
		{"@" + sums, "-", ""},
		{"@" + sums, sums, "is the checksum file of digest-expect=@CHECKSUM"},
		{"md5:@" + sums, sums, "is the checksum file"},
		{"@" + dir + "/" + sums, "./" + sums, "is the checksum file"},
		{"@" + sums, "other-name", "is the checksum file"},
		{"@to-sums", "to-sums", "is the checksum file"},
		{"@to-sums", sums, "is the checksum file"},
	} {
		for _, params := range [][]nbdkit.Param{
			{{Key: "digest-expect", Value: c.expect}, {Key: "digest-file", Value: c.file}},
			{{Key: "digest-file", Value: c.file}, {Key: "digest-expect", Value: c.expect}},
		} {
			_, err := checkConfig(params, nil, dir)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("digest-expect=%s digest-file=%s: the error is %v, want %q in it", c.expect, c.file, err, c.want)
			}
		}
	}
}

func TestUnreadIsEarlyWithALinearDigest(t *testing.T) {
	for digests, want := range map[string]unreadWhen{"blake3": late, "sha1": early, "blake3,md5": early} {
		if got := testConfig(t, "digest", digests).unread; got != want {
			t.Errorf("digest=%s: digest-unread is %s, want %s", digests, got, want)
		}
	}
}

// The keys in about.c, which nbdkit gets to see, are those that the parser
// knows.
func TestEveryKeyIsKnown(t *testing.T) {
	text, err := os.ReadFile("about.c")
	if err != nil {
		t.Fatal(err)
	}
	keys := regexp.MustCompile(`(?m)^  "([a-z-]+)",$`).FindAllStringSubmatch(string(text), -1)
	if len(keys) < 6 {
		t.Fatalf("about.c has %d keys", len(keys))
	}
	for _, key := range keys {
		_, err := parseConfig([]nbdkit.Param{{Key: key[1], Value: "\x00"}}, "/")
		if err != nil && strings.Contains(err.Error(), "does not know") {
			t.Error(err)
		}
		if !strings.Contains(string(text), `"`+key[1]+"=") {
			t.Errorf("the help has nothing on %s", key[1])
		}
	}
}

// Whatever the parameters are, the answer is a usable configuration or an
// error of one printable line.
func FuzzParameters(f *testing.F) {
	f.Add("digest=sha256,blake3\ndigest-file=disk.json\ndigest-memory=16M")
	f.Add("digest-format=gnu\ndigest-name=a b\ndigest-unread=skip")
	f.Add("digest-memory=1e\ndigest=,")
	f.Fuzz(func(t *testing.T, lines string) {
		var params []nbdkit.Param
		for line := range strings.SplitSeq(lines, "\n") {
			key, value, _ := strings.Cut(line, "=")
			if printable(key) != key {
				return // C hands over known keys only
			}
			params = append(params, nbdkit.Param{Key: key, Value: value})
		}
		conf, err := parseConfig(params, "/tmp")
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\x00") {
				t.Fatalf("an error of several lines: %q", err)
			}
			return
		}
		if len(conf.digests) == 0 || conf.format == nil || conf.memory < minMemory || conf.memory > maxMemory ||
			!slices.Contains([]unreadWhen{early, late, skip}, conf.unread) {
			t.Fatalf("%+v", conf)
		}
	})
}

// A size is what it is by arithmetic that knows no limit, or an error.
func FuzzSizes(f *testing.F) {
	for _, s := range []string{"", "0", "64M", "1m", "2s", "512b", "8E", "7e", "9223372036854775807", "9223372036854775808", "16E", "17179869185G", "36028797018963969s", "-1", "+1", "1_0", "k", "1kk"} {
		f.Add(s)
	}
	form := regexp.MustCompile(`^([0-9]+)([bskmgtpeBSKMGTPE]?)$`)
	units := map[string]string{"": "1", "b": "1", "s": "512", "k": "1024", "m": "1048576", "g": "1073741824",
		"t": "1099511627776", "p": "1125899906842624", "e": "1152921504606846976"}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseSize(s, 0, math.MaxInt64)
		m := form.FindStringSubmatch(s)
		if m == nil {
			if err == nil {
				t.Fatalf("%q is no size, but %d", s, got)
			}
			return
		}
		n, _ := new(big.Int).SetString(m[1], 10)
		unit, _ := new(big.Int).SetString(units[strings.ToLower(m[2])], 10)
		n.Mul(n, unit)
		if n.IsInt64() != (err == nil) || err == nil && n.Int64() != got {
			t.Fatalf("%q is %d, %v, want %s", s, got, err, n)
		}
		if err != nil {
			return
		}
		if again, err := parseSize(formatSize(got), 0, math.MaxInt64); again != got || err != nil {
			t.Fatalf("%d is formatted as %s", got, formatSize(got))
		}
	})
}

// A memory that has no room for blocks of the size that is asked for is no error, as
// there will be a digest, but not what one would expect.
func TestMemoryForFewBlocks(t *testing.T) {
	for _, c := range []struct{ digest, memory, want string }{
		{"merkle/blake3/1m", "1M", "warning: digest-memory=1M has no room for several blocks of merkle/blake3/1m: use digest-memory=8M"},
		{"dmverity/sha256/512k", "4095K", "digest-memory=4M"},
		{"dmverity/sha256/512k", "4M", ""},
		{"blkhash,sha256,blake3,fsverity/sha256/64k", "1M", ""},
		{"merkle/sha256/1m", "64M", ""},
	} {
		lines := strings.Join(testConfig(t, "digest", c.digest, "digest-memory", c.memory).warnings(), "\n")
		if (lines == "") != (c.want == "") || !strings.Contains(lines, c.want) {
			t.Errorf("%s, %s: the warnings are %q, want %q", c.digest, c.memory, lines, c.want)
		}
	}
}

// Everybody looks at the image unless nothing is asked of it.
func TestWhoLooks(t *testing.T) {
	for _, kind := range []string{"sane", "any", "known", "qcow2"} {
		for _, unsafe := range []string{"refuse", "allow"} {
			if looks := testConfig(t, "signature", kind, "signature-unsafe", unsafe).looks(); looks != (kind != "any" || unsafe == "refuse") {
				t.Errorf("signature=%s signature-unsafe=%s: looks is %v", kind, unsafe, looks)
			}
		}
	}
}

// Without early reads, an expected digest would be known when the copy has ended.
func TestUnreadIsEarlyWithAnExpectedDigest(t *testing.T) {
	zeros := strings.Repeat("00", 32)
	if unread := testConfig(t, "digest-expect", "blake3:"+zeros).unread; unread != early {
		t.Errorf("digest-unread is %s", unread)
	}
	_, err := parseConfig([]nbdkit.Param{{Key: "digest-expect", Value: "blake3:" + zeros}, {Key: "digest-expect", Value: "blake3:" + zeros[2:] + "01"}}, "/")
	if err == nil {
		t.Error("two digests of one kind are expected")
	}
}
