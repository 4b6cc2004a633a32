// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// Which names are those of open files.

// However a standard stream is written, a result for it must not be lost.
func TestStandardStreamHasManyNames(t *testing.T) {
	dir := t.TempDir()
	link := func(name, target string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	toStdout := link("stdout", "/dev/stdout")
	for path, want := range map[string]int{
		"":                       2,
		"/dev/stdout":            1,
		"/dev//stdout":           1,
		"/dev/../dev/stdout":     1,
		"/dev/fd/1":              1,
		"/proc/self/fd/1":        1,
		"/proc/thread-self/fd/1": 1,
		fmt.Sprintf("/proc/%d/fd/1", os.Getpid()): 1,
		"/dev/stderr":                     2,
		"/dev/fd//2":                      2,
		toStdout:                          1,
		link("again", "stdout"):           1,
		link("stderr", "/proc/self/fd/2"): 2,
		link("fd", "/dev/fd") + "/2":      2,

		"/dev/null":                   -1,
		"/dev/fd/11":                  -1,
		"/proc/1/fd/1":                -1,
		file:                          -1,
		link("1", "file"):             -1,
		link("loop", "loop"):          -1,
		link("nowhere", "/nowhere/1"): -1,
		link("null", "/dev/null"):     -1,
	} {
		if got := standardStream(path); got != want {
			t.Errorf("%q stands for %d, want %d", path, got, want)
		}
	}
}

// An open file is written as it is open, if the name says that it is one.
func TestDescriptorsHaveNames(t *testing.T) {
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/dev/fd/9", link); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{
		"": 2, "/dev/stdout": 1, "/dev/fd/9": 9, "/proc/self/fd/9": 9, fmt.Sprintf("/proc/%d/fd/12", os.Getpid()): 12,
		"/dev/fd/x": -1, "/proc/1/fd/9": -1, link: -1, "/dev/null": -1,
	} {
		if got := descriptor(path); got != want {
			t.Errorf("%q stands for %d, want %d", path, got, want)
		}
	}
}
