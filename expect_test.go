// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"nbdkit-digest-filter/nbdkit"
)

// Digests of the empty input, as the tools print them.
const (
	emptyMD5    = "d41d8cd98f00b204e9800998ecf8427e"
	emptySHA1   = "da39a3ee5e6b4b0d3255bfef95601890afd80709"
	emptySHA224 = "d14a028c2a3a2bc9476102bb288234c415a2b01f828ea62ac5b3e42f"
	emptySHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	emptySHA384 = "38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da" +
		"274edebfe76f65fbd51ad2f14898b95b"
	emptySHA512 = "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce" +
		"47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e"
	emptyBLAKE3 = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"

	// Another image's.
	otherSHA256 = "2fac85fa8eb87423b9f52e64d91e38a5417d448201c54e6b097488005cc0a2d8"
)

// inWords writes the expectations as a user would, for comparing.
func inWords(list []expectation) string {
	var words []string
	for _, e := range list {
		words = append(words, fmt.Sprintf("%s:%x", e.algorithm.name, e.sum))
	}
	return strings.Join(words, " ")
}

// checksumFile makes a file of that name and returns its path.
func checksumFile(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestExpectedDigestOnTheCommandLine(t *testing.T) {
	for value, want := range map[string]string{
		"sha256:" + emptySHA256:                  "sha256:" + emptySHA256,
		"SHA256:" + strings.ToUpper(emptySHA256): "sha256:" + emptySHA256,
		"SHA-256:" + emptySHA256:                 "sha256:" + emptySHA256,
		"md5:" + emptyMD5:                        "md5:" + emptyMD5,
		"sha1:" + emptySHA1:                      "sha1:" + emptySHA1,
		"sha224:" + emptySHA224:                  "sha224:" + emptySHA224,
		"sha384:" + emptySHA384:                  "sha384:" + emptySHA384,
		"sha512:" + emptySHA512:                  "sha512:" + emptySHA512,
		"blake3:" + emptyBLAKE3:                  "blake3:" + emptyBLAKE3,
	} {
		list, err := parseExpectation(value, "", "/")
		if err != nil || inWords(list) != want {
			t.Errorf("%s: got %s and %v", value, inWords(list), err)
		}
	}
}

func TestEveryDigestCanBeExpected(t *testing.T) {
	for _, a := range algorithms {
		value := a.name + ":" + strings.Repeat("5a", a.size)
		if list, err := parseExpectation(value, "", "/"); err != nil || inWords(list) != value {
			t.Errorf("%s: got %s and %v", value, inWords(list), err)
		}
		// The tag that the sidecar prints leads back to the digest.
		if b, err := parseTag(a.tag()); err != nil || b.name != a.name {
			t.Errorf("the tag %s: got %s and %v", a.tag(), b.name, err)
		}
	}
}

func TestTagsAsToolsSpellThem(t *testing.T) {
	for tag, want := range map[string]string{
		"SHA256": "sha256", "sha256": "sha256", "SHA-256": "sha256", "SHA2-256": "sha256",
		"SHA512": "sha512", "SHA2-384": "sha384", "MD5": "md5", "BLAKE3": "blake3",
		"BLAKE2b": "", "SHA512-256": "", "SHA3-256": "", "RMD160": "", "SIZE": "", "-": "",
	} {
		a, err := parseTag(tag)
		if a.name != want || (err == nil) != (want != "") {
			t.Errorf("%s: got %q and %v, want %q", tag, a.name, err, want)
		}
	}
}

func TestDigestMatchesItselfOnly(t *testing.T) {
	e := expectation{sum: []byte("0123456789abcdef")}
	for sum, want := range map[string]bool{
		"0123456789abcdef": true, "0123456789abcdeg": false, "1123456789abcdef": false,
		"0123456789abcde": false, "0123456789abcdef0": false, "": false,
	} {
		if e.matches([]byte(sum)) != want {
			t.Errorf("%q: matches is %v", sum, !want)
		}
	}
}

func TestBadExpectationSaysWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct{ value, want string }{
		{"nonsense", "use ALG:HEX, or @FILE"},
		{"12", "use ALG:HEX, or @FILE"},
		{emptySHA256, "use sha256:HEX if it is that"},
		{emptyMD5, "use md5:HEX if it is that"},
		{"crc32:12345678", `unknown digest "crc32": use one of md5`},
		{":" + emptySHA256, `unknown digest ""`},
		{"sha256:", "a sha256 digest has 64 hexadecimal digits, and this one 0"},
		{"sha256:" + emptySHA256[1:], "64 hexadecimal digits, and this one 63"},
		{"sha256:" + emptySHA256 + "0", "64 hexadecimal digits, and this one 65"},
		{"sha256:" + emptySHA512, "64 hexadecimal digits, and this one 128"},
		{"sha256:" + emptySHA256[1:] + "g", "'g' in the digest is not a hexadecimal digit"},
		{"sha256: " + emptySHA256, "' ' in the digest is not"},
		{"sha256:" + emptySHA256[1:] + "\n", `'\n' in the digest is not`},
		{"sha256:\xff", "is not a hexadecimal digit"},
		{"sha256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", "base64"},
		{"sha256:MEqS3DcdiK65hrPZhVRl9vLmXcYjQkyNuFwbGEthf13g=", "base64"},
		{"sha256:" + emptySHA256 + "=", "base64"},
		{"sha256:=" + emptySHA256, "'=' in the digest is not"},
		{"sha256:sha256:" + emptySHA256, "'s' in the digest is not"},
		{"@", "the name of the checksum file is missing"},
		{"sha256:@", "the name of the checksum file is missing"},
		{"@-", "standard input is @/dev/stdin"},
		{"crc32:@SUMS", `unknown digest "crc32"`},
		{"@nowhere", dir + "/nowhere cannot be read: no such file"},
		{"@.", "is neither a regular file nor a pipe"},
		{"@/dev/zero", "is neither a regular file nor a pipe"},
		{"@no\nwhere", `no\nwhere" cannot be read: no such file`},
		{"@" + strings.Repeat("x", 300), "file name too long"},
	} {
		_, err := parseExpectation(c.value, "disk.img", dir)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: the error is %v, want %q in it", c.value, err, c.want)
		}
	}
}

