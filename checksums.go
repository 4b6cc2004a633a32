// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Notes on checksum files
//
// Publishers ship digests in a file beside the images. These lines are
// understood, and one file may have several kinds of them:
//
//	HEX  NAME           coreutils, b3sum, blksum
//	HEX *NAME           the same in binary mode; one blank or a tab will do
//	\HEX  NAME          NAME has \\, \n and \r for a backslash, LF and CR
//	ALG (NAME) = HEX    BSD, sha256sum --tag, this filter; a \ as above
//	ALG(NAME)= HEX      openssl dgst
//	HEX                 a digest and nothing else
//	ALG:HEX             as in digest-expect; a name may follow
//	# ALG HASH          Gentoo: names the algorithm of the lines below it
//
// Other lines are not an error, as they are none for sha256sum --check: there
// are files with a preface, and files that signify(1) has signed. A line that
// was meant to be a digest but is none is kept, and becomes an error if it is
// the one that is asked for.
//
// Of a file that PGP has signed in clear text only the signed text counts.
// The signature is not verified, but a user who has done so with gpg must not
// get a digest from outside of it. A message that is not in clear text may have a
// good signature, too, and gpg does not mind what is beside it.

// A checksum is a line with a digest, which is not checked yet.
type checksum struct {
	line   int    // counted from 1
	tag    string // the algorithm in the publisher's words, or ""
	name   string // "" in a line that applies to any file
	digest string
}

var (
	taggedLine  = regexp.MustCompile(`^([^ ()]+) ?\((.*)\) ?= ?(\S+)$`)
	plainLine   = regexp.MustCompile(`^([0-9A-Za-z+/]+=*)(?: [ *]|[ \t]+)(.+)$`)
	namedLine   = regexp.MustCompile(`^([0-9A-Za-z/-]+):([0-9A-Fa-f]{16,})(?:(?: [ *]|[ \t]+)(.+))?$`)
	bareLine    = regexp.MustCompile(`^[0-9A-Fa-f]{16,}$`)
	commentLine = regexp.MustCompile(`^# ?(\S+) HASH$`)
)

const byteOrderMark = "\ufeff"

// parseChecksums returns the digests of a file, at least one.
func parseChecksums(text string) ([]checksum, error) {
	if strings.ContainsRune(text, 0) || text != "" && text[0] >= utf8.RuneSelf && !utf8.ValidString(text) {
		return nil, errors.New("the file is binary or UTF-16: give the digests as text in UTF-8")
	}
	lines, err := signedLines(strings.Split(text, "\n"))
	if err != nil {
		return nil, err
	}
	// Only now: for gpg, too, no armor begins behind a byte order mark.
	lines[0] = strings.TrimPrefix(lines[0], byteOrderMark)
	var sums []checksum
	var odd error // the first line that is not understood
	tag := ""
	for i, line := range lines {
		line = strings.Trim(line, " \t\r")
		if m := commentLine.FindStringSubmatch(line); m != nil {
			tag = m[1]
		}
		if line == "" || line[0] == '#' {
			continue
		}
		sum, ok := parseChecksum(line)
		if !ok {
			if odd == nil && strings.ContainsRune("{[", rune(line[0])) {
				odd = errors.New("the file seems to be JSON: give the digest that is in it as ALG:HEX")
			} else if odd == nil {
				odd = fmt.Errorf("line %d, %s, is not a checksum: use lines of the form HEX  NAME, ALG (NAME) = HEX or HEX", i+1, excerpt(line))
			}
			continue
		}
		if sum.tag == "" {
			sum.tag = tag
		}
		sum.line = i + 1
		sums = append(sums, sum)
	}
	switch {
	case sums != nil:
		return sums, nil
	case odd != nil:
		return nil, odd
	}
	return nil, errors.New("the file has no checksum in it")
}

// parseChecksum takes a line apart.
func parseChecksum(line string) (sum checksum, ok bool) {
	escaped := line[0] == '\\'
	if escaped {
		line = line[1:]
	}
	if m := taggedLine.FindStringSubmatch(line); m != nil {
		sum = checksum{tag: m[1], name: m[2], digest: m[3]}
	} else if m := plainLine.FindStringSubmatch(line); m != nil && likeDigest(m[1]) {
		sum = checksum{name: m[2], digest: m[1]}
	} else if m := namedLine.FindStringSubmatch(line); m != nil {
		sum = checksum{tag: m[1], digest: m[2], name: m[3]}
	} else if bareLine.MatchString(line) && !escaped {
		return checksum{digest: line}, true
	} else {
		return checksum{}, false
	}
	if escaped {
		sum.name = unescapeName.Replace(sum.name)
	}
	if sum.name == "-" || strings.HasSuffix(line, " *stdin") || strings.Contains(line, "(stdin)= ") {
		sum.name = "" // standard input, whatever that was; the latter two are openssl's
	}
	return sum, true
}

