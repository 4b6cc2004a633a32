// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// checkWritable tells why the sidecar cannot be written, as far as that can be
// known without a change to anything. What is found before nbdkit forks reaches
// whoever started it; later, a daemon has ended with status 0, and with --run
// the command has been started.
func checkWritable(path string) error {
	if n := descriptor(path); n != -1 {
		return checkOpen(n) // whoever owns it
	}
	special, err := isSpecial(path)
	if err != nil {
		return fmt.Errorf("it cannot be used: %w", errors.Unwrap(err))
	}
	writable := unix.Access(path, unix.W_OK)
	if special {
		if writable != nil {
			return fmt.Errorf("it cannot be written: %w: name another file", writable)
		}
		return nil
	}
	dir := unix.Access(filepath.Dir(path), unix.W_OK)
	old, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && dir == nil:
		if isAppendOnly(filepath.Dir(path) + "/") {
			return errors.New("its directory is append-only, so that no file can be renamed in it: name another file")
		}
		return nil
	case err == nil && dir == nil && isRemovable(path):
		return nil
	case err == nil && writable == nil && old.Mode().IsRegular() && !isAppendOnly(path):
		return nil // in place
	case err == nil && dir != nil && old.Mode().Type() == fs.ModeSymlink:
		return errors.New("a symbolic link is not followed, and its directory cannot be written: name another file")
	case dir != nil:
		return errors.New("neither the file nor its directory can be written: name another file")
	}
	return errors.New("the file can be neither removed nor written, as it is another user's, a mount point, immutable or append-only: name another file")
}

// isRemovable tells whether a file may be taken out of a directory that can be
// written to.
func isRemovable(path string) bool {
	var file, dir unix.Statx_t
	if statx(path, &file) != nil || statx(filepath.Dir(path)+"/", &dir) != nil {
		return true // that is for remove to find out
	}
	const fixed = unix.STATX_ATTR_IMMUTABLE | unix.STATX_ATTR_APPEND
	if file.Attributes&(fixed|unix.STATX_ATTR_MOUNT_ROOT) != 0 || dir.Attributes&unix.STATX_ATTR_APPEND != 0 {
		return false
	}
	user := uint32(os.Geteuid())
	return dir.Mode&unix.S_ISVTX == 0 || user == 0 || user == file.Uid || user == dir.Uid
}

func isAppendOnly(path string) bool {
	var st unix.Statx_t
	return statx(path, &st) == nil && st.Attributes&unix.STATX_ATTR_APPEND != 0
}

func statx(path string, st *unix.Statx_t) error {
	return unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, st)
}
