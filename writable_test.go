// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// In a directory that is append-only a file can be made, but not renamed.
func TestAppendOnlyDirectoryIsNotWritable(t *testing.T) {
	dir := t.TempDir()
	old := filepath.Join(dir, "old")
	if err := os.WriteFile(old, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("chattr", "+a", dir).CombinedOutput(); err != nil {
		t.Skipf("directories cannot be made append-only here: %v %s", err, out)
	}
	defer exec.Command("chattr", "-a", dir).Run()
	if err := checkWritable(filepath.Join(dir, "new")); err == nil || !strings.Contains(err.Error(), "append-only") {
		t.Errorf("a new file: %v", err)
	}
	if err := checkWritable(old); err != nil { // in place
		t.Error(err)
	}
}
