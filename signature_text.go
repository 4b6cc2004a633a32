// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Notes on text
//
// What should be a disk image may be a page that says why there is none. It
// is text if the first 4 KiB are: all of them, so that a boot sector with a
// message in it, which has code and zeros around it, is not. A shorter image
// must be text to its last byte.
//
// Pages are also found in an 8-bit character set, and packed by gzip, as some
// servers send them unasked.

const (
	gzipMagic = "\x1f\x8b\x08"
	utf8BOM   = "\xef\xbb\xbf"

	textSize   = 4096     // bytes at the start that must be text
	packedSize = 64 << 10 // bytes of a gzip stream that are looked at
)

// textKind returns the kind of text that the image is, as it stands or packed.
func (v *view) textKind() (kind, bool) {
	if v.has(0, gzipMagic) {
		return v.packedTextKind()
	}
	n := min(int64(len(v.prefix)), textSize)
	v.looked += n
	k, ok := textKindOf(v.prefix[:n], v.size > n)
	if ok || v.size == n || v.size > int64(len(v.prefix)) || !isZero(v.prefix[n:]) {
		return k, ok
	}
	// A page that is padded to more than that.
	v.looked += v.size - n
	k, ok = textKindOf(v.prefix[:n], false)
	return k, ok && k != textKind
}

// textKindOf looks at the start of data, or at all of it if it has no more. Zeros may
// be behind it then: a copy of a page is padded to whole sectors, as by qemu-img.
func textKindOf(start []byte, more bool) (kind, bool) {
	k, ok := exactKindOf(start, more)
	text := bytes.TrimRight(start, "\x00")
	if ok || more || len(text) == 0 || len(text) == len(start) {
		return k, ok
	}
	if k, ok = exactKindOf(text, false); ok {
		return k, true
	}
	return exactKindOf(start[:len(text)+1], false) // the last byte of UTF-16
}

// exactKindOf is textKindOf for what is not padded.
func exactKindOf(start []byte, more bool) (kind, bool) {
	s, ok := decodeText(start, more)
	if ok {
		return markup(s), true
	}
	// Latin-1, Shift-JIS and others: every byte may be a character, so that
	// only what starts like a page counts. A server may put a BOM of UTF-8 in
	// front of any of them.
	if eightBit := strings.TrimPrefix(string(start), utf8BOM); !hasControls(eightBit) {
		if k := markup(eightBit); k != textKind {
			return k, true
		}
	}
	return utf16Kind(start, more)
}

// utf16Kind is for pages in UTF-16 without a byte order mark, of which only the
// beginning need be ASCII.
func utf16Kind(start []byte, more bool) (kind, bool) {
	for zeroAt, order := range []binary.ByteOrder{binary.BigEndian, binary.LittleEndian} {
		if len(start) < 4 || !looksUTF16(start[:4], zeroAt) {
			continue
		}
		if s := decodeUTF16(start, order, more); utf8.ValidString(s) && !hasControls(s) {
			k := markup(s)
			return k, k != textKind
		}
	}
	return kind{}, false
}

// isGzip is a gzip stream of anything but a page.
func isGzip(v *view, _ int64) bool {
	_, ok := v.packedTextKind()
	return !ok
}

// packedTextKind tells whether a gzip stream holds a page, and of which kind.
// Plain text does not count: a log or a script may be packed on purpose.
func (v *view) packedTextKind() (kind, bool) {
	n := min(int64(len(v.prefix)), packedSize)
	v.looked += n + textSize
	body := gzipBody(v.prefix[:n])
	if body == nil {
		return kind{}, false
	}
	start := make([]byte, textSize)
	got, err := io.ReadFull(flate.NewReader(bytes.NewReader(body)), start)
	if err != nil && (got == 0 || err != io.ErrUnexpectedEOF) {
		return kind{}, false
	}
	k, ok := textKindOf(start[:got], err == nil)
	return k, ok && k != textKind
}

// gzipBody returns what follows the header of RFC 1952, section 2.3.
func gzipBody(p []byte) []byte {
	const crc, extra, name, comment = 1 << 1, 1 << 2, 1 << 3, 1 << 4
	if len(p) < 10 {
		return nil
	}
	flags, p := p[3], p[10:]
	if flags&extra != 0 {
		if len(p) < 2 || len(p)-2 < int(binary.LittleEndian.Uint16(p)) {
			return nil
		}
		p = p[2+int(binary.LittleEndian.Uint16(p)):]
	}
	for _, field := range []byte{name, comment} {
		if flags&field != 0 {
			_, rest, ok := bytes.Cut(p, []byte{0})
			if !ok {
				return nil
			}
			p = rest
		}
	}
	if flags&crc != 0 {
		if len(p) < 2 {
			return nil
		}
		p = p[2:]
	}
	return p
}

