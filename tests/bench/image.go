// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// A size is a number of bytes, given on the command line as nbdkit takes them.
type size int64

func (s *size) String() string { return fmt.Sprintf("%gM", float64(*s)/(1<<20)) }

func (s *size) Set(text string) error {
	unit := int64(1)
	if i := len(text) - 1; i > 0 {
		if shift := strings.IndexByte("KMG", text[i]&^0x20); shift >= 0 {
			text, unit = text[:i], 1<<(10*(shift+1))
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 || n > (1<<50)/unit {
		return fmt.Errorf("should be a number above 0, with K, M or G or without")
	}
	*s = size(n * unit)
	return nil
}

// workspace makes a directory for the image, a copy of it and what is imported:
// in RAM, where no disk's speed gets into the numbers, if there is room.
func workspace(image size) (string, error) {
	parent := "/dev/shm"
	var fs syscall.Statfs_t
	if err := syscall.Statfs(parent, &fs); err != nil ||
		int64(fs.Bavail)*fs.Bsize < 4*int64(image)+64<<20 {
		fmt.Fprintf(os.Stderr, "bench: warning: too little room in %s: "+
			"the numbers will depend on the disk under %s\n", parent, os.TempDir())
		parent = ""
	}
	return os.MkdirTemp(parent, "digest-bench.")
}

// prepareImage makes the image and a file for copies of it, and asks the reference
// tools about it, once.
func (b *bench) prepareImage() error {
	if b.want != nil {
		return nil
	}
	b.image = filepath.Join(b.dir, "disk.img")
	if err := writeRandom(b.image, int64(b.size)); err != nil {
		return err
	}
	b.destination = filepath.Join(b.dir, "copy.img")
	// All of it is overwritten, so its bytes must be others.
	if _, err := b.command("sh", "-c", `tr '\000-\177\200-\377' '\200-\377\000-\177' < "$0" > "$1"`, b.image, b.destination); err != nil {
		return err
	}
	want := make(map[string]string)
	for algorithm, tool := range references {
		done, err := b.command(append(tool[:len(tool):len(tool)], b.image)...)
		if err != nil {
			return err
		}
		want[algorithm], _, _ = strings.Cut(strings.TrimSpace(done.stdout), " ")
	}
	b.want = want
	return nil
}

// writeRandom fills a file with bytes that are random and yet always the same.
func writeRandom(path string, n int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	random := rand.NewChaCha8([32]byte([]byte("a disk that does not compress...")))
	if _, err := io.CopyBuffer(f, io.LimitReader(random, n), make([]byte, 1<<20)); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
