// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"nbdkit-digest-filter/nbdkit"
)

// Notes on how the sidecar is written
//
// A file that exists is whole, and of this run: a stale one is removed at
// start, and a new one is made beside it, synced, and renamed. What cannot
// be replaced (a FIFO, /dev/stdout, a file that is a mount point, a file in a
// directory that is not ours to write) is opened and written in place.
//
// A symbolic link is replaced, not followed: whoever may write to the directory
// could make it lead to any file of nbdkit's user. One to a device, a FIFO, or
// standard output or error is written in place: there is nothing to overwrite.
//
// What somebody has open already, such as a log, is written where it is, and keeps
// what it has.

// sidecar is where results go.
type sidecar struct {
	path   string // "" is stderr
	format format

	fd int // an open file, such as standard output, or -1

	mu      sync.Mutex
	inPlace bool
	stream  bool   // can be written once only
	content []byte // what the file has
	stale   bool   // it may have what does not hold any more
}

func newSidecar(path string, format format, stdout int) *sidecar {
	s := &sidecar{path: path, format: format, fd: descriptor(path)}
	if s.fd == 1 {
		s.fd = stdout
	}
	return s
}

// prepare removes what an earlier run left.
func (s *sidecar) prepare() error {
	if s.fd != -1 {
		s.stream = true
		return nil
	}
	special, err := isSpecial(s.path)
	switch {
	case err != nil:
		return fmt.Errorf("digest-file=%s: %w", s.path, err)
	case special:
		s.inPlace, s.stream = true, true
		return nil
	}
	if err := settlePoller(); err != nil {
		return fmt.Errorf("digest-file=%s: %w", s.path, err)
	}
	return s.remove()
}

// settlePoller has Go open now what it needs to open files. It would end the process
// if there were too many open files when it writes the first result.
func settlePoller() error {
	poll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err == nil {
		defer unix.Close(poll)
		var event int
		if event, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err == nil {
			defer unix.Close(event)
		}
	}
	switch {
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return fmt.Errorf("%w: raise the limit on them", err)
	case err != nil:
		return fmt.Errorf("epoll and eventfd are not to be had, which the filter needs: %w", err)
	}
	f, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	return f.Close()
}

// isSpecial tells whether path is something other than a regular file.
func isSpecial(path string) (bool, error) {
	if isAmongDevices(path) {
		return true, nil
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return !info.Mode().IsRegular(), nil
}

// isAmongDevices tells whether path is among the devices or the process's open
// files. What is behind it may be regular, and still must not be replaced. A
// link from elsewhere does not count: /proc has links to every file.
func isAmongDevices(path string) bool {
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	return err == nil && isDevice(dir)
}

// isDevice tells whether a directory holds devices or open files.
func isDevice(dir string) bool {
	return dir == "/dev" || dir == "/proc" || strings.HasPrefix(dir, "/proc/")
}

// remove takes the file away. If that cannot be, it is emptied and from then
// on written in place.
func (s *sidecar) remove() error {
	if !s.inPlace {
		if err := errForeign(s.path); err != nil {
			return fmt.Errorf("digest-file=%s: %w", s.path, err)
		}
		err := os.Remove(s.path)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	switch special, err := isSpecial(s.path); {
	case err != nil:
		return fmt.Errorf("digest-file=%s: %w", s.path, err)
	case special:
		return nil
	}
	if err := writeInPlace(s.path, nil); errors.Is(err, fs.ErrNotExist) {
		return nil // the directory is not to be written to, and has none
	} else if err != nil {
		return fmt.Errorf("digest-file=%s: an earlier result can be neither removed nor emptied: %w", s.path, err)
	}
	s.inPlace = true
	return nil
}

// write makes results the content of the file, if it can be written again
// when there is more to say.
func (s *sidecar) write(results []result) error {
	if s.stream {
		return nil
	}
	return s.finish(results)
}

// noResult stands for nothing in a file: b3sum --check takes an empty one for good.
// Where it is written in place, as to /dev/termination-log, nothing is said instead.
const noResult = "# no client has read or written an image\n"

// finish writes the last word. If it cannot, an earlier one is removed: it does
// not hold any more.
func (s *sidecar) finish(results []result) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	content := s.format(results)
	if len(content) == 0 && !s.stream {
		content = []byte(noResult)
	}
	if s.content != nil && bytes.Equal(content, s.content) {
		return nil
	}
	var err error
	switch {
	case s.fd == 2:
		err = writeAll(s.fd, forTerminal(content))
	case s.fd != -1:
		err = writeAll(s.fd, content)
	case s.inPlace:
		err = writeInPlace(s.path, content)
	default:
		if err = errForeign(s.path); err != nil {
			s.content = nil // nothing of ours is there
			break
		}
		err = replace(s.path, content)
		if cannotReplace(err) && writeInPlace(s.path, content) == nil {
			s.inPlace, err = true, nil
		}
	}
	if err != nil {
		if errors.Is(err, unix.ENXIO) {
			err = errors.New("nobody has opened the FIFO for reading")
		}
		err = fmt.Errorf("digest-file=%s: the result cannot be written: %w", s.path, err)
		if gone := s.takeBack(); gone != nil {
			err = fmt.Errorf("%w; %w", err, gone)
		}
		return err
	}
	s.content, s.stale = content, false
	return nil
}

// forTerminal puts a dot in place of what is not printable: standard error is a
// log or a terminal, and a client may have chosen the name of the export.
func forTerminal(content []byte) []byte {
	return bytes.Map(func(r rune) rune {
		if r != '\n' && !unicode.IsPrint(r) {
			return '.'
		}
		return r
	}, content)
}

// withdraw removes a result that does not hold any more.
func (s *sidecar) withdraw() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.takeBack()
}