// decodeText decodes UTF-8 or UTF-16 and tells whether it is all text. A
// character may be cut off at the end if there is more.
func decodeText(p []byte, more bool) (string, bool) {
	var s string
	switch {
	case bytes.HasPrefix(p, []byte("\xff\xfe")):
		s = decodeUTF16(p[2:], binary.LittleEndian, more)
	case bytes.HasPrefix(p, []byte("\xfe\xff")):
		s = decodeUTF16(p[2:], binary.BigEndian, more)
	case looksUTF16(p, 1):
		s = decodeUTF16(p, binary.LittleEndian, more)
	case looksUTF16(p, 0):
		s = decodeUTF16(p, binary.BigEndian, more)
	default:
		s = string(bytes.TrimPrefix(p, []byte(utf8BOM)))
		if more {
			s = trimPartialRune(s)
		}
	}
	return s, s != "" && utf8.ValidString(s) && !hasControls(s)
}

// decodeUTF16 returns UTF-8, which is not valid if p is not.
func decodeUTF16(p []byte, order binary.ByteOrder, more bool) string {
	const invalid = "\xff"
	if len(p)%2 != 0 && !more {
		return invalid
	}
	units := make([]uint16, 0, len(p)/2)
	for ; len(p) >= 2; p = p[2:] {
		units = append(units, order.Uint16(p))
	}
	if n := len(units); more && n > 0 && units[n-1]>>10 == 0xd800>>10 {
		units = units[:n-1] // the first half of a pair
	}
	runes := utf16.Decode(units)
	if slices.Contains(runes, utf8.RuneError) && !slices.Contains(units, utf8.RuneError) {
		return invalid
	}
	return string(runes)
}

// looksUTF16 tells whether, without a byte order mark, all that is ASCII in
// UTF-16 has its zero bytes at odd or even offsets.
func looksUTF16(p []byte, zeroAt int) bool {
	p = p[:min(len(p), 64)&^1]
	for i, b := range p {
		printable := b >= ' ' && b <= '~' || b >= '\t' && b <= '\r'
		if i%2 == zeroAt && b != 0 || i%2 != zeroAt && !printable {
			return false
		}
	}
	return len(p) >= 4
}

func trimPartialRune(s string) string {
	for i := 1; i < utf8.UTFMax && i <= len(s); i++ {
		if c := s[len(s)-i]; utf8.RuneStart(c) {
			if !utf8.FullRuneInString(s[len(s)-i:]) {
				return s[:len(s)-i]
			}
			break
		}
	}
	return s
}

// hasControls tells whether there are characters that text does not have.
// U+0080 to U+009F are let pass: pages that were encoded twice have them.
func hasControls(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool {
		return (r < ' ' || r == 0x7f) && !strings.ContainsRune("\t\n\r\f\v\a\b\x1a\x1b", r)
	})
}

var htmlStarts = []string{"<!doctype html", "<html", "<head", "<body", "<title", "<script", "<meta"}

// markup tells kinds of text apart by what comes first, after blanks and
// comments.
func markup(s string) kind {
	for {
		s = strings.TrimSpace(s)
		comment, ok := strings.CutPrefix(s, "<!--")
		if !ok {
			break
		}
		_, rest, ended := strings.Cut(comment, "-->")
		if !ended {
			return textKind
		}
		s = rest
	}
	for _, start := range htmlStarts {
		if hasPrefixFold(s, start) {
			return htmlKind
		}
	}
	switch {
	case strings.HasPrefix(s, "<?xml"), hasPrefixFold(s, "<!doctype"), isXMLTag(s):
		return xmlKind
	case isJSON(s):
		return jsonKind
	}
	return textKind
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// isXMLTag tells whether s starts with a tag such as <Error> or <a:b c="d">.
func isXMLTag(s string) bool {
	name, ok := strings.CutPrefix(s, "<")
	end := strings.IndexAny(name, " \t\r\n/>")
	if !ok || end < 1 {
		return false
	}
	for i, r := range name[:end] {
		letter := r|0x20 >= 'a' && r|0x20 <= 'z' || r == '_' || r == ':' || r > 0x7f
		if !letter && (i == 0 || !strings.ContainsRune("0123456789-.", r)) {
			return false
		}
	}
	return true
}

// isJSON tells whether s starts with an object or an array and its first
// token.
func isJSON(s string) bool {
	switch object, array := strings.HasPrefix(s, "{"), strings.HasPrefix(s, "["); {
	case object:
		s = strings.TrimLeft(s[1:], " \t\r\n")
		return s != "" && strings.ContainsRune(`"}`, rune(s[0]))
	case array:
		s = strings.TrimLeft(s[1:], " \t\r\n")
		if s != "" && strings.ContainsRune(`"{[]`, rune(s[0])) {
			return true
		}
		end := strings.IndexAny(s, " \t\r\n,]")
		return end > 0 && json.Valid([]byte(s[:end]))
	}
	return false
}
