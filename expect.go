// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"nbdkit-digest-filter/nbdkit"
)

// An expectation is a digest that the image must have.
type expectation struct {
	algorithm algorithm
	sum       []byte
}

func (e expectation) matches(sum []byte) bool { return bytes.Equal(e.sum, sum) }

// parseExpectation reads a value of digest-expect: ALG:HEX, @PATH or
// ALG:@PATH. In a checksum file the lines for name count, or if that is empty,
// those for the only name in it. A relative path starts from directory.
func parseExpectation(value, name, directory string) ([]expectation, error) {
	if file, ok := strings.CutPrefix(value, "@"); ok {
		return expectationsOf(file, algorithm{}, name, directory)
	}
	prefix, digest, ok := strings.Cut(value, ":")
	if !ok {
		if a, ok := algorithmOfLength(len(value)); ok && bareLine.MatchString(value) {
			return nil, fmt.Errorf("the digest's name is missing: use %s:HEX if it is that", a.name)
		}
		return nil, errors.New("use ALG:HEX, or @FILE with a checksum file")
	}
	if strings.HasPrefix(digest, "//") {
		return nil, errURL
	}
	a, err := parseTag(prefix)
	if err != nil {
		return nil, err
	}
	if file, ok := strings.CutPrefix(digest, "@"); ok {
		return expectationsOf(file, a, name, directory)
	}
	sum, err := parseDigest(a, digest)
	if err != nil {
		return nil, err
	}
	return []expectation{{a, sum}}, nil
}

var errURL = errors.New("a URL is not read: use @FILE with a copy of the checksum file")

// parseDigest reads a digest in hexadecimal.
func parseDigest(a algorithm, s string) ([]byte, error) {
	if err := checkHex(s); err != nil {
		return nil, err
	}
	sum, err := hex.DecodeString(s)
	if err != nil || len(sum) != a.size {
		return nil, wrongLength(a, s)
	}
	return sum, nil
}

func wrongLength(a algorithm, s string) error {
	return fmt.Errorf("a %s digest has %d hexadecimal digits, and this one %d", a.name, 2*a.size, len(s))
}

func checkHex(s string) error {
	odd := strings.TrimLeft(s, "0123456789abcdefABCDEF")
	switch {
	case odd == "":
		return nil
	case strings.HasSuffix(odd, "="), strings.ContainsAny(s, "+/"):
		return errors.New("the digest seems to be in base64: write it in hexadecimal")
	}
	return fmt.Errorf("%q in the digest is not a hexadecimal digit", []rune(odd)[0])
}

// algorithmOfLength guesses which digest it is that has so many hexadecimal
// digits. There are others of the same length: BLAKE3 has that of SHA-256,
// BLAKE2b that of SHA-512.
func algorithmOfLength(digits int) (a algorithm, ok bool) {
	for _, name := range []string{"md5", "sha1", "sha224", "sha256", "sha384", "sha512"} {
		if a, err := parseAlgorithm(name); err == nil && 2*a.size == digits {
			return a, true
		}
	}
	return algorithm{}, false
}

// maxChecksums bounds a checksum file. A directory of a large mirror has some
// hundred lines.
const maxChecksums = 1 << 20 // bytes

// readChecksums returns the text of a checksum file.
func readChecksums(file string) (string, error) {
	// Before it is opened: that could have effects on a device.
	info, err := os.Stat(file)
	if err != nil {
		return "", fmt.Errorf("%s cannot be read: %w", printable(file), errors.Unwrap(err))
	}
	pipe := info.Mode().Type() == fs.ModeNamedPipe
	if !info.Mode().IsRegular() && !pipe {
		return "", fmt.Errorf("%s is neither a regular file nor a pipe: give a checksum file", printable(file))
	}
	if in, err := os.Stdin.Stat(); pipe && err == nil && os.SameFile(info, in) && nbdkit.StdinIsClient() {
		return "", errors.New("standard input is the connection to the client: name a file")
	}
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("%s cannot be read: %w", printable(file), errors.Unwrap(err))
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxChecksums+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("%s cannot be read: %w", printable(file), errors.Unwrap(err))
	case len(text) > maxChecksums:
		return "", fmt.Errorf("the file is larger than %s: give a checksum file", formatSize(maxChecksums))
	case len(text) == 0:
		return "", errors.New("the file is empty")
	}
	return string(text), nil
}

