// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nbdkit-digest-filter/nbdkit"
)

// resultsToReplace are results in all states, of exports with all kinds of names.
func resultsToReplace(t *testing.T, digests string) (results []result) {
	t.Helper()
	conf := testConfig(t, "digest", digests)
	now := time.Now()
	for _, name := range []string{"disk.img", "", "#", "a\nb", `\`, "\xff\x01", "(a) = b", strings.Repeat("long", 2000)} {
		for _, s := range []state{complete, pending, incomplete, changing, mismatch, failed} {
			r := unopened(name, conf)
			r.Name, r.State, r.Size, r.Started, r.Finished = conf.displayName(name), s, 77, now, &now
			if s == complete {
				for i := range r.Digests {
					r.Digests[i].Hex = strings.Repeat("ab", 16*(i+1))
				}
			}
			if s == failed {
				r.Error = "the source has changed"
			}
			results = append(results, r)
		}
	}
	return results
}

// An earlier result is replaced, even if nbdkit was killed when it had written a
// part of it.
func TestResultsAreKnownFromTheirStart(t *testing.T) {
	for _, digests := range []string{"md5", "sha256,blake3", "sha512", "blkhash,merkle/sha256/1k", "fsverity,dmverity"} {
		for _, r := range resultsToReplace(t, digests) {
			for name, format := range formats {
				content := format([]result{r})
				// Long ones differ at their start only.
				for n := 0; n <= min(len(content), resultStart); n += 1 + n/100 {
					if !isResult(content[:n]) {
						t.Fatalf("%s: %q is not taken for a result", name, content[:n])
					}
				}
			}
		}
	}
	for _, line := range []string{
		otherSHA256 + "  disk.img\n", otherSHA256 + " *disk.img\r\n", otherSHA256 + "\n", emptySHA512,
		"SHA256 (disk.img) = " + otherSHA256 + "\n", "SHA2-256(disk.img)= " + otherSHA256 + "\n", "BLAKE2b (a) = " + emptySHA512 + "\n",
	} {
		if !isResult([]byte(line)) {
			t.Errorf("%q is not taken for a result", line)
		}
	}
}

func TestOtherFilesAreNoResults(t *testing.T) {
	for _, head := range []string{
		"\x7fELF\x02\x01\x01", "QFI\xfb\x00\x00\x00\x03", strings.Repeat("\x00", 512), "\x00", "\n", "\n\n", " ", "# \n", "#!/bin/sh\n", "# a comment\n",
		"# hosts (of all)\n", "hello (world)\n", "main (void) = 1\n", "print(a) = b\n", "stale", "a list\n", "deadbeef\n", "CHANGES\n", "1 2 3\n",
		`{"version":1}`, "{\n  \"version\": 1,\n  \"filter\": \"other\"", "[]", htmlPage, fedoraSums, "Checksums\n" + ubuntuSums, "\xeb\x3c\x90MSDOS5.0",
		strings.Repeat("word ", 1000), strings.Repeat("A", 4096), strings.Repeat("a", 4096), "\xff", "the quick brown fox jumps over it\n",
	} {
		if isResult([]byte(head)) {
			t.Errorf("%q is taken for a result", head[:min(len(head), 40)])
		}
	}
}

func TestDigestFileIsNotAFileOfTheUser(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string][]byte{
		"disk.img":   append([]byte("\xeb\x3c\x90"), make([]byte, 300<<10)...),
		"book":       []byte(strings.Repeat("it was the best of times\n", 200)),
		"notes":      []byte("what is to be done\n"),
		"script":     []byte("#!/bin/sh\nexit\n"),
		"sums":       []byte(ubuntuSums),
		"binary":     []byte("\x7fELF\x02\x01\x01"),
		"descriptor": []byte("# Disk DescriptorFile\nversion=1\ncreateType=\"monolithicFlat\"\nRW 10 FLAT \"data\" 0\n"),
		"empty":      nil,
		"large":      formatText(someResults("a")),
		"json":       formatJSON(nil),
		"half":       []byte("SHA256 (di"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Truncate(filepath.Join(dir, "large"), 100<<20); err != nil { // as of many exports with long names
		t.Fatal(err)
	}
	if err := os.Symlink("disk.img", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"disk.img": `no earlier result, but begins with "\xeb<\x90`, "book": `begins with "it was the best of times": name another file, or remove this one`,
		"binary": `begins with "\x7fELF`, "notes": "", "script": "begins with \"#!/bin/sh\"", "sums": "", "descriptor": "begins with \"# Disk DescriptorFile\"", "empty": "", "large": "", "json": "", "half": "", "link": "", "new": "",
	} {
		_, err := checkConfig([]nbdkit.Param{{Key: "digest-file", Value: file}}, nil, dir)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("digest-file=%s: the error is %v, want %q in it", file, err, want)
		}
	}
}

// The image of the layer below is not replaced, be it short, or not there yet.
func TestDigestFileIsNotAShortImage(t *testing.T) {
	dir := t.TempDir()
	short := filepath.Join(dir, "short.img")
	if err := os.WriteFile(short, []byte("short\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{short, filepath.Join(dir, "new.img")} {
		c := testConfig(t, "digest-file", file)
		if c.spareFile(nil, []nbdkit.Param{{Key: "file", Value: file}}, dir) == nil {
			t.Errorf("%s is the image, and would be replaced", file)
		}
	}
}
