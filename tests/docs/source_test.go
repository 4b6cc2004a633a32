// SPDX-License-Identifier: BSD-3-Clause

package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Blocks of the project's own source, in CONTRIBUTING, must be in it.
func TestQuotedSourceIsInTheSource(t *testing.T) {
	files, err := filepath.Glob("../../*.go")
	if err != nil {
		t.Fatal(err)
	}
	var source strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		source.Write(text)
	}
	for _, b := range blocksOf(t, "CONTRIBUTING.md") {
		if b.kind == "go" && !strings.Contains(source.String(), b.text+"\n") {
			t.Errorf("%v: no file has\n%s", b, b.text)
		}
	}
}

// aFile is the name of a file or directory of the project between backquotes,
// or a link to one.
var aFile = regexp.MustCompile("`([\\w./*-]+\\.(?:go|c|md|json|yaml|pod)|(?:tests|docs|deploy|nbdkit|testdata)/[\\w.*-]*)`|\\]\\(([\\w./-]+)\\)")

func TestFilesThatDocumentsNameAreThere(t *testing.T) {
	for _, file := range documents(t) {
		text, err := os.ReadFile("../../" + file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range aFile.FindAllStringSubmatch(string(text), -1) {
			// A link is relative to the document.
			name := m[1]
			if name == "" {
				name = filepath.Join(filepath.Dir(file), m[2])
			}
			if strings.HasPrefix(name, "/") || strings.HasPrefix(name, ".digest") {
				continue
			}
			if found, err := filepath.Glob("../../" + name); err != nil || len(found) == 0 {
				t.Errorf("%s names %s, which is not there", file, name)
			}
		}
	}
}
