// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"nbdkit-digest-filter/nbdkit"
)

// Notes on what digest-file may replace
//
// An earlier result is removed when nbdkit starts. A name that was mistyped must not
// cost an image, so only what begins as a result does is removed: one of any format, or
// of the checksum tools. One that was written in place may have been cut off anywhere,
// and be empty. A text of less than 4 KiB is taken for the result of some other tool:
// no image is that but a VMDK's descriptor. What a parameter of a layer below names is
// never removed: it may be the image, and an image may look like anything.

// resultStart is how much of a file is looked at. A name may be longer.
const resultStart = 4 << 10 // bytes

// jsonStart is how every result in JSON begins.
const jsonStart = "{\n  \"version\": 1,\n  \"filter\": \"digest "

var (
	// begunLine is a line of text up to the name: a tag, or a digest.
	begunLine = regexp.MustCompile(`^(?:(?:# |\\?)([A-Z0-9-]+) \(|\\?[0-9a-f]{32,128} [ *])`)
	// cutLine ends before the name.
	cutLine = regexp.MustCompile(`^(?:#|(?:# |\\?)(?:[A-Z0-9-]{1,24} ?)?|\\?[0-9a-f]{1,128} ?)$`)
	// hexDigest is at least an MD5.
	hexDigest = regexp.MustCompile(`^[0-9A-Fa-f]{32,128}$`)
)

// isResult tells whether a file that begins so is a result.
func isResult(head []byte) bool {
	text := string(head)
	if strings.HasPrefix(text, jsonStart) || strings.HasPrefix(jsonStart, text) {
		return true
	}
	line, _, whole := strings.Cut(text, "\n")
	if m := begunLine.FindStringSubmatch(line); m != nil {
		return m[1] == "" || isTag(m[1])
	}
	if line = strings.TrimRight(line, "\r"); line == "" {
		return false
	}
	if sum, ok := parseChecksum(line); ok && hexDigest.MatchString(sum.digest) {
		return true
	}
	return !whole && cutLine.MatchString(line)
}

// isShortText tells whether a file that begins so is a text and goes on no further,
// and is no script and no descriptor of a VMDK.
func isShortText(head []byte) bool {
	return len(head) < resultStart && utf8.Valid(head) &&
		!bytes.HasPrefix(head, []byte("#!")) &&
		!bytes.Contains(lowerASCII(head), []byte("createtype")) &&
		!bytes.ContainsFunc(head, func(r rune) bool { return unicode.IsControl(r) && !unicode.IsSpace(r) })
}

// isTag tells whether a tag is that of a digest.
func isTag(tag string) bool {
	_, err := parseAlgorithm(strings.ReplaceAll(tag, "-", "/"))
	return err == nil
}

// spareFile refuses a digest-file that is no earlier result, or that is needed.
func (c *config) spareFile(params, others []nbdkit.Param, directory string) error {
	if descriptor(c.file) != -1 {
		return nil // it is not removed
	}
	info, err := os.Stat(c.file)
	for _, p := range others {
		// What is not there yet may be about to be made.
		path := absolute(p.Value, directory)
		if err != nil && path == c.file || err == nil && hasContent(info) && isAt(info, path) {
			return fmt.Errorf("this is the file of %s=%s, and would be replaced: name another file", p.Key, printable(p.Value))
		}
	}
	if err != nil {
		return nil // there is nothing to lose
	}
	for _, p := range params {
		if p.Key == "digest-expect" && isAt(info, pathOfChecksums(p.Value, directory)) {
			return fmt.Errorf("this is the checksum file of digest-expect=%s, and would be replaced: name another file", printable(p.Value))
		}
	}
	head, err := foreignHead(c.file)
	switch {
	case err != nil:
		return fmt.Errorf("it cannot be told whether the file is an earlier result: %w: name another file, or remove this one", err)
	case head != nil:
		return fmt.Errorf("the file is no earlier result, but begins with %q: name another file, or remove this one", head)
	}
	return nil
}

// errForeign tells whether somebody has made another file where the result is to be,
// such as the copy of the image itself, since nbdkit was started.
func errForeign(path string) error {
	head, err := foreignHead(path)
	if err != nil || head == nil {
		return nil
	}
	return fmt.Errorf("there is another file now, which is kept and begins with %q: name another digest-file", head)
}

// foreignHead returns how a file begins that is not to be replaced, or nil. It does not
// look at what a link leads to: the link is replaced.
func foreignHead(path string) ([]byte, error) {
	if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() {
		return nil, nil
	}
	head, err := startOf(path)
	if err != nil || isResult(head) || isShortText(head) {
		return nil, err
	}
	line, _, _ := bytes.Cut(head, []byte("\n"))
	return line[:min(len(line), 32)], nil
}

// hasContent tells what can be an image from a pipe or /dev/null, which lose nothing.
func hasContent(info fs.FileInfo) bool {
	return info.Mode().IsRegular() || info.Mode().Type() == fs.ModeDevice
}

// isAt tells whether a path leads to a file.
func isAt(info fs.FileInfo, path string) bool {
	other, err := os.Stat(path)
	return err == nil && os.SameFile(info, other)
}

// startOf reads the beginning of a regular file.
func startOf(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	defer f.Close()
	head, err := io.ReadAll(io.LimitReader(f, resultStart))
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	return head, nil
}