func TestChecksumFileIsBounded(t *testing.T) {
	line := emptySHA256 + "  disk.img\n"
	full := line + strings.Repeat("#", maxChecksums-len(line))
	if _, err := parseExpectation("@"+checksumFile(t, "SUMS", full), "disk.img", "/"); err != nil {
		t.Errorf("%d bytes: %v", len(full), err)
	}
	_, err := parseExpectation("@"+checksumFile(t, "SUMS", full+"#"), "disk.img", "/")
	if err == nil || !strings.Contains(err.Error(), "larger than 1M") {
		t.Errorf("one byte more: the error is %v", err)
	}
}

// What the process that serves gets is the same, wherever it is and whatever has
// become of the files.
func TestResolvedParametersMeanTheSame(t *testing.T) {
	var text strings.Builder
	for i, a := range algorithms {
		fmt.Fprintf(&text, "%s (disk.img) = %s\n", a.tag(), strings.Repeat(fmt.Sprintf("%02x", i), a.size))
		fmt.Fprintf(&text, "%s (other.img) = %s\n", a.tag(), strings.Repeat("ff", a.size))
	}
	path := checksumFile(t, "SUMS", text.String())
	params := []nbdkit.Param{{Key: "digest-expect", Value: "sha256:@SUMS"}, {Key: "digest", Value: "md5,fsverity"}, {Key: "digest-expect", Value: "@SUMS"},
		{Key: "digest-name", Value: "disk.img"}, {Key: "digest-expect", Value: "md5:" + strings.Repeat("00", 16)}, {Key: "digest-salt", Value: "ab"}}
	conf, err := checkConfig(params, nil, filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	if len(conf.expect) != len(algorithms) || conf.expect[0].algorithm.name != "sha256" {
		t.Fatalf("the expectations are %s", inWords(conf.expect))
	}
	for _, directory := range []string{filepath.Dir(path), "/"} {
		again, err := parseConfig(conf.resolve(params), directory)
		if err != nil {
			t.Fatal(err)
		}
		if inWords(again.expect) != inWords(conf.expect) || again.name != "disk.img" || string(again.salt) != "\xab" ||
			!slices.EqualFunc(again.digests, conf.digests, func(a, b algorithm) bool { return a.name == b.name }) {
			t.Errorf("the expectations are %s, and were %s", inWords(again.expect), inWords(conf.expect))
		}
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRelativeNameStartsFromTheDirectory(t *testing.T) {
	path := checksumFile(t, "a@b:c.sha256", emptySHA256)
	for _, value := range []string{"@a@b:c.sha256", "sha256:@a@b:c.sha256", "@./a@b:c.sha256", "@" + path} {
		list, err := parseExpectation(value, "", filepath.Dir(path))
		if err != nil || inWords(list) != "sha256:"+emptySHA256 {
			t.Errorf("%s: got %s and %v", value, inWords(list), err)
		}
	}
}

// What the filter writes it can read as an expectation.
func TestExpectationFromASidecar(t *testing.T) {
	sum := func(a algorithm, i int) string {
		h := sha512.Sum512(fmt.Append(nil, a.name, i))
		return hex.EncodeToString(h[:a.size])
	}
	for _, name := range []string{"", "-", "disk.img", "a b", ` x`, `back\slash`, "new\nline", "re\rturn", "(1) = 2", "ü", "dir/disk.img", "#1"} {
		shown := name
		if name == "" {
			shown = "-"
		}
		other := result{Name: "other.img", State: complete}
		r := result{Name: shown, State: complete}
		var want []string
		for _, a := range algorithms {
			r.Digests = append(r.Digests, digestResult{Algorithm: a.name, Hex: sum(a, 0), tag: a.tag()})
			other.Digests = append(other.Digests, digestResult{Algorithm: a.name, Hex: sum(a, 1), tag: a.tag()})
			want = append(want, a.name+":"+sum(a, 0))
		}
		results := []result{r}
		if shown != "-" { // that would stand for any file
			results = append(results, other)
		}

		path := checksumFile(t, "disk.sum", string(formatText(results)))
		list, err := parseExpectation("@"+path, name, "/")
		if err != nil || inWords(list) != strings.Join(want, " ") {
			t.Errorf("%q, text: got %s and %v", name, inWords(list), err)
		}

		for i, a := range algorithms {
			one := r
			one.Digests = r.Digests[i : i+1]
			path := checksumFile(t, "disk.sum", string(formatGNU([]result{one})))
			for _, value := range []string{a.name + ":@" + path, "@" + path} {
				if a.name == "blake3" && value[0] == '@' {
					continue // of the length of SHA-256
				}
				list, err := parseExpectation(value, name, "/")
				if err != nil || inWords(list) != want[i] {
					t.Errorf("%q, %s: got %s and %v, want %s", name, value, inWords(list), err, want[i])
				}
			}
		}
	}
}

// A digest of less than the whole image is a comment, and none to expect.
func TestIncompleteSidecarHasNoExpectation(t *testing.T) {
	r := result{Name: "disk.img", State: incomplete, Digests: []digestResult{{Algorithm: "sha256", tag: "SHA256"}}}
	_, err := parseExpectation("@"+checksumFile(t, "disk.sum", string(formatText([]result{r}))), "disk.img", "/")
	if err == nil || !strings.Contains(err.Error(), "no checksum in it") {
		t.Errorf("the error is %v", err)
	}
}
