// SPDX-License-Identifier: BSD-3-Clause

package tests

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The headers of an nbdkit that does not fit stop the build, and say which
// does.
func TestHeadersThatDoNotFitStopTheBuild(t *testing.T) {
	t.Parallel()
	include := strings.TrimSpace(run(t, "", "pkg-config", "--variable=includedir", "nbdkit"))
	headers, err := filepath.Glob(filepath.Join(include, "nbdkit-*.h"))
	if err != nil || len(headers) == 0 {
		t.Fatalf("no headers in %s: %v", include, err)
	}
	for _, c := range []struct{ what, define, value, want string }{
		{"these", "NBDKIT_VERSION_STRING", `"x"`, ""},
		{"old ones", "NBDKIT_VERSION_MINOR", "30", "older than 1.32: the filter fits nbdkit 1.32 to 1.48"},
		{"those of another API", "NBDKIT_FILTER_API_VERSION", "7", "another filter API than 6: the filter fits nbdkit 1.32 to 1.48"},
		{"those of nbdkit 2", "NBDKIT_VERSION_MAJOR", "2", "another nbdkit than 1.x: the filter fits nbdkit 1.32 to 1.48"},
	} {
		dir := t.TempDir()
		found := false
		for _, h := range headers {
			define := regexp.MustCompile(`(?m)^#define ` + c.define + ` .*`)
			text := contents(t, h)
			found = found || define.MatchString(text)
			write(t, filepath.Join(dir, filepath.Base(h)), define.ReplaceAllString(text, "#define "+c.define+" "+c.value))
		}
		if !found {
			t.Fatalf("no header defines %s", c.define)
		}
		o := execute(t, "..", "gcc", "-fsyntax-only", "-I", dir, "nbdkit/start.c")
		if (o.status == 0) != (c.want == "") || !strings.Contains(o.stderr, c.want) {
			t.Errorf("with headers like %s, gcc's exit status is %d and it says\n%swant %q", c.what, o.status, o.stderr, c.want)
		}
	}
}

// Whoever builds the same source with the same tools gets the same bytes,
// whatever the directory is called.
func TestBuildIsReproducible(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "another-place")
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"Makefile", "go.*", "*.go", "*.c", "*.h", "*.bin", "*.pod", "nbdkit"} {
		files, err := filepath.Glob(filepath.Join("..", pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("there is no %s: %v", pattern, err)
		}
		run(t, "", append([]string{"cp", "-r", "-t", dir}, files...)...)
	}
	run(t, dir, "make", filepath.Base(filter))
	if !same(t, filter, filepath.Join(dir, filepath.Base(filter))) {
		t.Error("a build in another directory has other bytes")
	}
}

// hardenings make it hard to exploit an error. Debian's filters have most of
// them, though not all symbols bound at start.
var hardenings = []struct {
	name  string
	holds func(elf string) bool
}{
	{"no executable stack", has(`GNU_STACK .* RW +0x`)},
	{"no memory that is both written and executed", lacks(`LOAD .* RWE`)},
	{"no relocations in code", lacks(`TEXTREL`)},
	{"no search path for libraries", lacks(`\((RPATH|RUNPATH)\)`)},
	{"relocations that are read-only once done", has(`GNU_RELRO `)},
	{"all symbols bound at start", has(`Flags: .*\bNOW\b`)},
	{"a guarded stack", has(`UND __stack_chk_fail`)},
	{"functions of libc that check sizes", has(`UND __[a-z]+_chk\b`)},
}

func has(pattern string) func(string) bool { return regexp.MustCompile(pattern).MatchString }

func lacks(pattern string) func(string) bool {
	found := has(pattern)
	return func(elf string) bool { return !found(elf) }
}

func TestFilterIsAsHardAsTheDistributions(t *testing.T) {
	t.Parallel()
	elf := func(path string) string { return run(t, "", "readelf", "-W", "-l", "-d", "--dyn-syms", path) }
	directory := regexp.MustCompile(`(?m)^filterdir=(.*)$`).FindStringSubmatch(run(t, "", "nbdkit", "--dump-config"))[1]
	ours, theirs := elf(filter), elf(filepath.Join(directory, "nbdkit-xz-filter.so"))
	for _, h := range hardenings {
		if !h.holds(ours) {
			t.Errorf("the filter lacks %s, nbdkit's xz filter has that: %v", h.name, h.holds(theirs))
		}
	}
	// Go's initialiser is called by a pointer, which is better not overwritten.
	if relro := ours[strings.LastIndex(ours, ".init_array .fini_array"):]; !has(`^[^\n]* \.go_init .*\.got`)(relro) {
		t.Error("the pointer to Go's initialiser is not read-only")
	}
}
