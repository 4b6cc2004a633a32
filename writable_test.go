// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// In a directory that is append-only a file can be made, but not renamed.
func TestAppendOnlyDirectoryIsNotWritable(t *testing.T) {
	dir := t.TempDir()
	old := filepath.Join(dir, "old")
	if err := os.WriteFile(old, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := attribute(t, dir, "a"); err != nil {
		t.Skip(err)
	}
	if err := checkWritable(filepath.Join(dir, "new")); err == nil || !strings.Contains(err.Error(), "append-only") {
		t.Errorf("a new file: %v", err)
	}
	if err := checkWritable(old); err != nil { // in place
		t.Error(err)
	}
}

// Whatever the file and its directory are, and whoever nbdkit is: checkWritable says that
// a result can be written if, and only if, it can.
func TestWritableIsWhatCanBeWritten(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can have files of others")
	}
	const other, nobody = 12345, 65534
	all := t.TempDir()
	if err := os.Chmod(filepath.Dir(all), 0o755); err != nil { // for a user who is not root
		t.Fatal(err)
	}
	for _, user := range []int{0, nobody} {
		for dirKind, makeDir := range map[string]func(dir string) error{
			"own":         func(dir string) error { return owned(dir, user, 0o755) },
			"other's":     func(dir string) error { return owned(dir, other, 0o755) },
			"open":        func(dir string) error { return owned(dir, other, 0o777) },
			"sticky":      func(dir string) error { return owned(dir, other, 0o777|os.ModeSticky) },
			"own, sticky": func(dir string) error { return owned(dir, user, 0o777|os.ModeSticky) },
			"not entered": func(dir string) error { return owned(dir, other, 0o772) },
			"sticky, behind a link": func(dir string) error {
				return errors.Join(os.Rename(dir, dir+"2"), os.Symlink(dir+"2", dir), owned(dir, other, 0o777|os.ModeSticky))
			},
			"append-only": func(dir string) error { return errors.Join(owned(dir, other, 0o777), attribute(t, dir, "a")) },
		} {
			for fileKind, makeFile := range map[string]func(path string) error{
				"none":               func(string) error { return nil },
				"own":                func(path string) error { return ownedResult(path, user, 0o644) },
				"own, read-only":     func(path string) error { return ownedResult(path, user, 0o444) },
				"other's":            func(path string) error { return ownedResult(path, other, 0o644) },
				"other's, open":      func(path string) error { return ownedResult(path, other, 0o666) },
				"immutable":          func(path string) error { return errors.Join(ownedResult(path, user, 0o644), attribute(t, path, "i")) },
				"append-only":        func(path string) error { return errors.Join(ownedResult(path, user, 0o644), attribute(t, path, "a")) },
				"mount point":        func(path string) error { return errors.Join(ownedResult(path, user, 0o644), mountedOnItself(t, path)) },
				"other's mountpoint": func(path string) error { return errors.Join(ownedResult(path, other, 0o644), mountedOnItself(t, path)) },
				"own link":           func(path string) error { return errors.Join(os.Symlink("nowhere", path), os.Lchown(path, user, user)) },
				"other's link": func(path string) error {
					return errors.Join(os.Symlink("nowhere", path), os.Lchown(path, other, other))
				},
				"link to a file": func(path string) error {
					return errors.Join(ownedResult(path+"2", user, 0o644), os.Symlink(path+"2", path))
				},
			} {
				dir := filepath.Join(all, strings.Join([]string{strconv.Itoa(user), dirKind, fileKind}, "-"))
				path := filepath.Join(dir, "disk.sum")
				if err := errors.Join(os.Mkdir(dir, 0o755), makeFile(path), makeDir(dir)); errors.Is(err, errors.ErrUnsupported) {
					t.Log(err)
					continue
				} else if err != nil {
					t.Fatal(err)
				}
				asUser(t, user, func() {
					told := checkWritable(path)
					s := newSidecar(path, formatText, -1)
					found := errors.Join(s.prepare(), s.finish(someResults("a")))
					if (told == nil) != (found == nil) {
						t.Errorf("user %d, directory %s, file %s: told %v, found %v", user, dirKind, fileKind, told, found)
					}
				})
			}
		}
	}
}

// owned gives a file to a user.
func owned(path string, user int, mode os.FileMode) error {
	return errors.Join(os.Chown(path, user, user), os.Chmod(path, mode))
}

// ownedResult makes a file that an earlier run may have left.
func ownedResult(path string, user int, mode os.FileMode) error {
	return errors.Join(os.WriteFile(path, []byte("SHA256 (-) = "+emptySHA256+"\n"), mode), owned(path, user, mode))
}

// attribute gives a file an attribute for the time of the test. Not all file systems have
// them.
func attribute(t *testing.T, path, a string) error {
	if out, err := exec.Command("chattr", "+"+a, path).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: chattr +%s: %v %s", errors.ErrUnsupported, a, err, out)
	}
	t.Cleanup(func() { exec.Command("chattr", "-"+a, path).Run() })
	return nil
}

// mountedOnItself makes a file a mount point for the time of the test. Not all containers
// may.
func mountedOnItself(t *testing.T, path string) error {
	if err := unix.Mount(path, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("%w: mount: %v", errors.ErrUnsupported, err)
	}
	t.Cleanup(func() { unix.Unmount(path, unix.MNT_DETACH) })
	return nil
}

// asUser calls f on a thread that is that user.
func asUser(t *testing.T, user int, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	become := func(user, saved int) {
		// For this thread only, unlike unix.Setresuid.
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(user), uintptr(user), uintptr(saved)); errno != 0 {
			t.Fatal(errno)
		}
	}
	become(user, 0)
	defer become(0, 0)
	f()
}