// likeDigest tells a digest, be it a wrong one, from the first word of a
// sentence.
func likeDigest(s string) bool {
	return bareLine.MatchString(s) || len(s) >= 32
}

// unescapeName undoes escapeName.
var unescapeName = strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\r`, "\r")

// signedLines blanks the lines that a PGP signature does not cover: RFC 9580,
// section 7. Without one it returns lines as they are. It is strict, so that it and
// gpg never take other lines for the signed ones: gpg ends the text at any line that
// begins with five dashes.
func signedLines(lines []string) ([]string, error) {
	isArmor := func(line, kind string) bool {
		return strings.TrimRight(line, " \t\r") == "-----BEGIN PGP "+kind+"-----"
	}
	if strings.HasPrefix(lines[0], byteOrderMark+"-----BEGIN PGP ") {
		return nil, errors.New("the file begins with a byte order mark, so that gpg does not see what is signed: take the mark away")
	}
	begin := slices.IndexFunc(lines, func(line string) bool {
		return strings.HasPrefix(strings.TrimSpace(line), "-----BEGIN PGP ")
	})
	if begin == -1 {
		return lines, nil
	}
	switch {
	case isArmor(lines[begin], "SIGNED MESSAGE"):
	case isArmor(lines[begin], "SIGNATURE"):
		return nil, fmt.Errorf("line %d begins a signature that has its text in another file: give that one", begin+1)
	default:
		return nil, fmt.Errorf("line %d, %s, begins what PGP has not signed in clear text: give the text that gpg --decrypt prints",
			begin+1, excerpt(strings.TrimSpace(lines[begin])))
	}
	signed := make([]string, len(lines))
	header := true // until an empty line
	for i := begin + 1; i < len(lines); i++ {
		line := lines[i]
		switch {
		case isArmor(line, "SIGNATURE"):
			return signed, nil
		case strings.HasPrefix(line, "-") && !strings.HasPrefix(line, "- "):
			return nil, fmt.Errorf("line %d, %s, begins with a dash, as no line of a signed text does", i+1, excerpt(line))
		case header:
			header = strings.TrimSpace(line) != ""
		default:
			signed[i] = strings.TrimPrefix(line, "- ")
		}
	}
	return nil, fmt.Errorf("line %d begins a signed text that has no end: the file is cut off", begin+1)
}

// sumsFor chooses the lines for a name. One that is the very same path goes
// before one that has more or fewer directories in front of it.
func sumsFor(sums []checksum, name string) ([]checksum, error) {
	var names []string // of the file
	seen := make(map[string]bool)
	var same, alike []checksum
	for _, sum := range sums {
		clean := path.Clean(sum.name)
		if sum.name != "" && !seen[clean] {
			names = append(names, sum.name)
			seen[clean] = true
		}
		switch {
		case sum.name == "" || name == "" || clean == path.Clean(name):
			same = append(same, sum)
		case sameFile(sum.name, name):
			alike = append(alike, sum)
		}
	}
	switch {
	case name == "" && len(names) > 1:
		return nil, fmt.Errorf("the file has digests of %s: say with digest-name which is the image's", some(names))
	case len(same) > 0:
		return same, nil
	case len(alike) > 0:
		return alike, nil
	}
	if len(names) == 1 {
		return nil, fmt.Errorf("the file has no digest of %q, only of %s: leave digest-name out if that is the image", name, some(names))
	}
	return nil, fmt.Errorf("the file has no digest of %q, only of %s: say with digest-name which is the image's", name, some(names))
}

// sameFile tells whether one path is the end of the other.
func sameFile(a, b string) bool {
	a, b = path.Clean("/"+a), path.Clean("/"+b)
	return strings.HasSuffix(a, b) || strings.HasSuffix(b, a)
}

// some lists the first of many names.
func some(names []string) string {
	const most = 3
	var list []string
	for _, name := range names[:min(most, len(names))] {
		list = append(list, quote(name, 160))
	}
	if n := len(names) - most; n > 0 {
		list = append(list, fmt.Sprintf("%d more", n))
	}
	return strings.Join(list, ", ")
}

// excerpt quotes the beginning of a line, for an error.
func excerpt(line string) string { return quote(line, 40) }

// quote quotes a text, or so many bytes of its beginning.
func quote(text string, most int) string {
	if len(text) <= most {
		return strconv.Quote(text)
	}
	return strconv.Quote(strings.ToValidUTF8(text[:most], "")) + "..."
}
