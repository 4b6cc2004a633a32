// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Which open file of the process a path stands for.

// descriptor returns which open file of nbdkit's path stands for. A link from
// elsewhere stands for a standard stream only.
func descriptor(path string) int {
	if n := standardStream(path); n != -1 {
		return n
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil || !isOwnFiles(dir) {
		return -1
	}
	n, err := strconv.ParseUint(filepath.Base(path), 10, 31)
	if err != nil {
		return -1
	}
	return int(n)
}

// standardStream returns which descriptor path stands for, by itself or as a
// link. nbdkit has closed its standard output by the time when there is
// something to write.
func standardStream(path string) int {
	if path == "" {
		return 2
	}
	for range maxLinks {
		switch path = filepath.Clean(path); path {
		case "/dev/stdout", "/dev/fd/1":
			return 1
		case "/dev/stderr", "/dev/fd/2":
			return 2
		}
		dir, err := filepath.EvalSymlinks(filepath.Dir(path))
		if err != nil {
			return -1
		}
		if isOwnFiles(dir) {
			switch filepath.Base(path) {
			case "1":
				return 1
			case "2":
				return 2
			}
			return -1
		}
		target, err := os.Readlink(path)
		if err != nil {
			return -1
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(dir, target)
		}
		path = target
	}
	return -1
}

// maxLinks is how many links in a row the kernel follows.
const maxLinks = 40

// isOwnFiles tells whether a directory without links holds the open files of
// this process: it has one for each thread, too.
func isOwnFiles(dir string) bool {
	self, err := filepath.EvalSymlinks("/proc/self")
	rest, ok := strings.CutPrefix(dir, self+"/")
	return err == nil && ok && filepath.Base(rest) == "fd" && (rest == "fd" || strings.HasPrefix(rest, "task/"))
}

// checkOpen tells why a descriptor cannot be written to. nbdkit opens the standard
// ones, if whoever started it has closed them.
func checkOpen(fd int) error {
	if fd == 1 || fd == 2 {
		return nil
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return fmt.Errorf("descriptor %d is not open: %w: name another file", fd, err)
	}
	if flags&unix.O_ACCMODE == unix.O_RDONLY {
		return fmt.Errorf("descriptor %d is open for reading only: name another file", fd)
	}
	return nil
}
