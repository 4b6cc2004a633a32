// SPDX-License-Identifier: BSD-3-Clause

package tests

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestFilterDescribesItself(t *testing.T) {
	t.Parallel()
	keys := []string{"digest", "digest-expect", "digest-file", "digest-format", "digest-memory", "digest-name", "digest-query",
		"digest-salt", "digest-unread", "digest-verify", "signature", "signature-unsafe"}
	help := run(t, "", "nbdkit", "--filter="+filter, "null", "--help")
	for _, want := range []string{"filter: digest (nbdkit digest filter)", "Compute digests", filter} {
		if !strings.Contains(help, want) {
			t.Errorf("--help does not say %q:\n%s", want, help)
		}
	}
	for _, key := range keys {
		if !regexp.MustCompile(`(?m)^` + key + `=\S`).MatchString(help) {
			t.Errorf("--help does not explain %s:\n%s", key, help)
		}
	}
	for l := range strings.Lines(help[strings.Index(help, "filter: digest"):]) {
		if len(l) > 81 && !strings.Contains(l, filter) {
			t.Errorf("--help has a line wider than a terminal: %q", l)
		}
	}

	plugin := run(t, "", "nbdkit", "--dump-plugin", "null")
	dump := run(t, "", "nbdkit", "--filter="+filter, "--dump-plugin", "null")
	rest, ok := strings.CutPrefix(dump, plugin)
	if !ok {
		t.Errorf("--dump-plugin does not begin with what it has without the filter:\n%s", dump)
	}
	fields := make(map[string]string)
	for l := range strings.Lines(rest) {
		key, value, ok := strings.Cut(strings.TrimSuffix(l, "\n"), "=")
		if !ok {
			t.Errorf("--dump-plugin has %q, which is no key=value", l)
		}
		fields[key] = value
	}
	if fields["digest_longname"] != "nbdkit digest filter" || fields["digest_description"] == "" || fields["digest_version"] == "" {
		t.Errorf("--dump-plugin does not describe the filter:\n%s", rest)
	}
	for _, key := range keys {
		if !strings.Contains(","+fields["digest_parameters"]+",", ","+key+",") {
			t.Errorf("--dump-plugin does not know %s:\n%s", key, rest)
		}
	}
}

func TestFilterTwiceIsAnError(t *testing.T) {
	t.Parallel()
	copied := filepath.Join(t.TempDir(), filepath.Base(filter))
	renamed := filepath.Join(t.TempDir(), "other.so")
	for _, to := range []string{copied, renamed} {
		b, err := os.ReadFile(filter)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, second := range []struct{ name, path string }{
		{"the same file", filter},
		{"a copy in another directory", copied},
		{"a copy with another name", renamed},
	} {
		for _, use := range [][]string{
			{"-U", "-", "null", "--run", "true"},
			{"-s", "null"},
			{"--help", "null"},
			{"--dump-plugin", "null"},
		} {
			t.Run(second.name+" with "+strings.Join(use, " "), func(t *testing.T) {
				t.Parallel()
				o := execute(t, "", append([]string{"nbdkit", "--filter=" + filter, "--filter=log", "--filter=" + second.path}, use...)...)
				if o.status != 1 {
					t.Errorf("exit status %d", o.status)
				}
				if strings.Count(o.stderr, "\n") != 1 || !strings.Contains(o.stderr, "more than once: use it once") {
					t.Errorf("stderr has\n%s", o.stderr)
				}
			})
		}
	}
}

// nbdkit refuses filters of another version, in words that are its own. It
// must come so far, and not crash before.
func TestFilterOfAnotherNbdkitIsRefused(t *testing.T) {
	t.Parallel()
	include := strings.TrimSpace(run(t, "", "pkg-config", "--variable=includedir", "nbdkit"))
	header := contents(t, filepath.Join(include, "nbdkit-version.h"))
	headers := t.TempDir()
	paths, err := filepath.Glob(filepath.Join(include, "nbdkit-*.h"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		write(t, filepath.Join(headers, filepath.Base(p)), contents(t, p))
	}
	header = regexp.MustCompile(`"\d+\.\d+\.\d+`).ReplaceAllString(header, `"1.9998.0`)
	header = regexp.MustCompile(`VERSION_MINOR +\d+`).ReplaceAllString(header, "VERSION_MINOR 9998")
	write(t, filepath.Join(headers, "nbdkit-version.h"), header)
	other := build(t, ".", "-I"+headers)
	for _, use := range [][]string{{"null", "--run", "true"}, {"--dump-plugin", "null"}, {"--help", "null"}} {
		o := execute(t, "", append([]string{"nbdkit", "-U", "-", "--filter=" + other}, use...)...)
		if o.status != 1 || !strings.Contains(o.stderr, "1.9998.0") || strings.Count(o.stderr, "\n") != 1 {
			t.Errorf("%v: exit status %d\n%s", use, o.status, o.stderr)
		}
	}
}

func TestFilterLoadsFromAnyPlace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Symlink(filter, filepath.Join(dir, "nbdkit-digest-filter.so")); err != nil {
		t.Fatal(err)
	}
	image := randomImage(t, 5000)
	run(t, dir, "nbdkit", "-U", "-", "--filter=./nbdkit-digest-filter.so", "file", image,
		"digest-file=disk.sum", "--run", `nbdcopy "$uri" null:`)
	wantDigests(t, filepath.Join(dir, "disk.sum"), image, "blake3")
}
