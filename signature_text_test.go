// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"compress/gzip"
	"strings"
	"testing"
	"unicode/utf16"
)

func utf16Bytes(s string, bigEndian bool) string {
	var b strings.Builder
	for _, u := range utf16.Encode([]rune(s)) {
		lo, hi := byte(u), byte(u>>8)
		if bigEndian {
			lo, hi = hi, lo
		}
		b.WriteByte(lo)
		b.WriteByte(hi)
	}
	return b.String()
}

func gzipped(s string, header gzip.Header) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Header = header
	w.Write([]byte(s))
	w.Close()
	return b.String()
}

func TestText(t *testing.T) {
	page := "<!DOCTYPE html>\n<html><body>Gefällt's? " + strings.Repeat("日本語 ", 2000) + "</body></html>"
	for _, test := range []struct{ why, image, want string }{
		{"a page", page, "html"},
		{"a page in upper case", "<HTML><BODY>503", "html"},
		{"a page without its end", "<html", "html"},
		{"a page without its beginning", "<title>404</title>", "html"},
		{"a page that only redirects", "<script>location='/'</script>", "html"},
		{"a page that starts with a meta tag", "<META http-equiv=refresh>", "html"},
		{"blanks and comments first", "\r\n\t <!-- a --> \n<!-- b --><head>", "html"},
		{"UTF-16 without a BOM and with more than ASCII", utf16Bytes("<html>页面不存在", false), "html"},
		{"UTF-16 without a BOM that is a sentence", utf16Bytes("not\t~\r\nfound", false), "text"},
		{"such a sentence with more than ASCII behind 64 bytes", utf16Bytes(strings.Repeat("x", 32)+"页", false), "text"},
		{"a page in UTF-16 without a BOM and a control character", utf16Bytes("<html>页\x01", false), "unknown"},
		{"such a sentence, big-endian", utf16Bytes("not\t~\r\nfound", true), "text"},
		{"the same, big-endian", utf16Bytes("{\"错误\": \"不存在\"}", true), "json"},
		{"UTF-16 without a BOM that is plain text", utf16Bytes("ab页面不存在", false), "unknown"},
		{"a page padded to a sector", "<html>404" + strings.Repeat("\x00", 503), "html"},
		{"a page padded to 64 KiB", "<html>404" + strings.Repeat("\x00", 64<<10-9), "html"},
		{"a page padded to more than 1 MiB, which is not looked through", "<html>404" + strings.Repeat("\x00", 2<<20), "unknown"},
		{"one character padded to a sector", "x" + strings.Repeat("\x00", 511), "text"},
		{"plain text padded to a sector", "Not found" + strings.Repeat("\x00", 503), "text"},
		{"plain text padded to 64 KiB", "Not found" + strings.Repeat("\x00", 64<<10-9), "unknown"},
		{"a page in UTF-16 padded to a sector", utf16Bytes("<html>", false) + strings.Repeat("\x00", 500), "html"},
		{"a packed page that is padded", gzipped("<html>404"+strings.Repeat("\x00", 503), gzip.Header{}), "html"},
		{"a page, zeros and something else", "<html>404" + strings.Repeat("\x00", 502) + "x", "unknown"},
		{"a checksum that starts as cpio does", "070701" + strings.Repeat("0a", 61) + "  disk.img\n", "text"},
		{"a UTF-8 BOM", "\xef\xbb\xbf<html>", "html"},
		{"UTF-16, little-endian", "\xff\xfe" + utf16Bytes(page, false), "html"},
		{"UTF-16, big-endian", "\xfe\xff" + utf16Bytes(page, true), "html"},
		{"UTF-16 without a BOM, little-endian", utf16Bytes("<html>\r\n", false), "html"},
		{"UTF-16 without a BOM, big-endian", utf16Bytes("<?xml version='1.0'?>", true), "xml"},
		{"UTF-16 that is cut in a pair at 4 KiB", "\xff\xfe" + utf16Bytes(strings.Repeat("x", 2046)+"😀 and more", false), "text"},
		{"UTF-16 with a control character at the end of 4 KiB", "\xff\xfe" + utf16Bytes(strings.Repeat("x", 2046)+"\x01 and more", false), "unknown"},
		{"UTF-16 with one before a pair that is cut", "\xff\xfe" + utf16Bytes(strings.Repeat("x", 2045)+"\x01😀", false), "unknown"},
		{"UTF-16 with the character for what is none", "\xff\xfe" + utf16Bytes("caf\ufffd", false), "text"},
		{"UTF-8 that is cut in a character of 4 bytes", strings.Repeat("x", 4093) + "😀 and more", "text"},
		{"UTF-8 that is cut in a character at 4 KiB", strings.Repeat("x", 4095) + "é and more", "text"},
		{"a page in Latin-1", "<html>Fran\xe7ais", "html"},
		{"a page in Shift-JIS", "<?xml version='1.0' encoding='Shift_JIS'?><a>\x93\xfa\x96\x7b</a>", "xml"},
		{"a page in Latin-1 behind a UTF-8 BOM", "\xef\xbb\xbf<html>refus\xe9", "html"},
		{"an object in Latin-1", "{\"error\": \"kein Platz f\xfcr Sie\"}", "json"},
		{"an array in Latin-1", "[\"f\xfcr\"]", "json"},
		{"an object in Latin-1 without quotes", "{f\xfcr: 404}", "unknown"},
		{"an object and a control character", "{\"error\": \"f\xfcr\x01\"}", "unknown"},
		{"a UTF-8 BOM and what is no UTF-8", "\xef\xbb\xbfcaf\xe9", "unknown"},
		{"a packed object in Latin-1", gzipped("{\"error\": \"f\xfcr\"}", gzip.Header{}), "json"},
		{"an answer of S3", "<?xml version=\"1.0\"?>\n<Error><Code>NoSuchKey</Code></Error>", "xml"},
		{"a tag with a namespace", "<s:Envelope xmlns:s=\"x\">", "xml"},
		{"an empty tag", "<br/>", "xml"},
		{"a tag of one letter", "<a>", "xml"},
		{"a tag of another letter", "<z>", "xml"},
		{"a tag with a digit", "<h1>404</h1>", "xml"},
		{"a tag with a dot", "<a.b>", "xml"},
		{"a tag with an underscore", "<_x>", "xml"},
		{"a tag that is not ASCII", "<é>", "xml"},
		{"a tag without a name", "<>", "text"},
		{"a tag that is none", "<{x>", "text"},
		{"an address in angle brackets", "<john@example.com>", "text"},
		{"a heart", "<3 you", "text"},
		{"an object", "{\"error\": 404}", "json"},
		{"an empty object", " { } ", "json"},
		{"an object of several lines", "{\n\"error\": 404}", "json"},
		{"an array of several lines", "[\n{\"error\": 404}]", "json"},
		{"an array of sentences", "[\"not found\"]", "json"},
		{"an array of a digit", "[1]", "json"},
		{"a brace", "{", "text"},
		{"an object without quotes", "{error: 404}", "text"},
		{"an array of numbers", "[ -1.5e3, 2]", "json"},
		{"an empty array", "[]", "json"},
		{"a bracket", "[", "text"},
		{"a bracket and a word", "[abc", "text"},
		{"an array of words", "[true]", "json"},
		{"an array of arrays", "[[[", "json"},
		{"a date in brackets", "[2026-11-24] started", "text"},
		{"a word in brackets", "[error] not found", "text"},
		{"a sentence", "Not Found\n", "text"},
		{"colours of a terminal", "\x1b[31merror\x1b[0m\b\f\v\n", "text"},
		{"a BOM and nothing else", "\xef\xbb\xbf", "unknown"},
		{"a lone surrogate at the end", "\xff\xfea\x00\x00\xd8", "unknown"},
		{"a lone surrogate", "\xff\xfe\x00\xd8a\x00", "unknown"},
		{"an odd byte of UTF-16", "\xff\xfea\x00b", "unknown"},
		{"a control character", "not \x01 found", "unknown"},
		{"the last control character", "not \x1f found", "unknown"},
		{"a control character at the end of 4 KiB", strings.Repeat("x", 4095) + "\x01x", "unknown"},
		{"DEL", "not \x7f found", "unknown"},
		{"what is no UTF-8", "caf\xe9", "unknown"},
		{"a zero byte at the end of a short image", "<html>\x00", "html"},
		{"another control character there", "<html>\x01", "unknown"},
		{"a zero byte at 4095", page[:4090] + "\x00\x00\x00\x00\x00\x00" + page, "unknown"},
		{"a zero byte at 4096, which is not looked at", strings.Repeat("x", 4096) + "\x00", "text"},
		{"a zero byte at 4096 and more", strings.Repeat("x", 4096) + "\x00x", "text"},
		{"a boot sector with a message", "\xeb\x1e\x90Non-System disk\r\nReplace and press any key\r\n" + strings.Repeat("\x00", 470) + "\x55\xaa", "unknown"},
		{"a disk whose first sector is a message", "Missing operating system\r\n" + strings.Repeat(" ", 486) + strings.Repeat("\x00", 8192), "unknown"},
		{"a bell and the end of a file of DOS", "not found\a\r\n\x1a", "text"},
		{"a document of another type", "<!DOCTYPE Error SYSTEM \"e.dtd\">", "xml"},
		{"the same in Latin-1", "<!doctype Error>refus\xe9", "xml"},
		{"a comment without an end", "<!-- <html>", "text"},

		{"a packed page", gzipped(page, gzip.Header{}), "html"},
		{"a packed page with all fields in the header",
			gzipped("{\"error\":1}", gzip.Header{Name: "n", Comment: "c", Extra: make([]byte, 300)}), "json"},
		{"a packed page with the sum of its header", "\x1f\x8b\x08\x03......ss" + gzipped("<html>", gzip.Header{})[10:], "html"},
		{"a packed page with more in its header", gzipped("<html>", gzip.Header{Extra: make([]byte, 3)}), "html"},
		{"a packed page and something else behind 4 KiB", gzipped("<html>"+strings.Repeat("x", 4090)+"\x01", gzip.Header{}), "html"},
		{"a packed page with a control character at the end of 4 KiB", gzipped("<html>"+strings.Repeat("x", 4089)+"\x01x", gzip.Header{}), "gzip"},
		{"a page that cannot be unpacked to its end", "\x1f\x8b\x08\x00......\x00\x06\x00\xf9\xff<html>\x07", "gzip"},
		{"a gzip header that ends in its sum", "\x1f\x8b\x08\x02......s", "gzip"},
		{"a gzip header that ends in a length", "\x1f\x8b\x08\x04......x", "gzip"},
		{"a gzip header that ends in what the length is of", "\x1f\x8b\x08\x04......\x01\x00", "gzip"},
		{"packed text", gzipped("just a log\n", gzip.Header{}), "gzip"},
		{"a packed image", gzipped(string(craft(8192, linux, signed)), gzip.Header{}), "gzip"},
		{"a packed packed page", gzipped(gzipped(page, gzip.Header{}), gzip.Header{}), "gzip"},
		{"packed nothing", gzipped("", gzip.Header{}), "gzip"},
		{"a gzip header without an end", "\x1f\x8b\x08\x08" + strings.Repeat("n", 9000), "gzip"},
		{"a gzip header that is longer than the image", "\x1f\x8b\x08\x04......\xff\xff", "gzip"},
		{"what is no deflate", "\x1f\x8b\x08\x00......\xff\xff<html>", "gzip"},
	} {
		if got := identifyBytes(t, []byte(test.image)).String(); got != test.want {
			t.Errorf("%s: it is %s, want %s", test.why, got, test.want)
		}
	}
}

// The first bytes go into a log, whatever they are.
func TestHeadIsOnePrintableLine(t *testing.T) {
	s := identifyBytes(t, []byte("<html>~\x1b[2J\nnbdkit: \"forged\" \\ \xff\x1f\x7f"+strings.Repeat("x", 100)))
	if want := `"<html>~.[2J.nbdkit: \"forged\" \\ ...` + strings.Repeat("x", 14) + `"`; s.head != want {
		t.Errorf("%s\nwant\n%s", s.head, want)
	}
}