// expectationsOf reads a checksum file. With an algorithm it wants digests of
// that one only.
func expectationsOf(file string, want algorithm, name, directory string) ([]expectation, error) {
	if file == "" {
		return nil, errors.New("the name of the checksum file is missing")
	}
	if strings.Contains(file, "://") {
		return nil, errURL
	}
	if file == "-" {
		return nil, errors.New("standard input is @/dev/stdin")
	}
	if strings.HasSuffix(file, "/") {
		return nil, errDirectory
	}
	file = absolute(file, directory)
	text, err := readChecksums(file)
	if err != nil {
		return nil, err
	}
	sums, err := parseChecksums(text)
	if err != nil {
		return nil, err
	}
	if sums, err = sumsFor(sums, name); err != nil {
		return nil, err
	}
	return expect(sums, want, filepath.Base(file))
}

// pathOfChecksums returns the path of the checksum file in a value of
// digest-expect that is in order, or "" if it has none.
func pathOfChecksums(value, directory string) string {
	_, file, ok := strings.Cut(value, "@")
	if !ok {
		return ""
	}
	return absolute(file, directory)
}

// errDirectory is for a path that ends in a slash, which absolute drops.
var errDirectory = errors.New("this names a directory: name a file in it")

func absolute(path, directory string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(directory, path)
}

// An otherDigest is why a line that is in order is of no use.
type otherDigest string

func (why otherDigest) Error() string { return string(why) }

// expect turns lines for one image into expectations. Lines of a digest that
// the filter does not know, or that is not wanted, are left out as long as
// there are others.
func expect(sums []checksum, want algorithm, file string) ([]expectation, error) {
	var list []expectation
	var from []checksum // they are of
	var unusable error
	for _, sum := range sums {
		a, err := sum.algorithm(want, file)
		var digest []byte
		if err == nil {
			digest, err = parseDigest(a, sum.digest)
		}
		if err != nil {
			err = fmt.Errorf("line %d: %w", sum.line, err)
			if !errors.As(err, new(otherDigest)) {
				return nil, err
			}
			unusable = cmp.Or(unusable, err)
			continue
		}
		i := slices.IndexFunc(list, func(e expectation) bool { return e.algorithm.name == a.name })
		switch {
		case i == -1:
			list = append(list, expectation{a, digest})
			from = append(from, sum)
		case !list[i].matches(digest):
			return nil, errDiffer(from[i], sum, a)
		}
	}
	if list == nil {
		return nil, unusable
	}
	return list, nil
}

func errDiffer(first, second checksum, a algorithm) error {
	if path.Clean(first.name) != path.Clean(second.name) && first.name != "" && second.name != "" {
		return fmt.Errorf("lines %d and %d have different %s digests: say with digest-name which is the image's, %s",
			first.line, second.line, a.name, some([]string{first.name, second.name}))
	}
	return fmt.Errorf("lines %d and %d have different %s digests for the image", first.line, second.line, a.name)
}

// algorithm returns which digest a line has. The file's name tells BLAKE3 and
// BLAKE2 from what else is of their length.
func (sum checksum) algorithm(want algorithm, file string) (algorithm, error) {
	wanted := want.name != ""
	if sum.tag != "" {
		a, err := parseTag(sum.tag)
		switch {
		case err != nil:
			return algorithm{}, otherDigest(err.Error())
		case wanted && a.name != want.name:
			return algorithm{}, otherDigest(fmt.Sprintf("this is the %s digest, and no line has the %s one", a.name, want.name))
		}
		return a, nil
	}

	if err := checkHex(sum.digest); err != nil {
		return algorithm{}, err
	}
	file = strings.ToLower(file)
	a, known := algorithmOfLength(len(sum.digest))
	switch {
	case wanted && len(sum.digest) == 2*want.size:
		return want, nil
	case wanted:
		return algorithm{}, otherDigest(wrongLength(want, sum.digest).Error())
	case strings.Contains(file, "b2sum"), strings.Contains(file, "blake2"):
		return algorithm{}, otherDigest("the file's name says that its digests are BLAKE2, which the filter does not compute")
	case !known:
		return algorithm{}, fmt.Errorf("no digest has %d hexadecimal digits", len(sum.digest))
	case a.name == "sha256" && (strings.Contains(file, "b3sum") || strings.Contains(file, "blake3") || strings.HasSuffix(file, ".b3")):
		return parseAlgorithm("blake3")
	}
	return a, nil
}

// parseTag returns the algorithm of a BSD tag. Tools do not agree on them:
// SHA256, SHA-256 and SHA2-256 are the same, and a tag of this filter has a
// dash where the name has a slash.
func parseTag(tag string) (algorithm, error) {
	name := strings.ToLower(tag)
	for _, spelling := range []string{
		strings.ReplaceAll(name, "-", "/"),
		strings.ReplaceAll(name, "-", ""),
		strings.Replace(name, "sha2-", "sha", 1),
	} {
		if a, err := parseAlgorithm(spelling); err == nil {
			return a, nil
		}
	}
	return parseAlgorithm(name)
}