// takeBack removes what this run has written, if it has. When that fails, it is
// tried again.
func (s *sidecar) takeBack() error {
	if s.content == nil && !s.stale {
		return nil
	}
	s.content, s.stale = nil, true
	err := s.remove()
	s.stale = err != nil
	return err
}

// replace writes a new file and puts it in the place of path.
func replace(path string, content []byte) (err error) {
	dir, base := filepath.Split(path)
	f, err := createBeside(dir, base)
	if err != nil {
		return err
	}
	name := f.Name()
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(name)
		}
	}()
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := syncFile(f); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(name, path); err != nil {
		return err
	}
	name = path
	return syncDirectory(dir)
}

// createBeside makes a temporary file. Process ids would not do for its name:
// in containers they are all the same, and one that was killed may have left
// such a file.
func createBeside(dir, base string) (f *os.File, err error) {
	for range 100 {
		name := fmt.Sprintf("%s.%s.%08x.tmp", dir, base[:min(len(base), 200)], rand.Uint32())
		f, err = os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o666)
		if !errors.Is(err, fs.ErrExist) {
			break
		}
	}
	return f, err
}

// syncDirectory makes the rename last.
func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer d.Close()
	return syncFile(d)
}

// syncFile makes what is in a file, or a directory, last. Some file systems, and sandboxes,
// cannot.
func syncFile(f *os.File) error {
	err := f.Sync()
	for _, e := range []error{unix.EINVAL, unix.ENOTSUP, unix.ENOSYS} {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}

// cannotReplace tells whether err means that a file must be written in place.
func cannotReplace(err error) bool {
	for _, e := range []error{unix.EBUSY, unix.EACCES, unix.EPERM, unix.EROFS, unix.EXDEV} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// fifoTime is how long a FIFO may have no reader, or one that does not read.
const fifoTime = 5 * time.Second

// writeInPlace writes to something that exists already, but not to a file that
// a link leads to.
func writeInPlace(path string, content []byte) error {
	for start := time.Now(); ; time.Sleep(fifoPause) {
		// O_NONBLOCK, because a FIFO without a reader would block for good.
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY|appended(path), 0)
		if errors.Is(err, unix.ENXIO) && time.Since(start) < fifoTime && !nbdkit.Hurried() {
			continue
		}
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := emptied(fd, path); err != nil {
			return err
		}
		err = writeAll(fd, content)
		if err != nil && appended(path) == 0 {
			_ = unix.Ftruncate(fd, 0) // a half must not be taken for the whole; a FIFO has none
		}
		return err
	}
}

// fifoPause is how often a signal is looked for while a FIFO is waited for.
const fifoPause = 50 * time.Millisecond

// appended returns O_APPEND for an open file of another process: what is in it
// is not the filter's to remove.
func appended(path string) int {
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err == nil && strings.HasPrefix(dir, "/proc/") {
		return unix.O_APPEND
	}
	return 0
}

// emptied empties what was opened, if it is a file that may be written to.
func emptied(fd int, path string) error {
	var opened, named unix.Stat_t
	if err := unix.Fstat(fd, &opened); err != nil {
		return err
	}
	if opened.Mode&unix.S_IFMT != unix.S_IFREG || appended(path) != 0 {
		return nil
	}
	if err := unix.Lstat(path, &named); err != nil {
		return err
	}
	if (named.Dev != opened.Dev || named.Ino != opened.Ino) && !isAmongDevices(path) {
		return fmt.Errorf("a symbolic link is not followed: %w", unix.ELOOP)
	}
	return unix.Ftruncate(fd, 0)
}

// writeAll is for descriptors that Go does not own: os.File would end the
// process when nobody reads stderr. It waits for one that does not block.
func writeAll(fd int, content []byte) error {
	for last := time.Now(); len(content) > 0; {
		n, err := unix.Write(fd, content)
		switch {
		case err == nil:
			last = time.Now()
		case errors.Is(err, unix.EAGAIN):
			if time.Since(last) > fifoTime || nbdkit.Hurried() {
				return errors.New("its reader does not read")
			}
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(fifoPause.Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
				return err
			}
		case !errors.Is(err, unix.EINTR):
			return err
		}
		content = content[max(n, 0):]
	}
	return nil
}
