// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// Files in the forms in which publishers ship them.
const (
	ubuntuSums = otherSHA256 + " *ubuntu-24.04.3-desktop-amd64.iso\n" +
		emptySHA256 + " *ubuntu-24.04.3-live-server-amd64.iso\n"

	debianSums = emptySHA512 + "  debian-12-generic-amd64.qcow2\n" +
		otherSHA256 + otherSHA256 + "  debian-12-generic-amd64.raw\n"

	fedoraSums = `-----BEGIN PGP SIGNED MESSAGE-----
Hash: SHA256

# Fedora-Cloud-Base-AmazonEC2-42-1.1.x86_64.raw.xz: 410984960 bytes
SHA256 (Fedora-Cloud-Base-AmazonEC2-42-1.1.x86_64.raw.xz) = ` + otherSHA256 + `
# Fedora-Cloud-Base-Generic-42-1.1.x86_64.qcow2: 532938752 bytes
SHA256 (Fedora-Cloud-Base-Generic-42-1.1.x86_64.qcow2) = ` + emptySHA256 + `
- ------ a line that PGP has escaped
-----BEGIN PGP SIGNATURE-----

iQIzBAEBCAAdFiEEsPRW8Qd0+CqdVQQMiuXRVzX4hAQFAmf7w0sACgkQiuXRVzX4
=abcd
-----END PGP SIGNATURE-----
`

	freebsdSums = "SHA256 (FreeBSD-14.3-RELEASE-amd64-bootonly.iso) = " + otherSHA256 + "\n" +
		"SHA256 (FreeBSD-14.3-RELEASE-amd64-disc1.iso) = " + emptySHA256 + "\n"

	openbsdSums = `untrusted comment: verify with openbsd-77-base.pub
RWSbCCUoGpcxVZb8V9PWf1QhlLzVu0dBtzxfTT3Rg6S1t0xCy2qkHm6tDZbkKXZvWqS0J9Uq0qJmpdUEAzQ+bSTd5mWJ3MCcEAQ=
SHA256 (BOOTX64.EFI) = ` + otherSHA256 + `
SHA256 (install77.img) = ` + emptySHA256 + `
`

	messageOfPGP = "-----BEGIN PGP MESSAGE-----\n\nowGbwMvMwME=\n=abcd\n-----END PGP MESSAGE-----\n"
	gentooSums   = `-----BEGIN PGP SIGNED MESSAGE-----
Hash: SHA512

# BLAKE2B HASH
` + otherSHA256 + otherSHA256 + `  di-amd64-console.qcow2
# SHA512 HASH
` + emptySHA512 + `  di-amd64-console.qcow2
-----BEGIN PGP SIGNATURE-----
=abcd
-----END PGP SIGNATURE-----
`

	rpmdistSums = "SHA256 (disk.img) = " + emptySHA256 + "\nSHA512 (disk.img) = " + emptySHA512 + "\nSIZE (disk.img) = 0\n"

	htmlPage = "<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head>\n<body>nginx</body></html>\n"
)

func TestChecksumFilesOfPublishers(t *testing.T) {
	for _, c := range []struct {
		what, file, text, prefix, name, want string
	}{
		{"Ubuntu", "SHA256SUMS", ubuntuSums, "", "ubuntu-24.04.3-live-server-amd64.iso", "sha256:" + emptySHA256},
		{"Debian", "SHA512SUMS", debianSums, "", "debian-12-generic-amd64.qcow2", "sha512:" + emptySHA512},
		{"Debian, algorithm given", "SHA512SUMS", debianSums, "sha512:", "debian-12-generic-amd64.qcow2", "sha512:" + emptySHA512},
		{"Fedora", "Fedora-Cloud-42-1.1-x86_64-CHECKSUM", fedoraSums, "", "Fedora-Cloud-Base-Generic-42-1.1.x86_64.qcow2", "sha256:" + emptySHA256},
		{"Fedora, CRLF", "CHECKSUM", strings.ReplaceAll(fedoraSums, "\n", "\r\n"), "sha256:", "Fedora-Cloud-Base-Generic-42-1.1.x86_64.qcow2", "sha256:" + emptySHA256},
		{"FreeBSD", "CHECKSUM.SHA256-FreeBSD-14.3-RELEASE-amd64", freebsdSums, "", "FreeBSD-14.3-RELEASE-amd64-disc1.iso", "sha256:" + emptySHA256},
		{"OpenBSD", "SHA256.sig", openbsdSums, "", "install77.img", "sha256:" + emptySHA256},
		{"openSUSE", "openSUSE-Leap.qcow2.sha256", emptySHA256 + "  openSUSE-Leap.qcow2\n", "", "openSUSE-Leap.qcow2", "sha256:" + emptySHA256},
		{"Alpine, any name", "nocloud_alpine.qcow2.sha512", emptySHA512 + "  nocloud_alpine.qcow2\n", "", "", "sha512:" + emptySHA512},
		{"Gentoo", "di-amd64-console.qcow2.DIGESTS", gentooSums, "", "di-amd64-console.qcow2", "sha512:" + emptySHA512},
		{"bare digest", "disk.img.sha1", emptySHA1 + "\n", "", "disk.img", "sha1:" + emptySHA1},
		{"bare digest without newline", "disk.img.md5", emptyMD5, "", "", "md5:" + emptyMD5},
		{"bare digest in capitals", "sum", strings.ToUpper(emptySHA256) + " \r\n", "", "", "sha256:" + emptySHA256},
		{"as in digest-expect", "sum", "sha256:" + emptySHA256 + "\n", "", "disk.img", "sha256:" + emptySHA256},
		{"as in digest-expect, with a name", "sum", "SHA-512:" + emptySHA512 + " *disk.img\nsha256:" + otherSHA256 + "\tb\n", "", "disk.img", "sha512:" + emptySHA512},
		{"of standard input", "sum", emptySHA256 + "  -\n", "", "disk.img", "sha256:" + emptySHA256},
		{"one blank, as md5 -r", "sum", emptyMD5 + " disk.img\n", "", "disk.img", "md5:" + emptyMD5},
		{"a tab", "sum", emptyMD5 + "\tdisk.img\n", "", "disk.img", "md5:" + emptyMD5},
		{"openssl", "sum", "SHA2-256(disk.img)= " + emptySHA256 + "\n", "", "disk.img", "sha256:" + emptySHA256},
		{"openssl, of standard input", "sum", "SHA2-256(stdin)= " + emptySHA256 + "\n", "", "disk.img", "sha256:" + emptySHA256},
		{"openssl -r, of standard input", "sum", emptySHA256 + " *stdin\n", "", "disk.img", "sha256:" + emptySHA256},
		{"indented", "sum", "  SHA256 (disk.img) = " + emptySHA256 + "\n", "", "disk.img", "sha256:" + emptySHA256},
		{"byte order mark", "sum", "\ufeff" + emptySHA256 + "  disk.img\n", "", "disk.img", "sha256:" + emptySHA256},
		{"preface", "sum", "Checksums for today\n\n" + ubuntuSums, "", "ubuntu-24.04.3-live-server-amd64.iso", "sha256:" + emptySHA256},
		{"long preface, any name", "sum", "The digests of all of the images of today\n\n" + emptySHA256 + "  disk.img\n", "", "", "sha256:" + emptySHA256},
		{"a bare digest and one with a name", "sum", emptySHA256 + "\n" + emptySHA1 + "  d\n", "", "", "sha256:" + emptySHA256 + " sha1:" + emptySHA1},
		{"preface, any name", "sum", "Checksum of today\n\n" + emptySHA256 + "  disk.img\n", "", "", "sha256:" + emptySHA256},
		{"escaped name", "sum", `\` + emptySHA256 + `  a\\b\nc` + "\n", "", "a\\b\nc", "sha256:" + emptySHA256},
		{"escaped name with a tag", "sum", `\SHA256 (a\\b\nc) = ` + emptySHA256 + "\n", "", "a\\b\nc", "sha256:" + emptySHA256},
		{"backslash that escapes nothing", "sum", emptySHA256 + `  a\nb` + "\n", "", `a\nb`, "sha256:" + emptySHA256},
		{"parentheses in the name", "sum", "SHA256 (a (1) = b) = " + emptySHA256 + "\n", "", "a (1) = b", "sha256:" + emptySHA256},

		{"name in this directory", "sum", emptySHA256 + "  ./disk.img\n" + otherSHA256 + "  ./b\n", "", "disk.img", "sha256:" + emptySHA256},
		{"name in a directory", "sum", emptySHA256 + "  amd64/disk.img\n" + otherSHA256 + "  b/mydisk.img\n", "", "disk.img", "sha256:" + emptySHA256},
		{"directory in the wanted name", "sum", emptySHA256 + "  disk.img\n" + otherSHA256 + "  b\n", "", "/images/disk.img", "sha256:" + emptySHA256},
		{"the same name goes first", "sum", otherSHA256 + "  old/disk.img\n" + emptySHA256 + "  disk.img\n", "", "disk.img", "sha256:" + emptySHA256},
		{"the same path goes first", "sum", otherSHA256 + "  other/disk.img\n" + emptySHA256 + " *./disk.img\n", "", "disk.img", "sha256:" + emptySHA256},
		{"the same path in other words", "sum", otherSHA256 + "  x/a/disk.img\n" + emptySHA256 + "  a/disk.img\n", "", "./a//disk.img", "sha256:" + emptySHA256},
		{"one name in two ways", "sum", emptySHA256 + "  ./disk.img\n" + emptySHA256 + "  disk.img\n", "", "", "sha256:" + emptySHA256},
		{"directories are compared", "sum", otherSHA256 + "  arm64/disk.img\n" + emptySHA256 + "  x/amd64/disk.img\n", "", "amd64/disk.img", "sha256:" + emptySHA256},
		{"name of another line in Latin-1", "sum", emptySHA256 + "  disk.img\n" + otherSHA256 + "  caf\xe9.img\n", "", "disk.img", "sha256:" + emptySHA256},

		{"several digests", "sum", rpmdistSums, "", "disk.img", "sha256:" + emptySHA256 + " sha512:" + emptySHA512},
		{"several digests, any name", "sum", rpmdistSums, "", "", "sha256:" + emptySHA256 + " sha512:" + emptySHA512},
		{"several digests, one wanted", "sum", rpmdistSums, "sha512:", "disk.img", "sha512:" + emptySHA512},
		{"several lengths, one wanted", "sum", emptyMD5 + "  d\n" + emptySHA1 + "  d\n", "sha1:", "d", "sha1:" + emptySHA1},
		{"several lengths", "sum", emptyMD5 + "  d\n" + emptySHA1 + "  d\n", "", "d", "md5:" + emptyMD5 + " sha1:" + emptySHA1},
		{"short line that is not wanted", "sum", emptySHA256[1:] + "  d\n" + emptySHA1 + "  d\n", "sha1:", "d", "sha1:" + emptySHA1},
		{"the same line twice", "sum", ubuntuSums + strings.ToUpper(emptySHA256) + "  ubuntu-24.04.3-live-server-amd64.iso\n", "", "ubuntu-24.04.3-live-server-amd64.iso", "sha256:" + emptySHA256},

		{"b3sum by the file's name", "B3SUMS", emptyBLAKE3 + "  disk.img\n", "", "disk.img", "blake3:" + emptyBLAKE3},
		{"b3sum by the file's name", "disk.b3sum", emptyBLAKE3 + "  disk.img\n", "", "disk.img", "blake3:" + emptyBLAKE3},
		{"b3sum by the file's name", "BLAKE3SUMS", emptyBLAKE3 + "  disk.img\n", "", "disk.img", "blake3:" + emptyBLAKE3},
		{"b3sum by the file's name", "disk.b3", emptyBLAKE3 + "\n", "", "disk.img", "blake3:" + emptyBLAKE3},
		{"b3sum by the prefix", "sum", emptyBLAKE3 + "  disk.img\n", "blake3:", "disk.img", "blake3:" + emptyBLAKE3},
		{"SHA-256 in spite of the file's name", "disk.b3sum", emptySHA256 + "  disk.img\n", "sha256:", "disk.img", "sha256:" + emptySHA256},
		{"SHA-512 in spite of the file's name", "b2sums.txt", emptySHA512 + "  disk.img\n", "sha512:", "disk.img", "sha512:" + emptySHA512},
		{"a directory called b3sum", "sum", emptySHA256 + "  b3sum/disk.img\n", "", "disk.img", "sha256:" + emptySHA256},
	} {
		list, err := parseExpectation(c.prefix+"@"+checksumFile(t, c.file, c.text), c.name, "/")
		if err != nil || inWords(list) != c.want {
			t.Errorf("%s, %s: got %s and %v", c.what, c.file, inWords(list), err)
		}
	}
}

func TestBadChecksumFileSaysWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		what, file, text, prefix, name, want string
	}{
		{"empty", "sum", "", "", "disk.img", "the file is empty"},
		{"blank lines", "sum", "\n\r\n \n", "", "disk.img", "no checksum in it"},
		{"comments", "sum", "# SHA256SUMS\n#\n", "", "disk.img", "no checksum in it"},
		{"error page", "sum", htmlPage, "", "disk.img", `line 1, "<!DOCTYPE html>", is not a checksum`},
		{"error page after a blank line", "sum", "\n" + htmlPage, "", "", `line 2, "<!DOCTYPE html>"`},
		{"array in JSON", "sum", `["not found"]`, "", "", "the file seems to be JSON"},
		{"error page with JSON in it", "sum", htmlPage + "{}\n", "", "", `line 1, "<!DOCTYPE html>"`},
		{"error in JSON", "sum", `{"error":"not found"}`, "", "", "the file seems to be JSON"},
		{"name with a colon", "sum", "disk.img:" + emptySHA256 + "\n", "", "", "is not a checksum"},
		{"unknown digest with a colon", "sum", "blake2b:" + emptySHA512 + "\n", "", "", `line 1: unknown digest "blake2b"`},
		{"long line", "sum", strings.Repeat("é ", 500), "", "", `é "..., is not a checksum`},
		{"binary", "SHA256SUMS.gpg", "\x89\x02\x33\x04\x00\x01", "", "disk.img", "the file is binary or UTF-16"},
		{"UTF-16", "sum", "\xff\xfeS\x00H\x00A\x00", "", "disk.img", "in UTF-8"},
		{"file of the name stdin", "sum", emptySHA256 + "  stdin\n", "", "disk.img", `no digest of "disk.img", only of "stdin"`},
		{"binary without zeros", "sum", "\x89\x02\x33\x04\xff\xfe", "", "disk.img", "the file is binary"},
		{"tar", "sums.tar", "SHA256SUMS\x00\x00\n" + emptySHA256 + "  disk.img\n", "", "disk.img", "the file is binary"},
		{"detached signature", "SHA256SUMS.asc", "-----BEGIN PGP SIGNATURE-----\n\niQIz\n-----END PGP SIGNATURE-----\n", "", "d", "line 1 begins a signature that has its text in another file"},
		{"message of PGP", "CHECKSUM", messageOfPGP, "", "disk.img", `line 1, "-----BEGIN PGP MESSAGE-----", begins what PGP has not signed in clear text`},
		{"message of PGP behind a checksum", "CHECKSUM", otherSHA256 + "  disk.img\n" + messageOfPGP, "", "disk.img", "line 2, "},
		{"message of PGP before one", "CHECKSUM", messageOfPGP + otherSHA256 + "  disk.img\n", "", "disk.img", "line 1, "},
		{"message of PGP with blanks", "CHECKSUM", otherSHA256 + "  disk.img\n " + strings.ReplaceAll(messageOfPGP, "\n", " \r\n"), "", "disk.img", "line 2, "},
		{"message of PGP before a text that looks signed", "CHECKSUM", messageOfPGP + fedoraSums, "", "Fedora-Cloud-Base-Generic-42-1.1.x86_64.qcow2", "line 1, "},
		{"signed text behind a byte order mark", "CHECKSUM", "\ufeff" + fedoraSums, "", "disk.img", "the file begins with a byte order mark"},
		{"signed text with another armor in it", "CHECKSUM", strings.Replace(fedoraSums, "-----BEGIN PGP SIGNATURE-----", "-----unexpected armor\n"+otherSHA256+"  disk.img\n-----BEGIN PGP SIGNATURE-----", 1), "", "disk.img", `line 9, "-----unexpected armor", begins with a dash`},
		{"binary message of PGP", "CHECKSUM", "\xa3\x01\x01\n" + otherSHA256 + "  disk.img\n", "", "disk.img", "the file is binary"},
		{"cut off", "CHECKSUM", fedoraSums[:len(fedoraSums)-200], "", "Fedora-Cloud-Base-Generic-42-1.1.x86_64.qcow2", "line 1 begins a signed text that has no end"},

		{"missing entry", "SHA256SUMS", ubuntuSums, "", "disk.img", `no digest of "disk.img", only of "ubuntu-24.04.3-desktop-amd64.iso", "ubuntu-24.04.3-live-server-amd64.iso": say with digest-name`},
		{"missing entry of many", "sum", ubuntuSums + ubuntuSums + freebsdSums + rpmdistSums, "", "x", `"FreeBSD-14.3-RELEASE-amd64-bootonly.iso", 2 more: say`},
		{"missing entry of three", "sum", emptyMD5 + " a\n" + emptyMD5 + " b\n" + emptyMD5 + " c\n", "", "x", `only of "a", "b", "c": say`},
		{"missing entry of four", "sum", emptyMD5 + " a\n" + emptyMD5 + " b\n" + emptyMD5 + " c\n" + emptyMD5 + " d\n", "", "x", `"c", 1 more: say`},
		{"end of a name is not the name", "sum", emptySHA256 + "  mydisk.img\n", "", "disk.img", `no digest of "disk.img", only of "mydisk.img": leave digest-name out`},
		{"other case", "sum", emptySHA256 + "  Disk.img\n", "", "disk.img", `no digest of "disk.img"`},
		{"no name, and two files with a digest of their own", "sum", emptyMD5 + "  a\n" + emptySHA1 + "  b\n", "", "", "say with digest-name which"},
		{"no name and many lines", "SHA256SUMS", ubuntuSums, "", "", "say with digest-name which"},

		{"lines that disagree", "sum", emptySHA256 + "  d\n\n" + otherSHA256 + " *d\n", "", "d", "lines 1 and 3 have different sha256 digests"},
		{"tag and plain that disagree", "sum", "SHA256 (d) = " + emptySHA256 + "\n" + otherSHA256 + "  d\n", "", "", "lines 1 and 2 have different sha256"},
		{"directories that disagree", "sum", emptySHA256 + "  a/d\n" + otherSHA256 + "  b/d\n", "", "d", `say with digest-name which is the image's, "a/d", "b/d"`},
		{"one path that disagrees", "sum", emptySHA256 + "  a/d\n" + otherSHA256 + "  ./a/d\n", "", "d", "digests for the image"},
		{"bare digests that disagree", "sum", emptySHA256 + "\n" + otherSHA256 + "\n", "", "d", "lines 1 and 2 have different sha256"},
		{"bare digest and line that disagree", "sum", emptySHA256 + "\n" + otherSHA256 + "  d\n", "", "d", "lines 1 and 2 have different sha256"},

		{"short", "sum", "# x\n" + emptySHA256[1:] + "  d\n", "", "d", "line 2: no digest has 63 hexadecimal digits"},
		{"short and wanted", "sum", emptySHA256[1:] + "  d\n", "sha256:", "d", "line 1: a sha256 digest has 64 hexadecimal digits, and this one 63"},
		{"short beside a good one", "sum", emptySHA256[1:] + "  d\n" + emptyMD5 + "  d\n", "", "d", "line 1: no digest has 63"},
		{"very short", "sum", emptySHA256[:16] + "  d\n", "", "d", "line 1: no digest has 16 hexadecimal digits"},
		{"wrong letter in the shortest digest", "sum", "x" + emptyMD5[1:] + "  d\n", "", "d", "line 1: 'x' in the digest is not"},
		{"escaped digest without a name", "sum", `\` + emptySHA256 + "\n", "", "", "is not a checksum"},
		{"short bare", "sum", emptySHA256[32:] + emptySHA256[1:32], "", "d", "line 1: no digest has 63"},
		{"short with a tag", "sum", "SHA256 (d) = " + emptyMD5 + "\n", "", "d", "line 1: a sha256 digest has 64 hexadecimal digits, and this one 32"},
		{"wrong letter", "sum", "x" + emptySHA256[1:] + "  d\n", "", "d", "line 1: 'x' in the digest is not"},
		{"wrong letter in a tagged line", "sum", "SHA256 (d) = x" + emptySHA256[1:] + "\n", "", "d", "line 1: 'x' in the digest is not"},
		{"base64, as cksum --base64", "sum", "SHA256 (d) = 47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n", "", "d", "line 1: the digest seems to be in base64"},
		{"base64 without a tag", "sum", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=  d\n", "", "d", "line 1: the digest seems to be in base64"},

		{"Arch", "b2sums.txt", emptySHA512 + "  archlinux-x86_64.iso\n", "", "archlinux-x86_64.iso", "line 1: the file's name says that its digests are BLAKE2"},
		{"unknown tag", "sum", "BLAKE2b (d) = " + emptySHA512 + "\n", "", "d", `line 1: unknown digest "blake2b": use one of md5`},
		{"other tag than wanted", "sum", rpmdistSums, "md5:", "", "line 1: this is the sha256 digest, and no line has the md5 one"},
		{"other length than wanted", "sum", emptyMD5 + "  d\n", "sha256:", "d", "line 1: a sha256 digest has 64 hexadecimal digits, and this one 32"},
		{"SHA-512 where BLAKE3 is wanted", "SHA512SUMS", debianSums, "blake3:", "debian-12-generic-amd64.qcow2", "a blake3 digest has 64 hexadecimal digits, and this one 128"},
	} {
		path := checksumFile(t, c.file, c.text)
		list, err := parseExpectation(c.prefix+"@"+path, c.name, "/")
		switch {
		case err == nil:
			t.Errorf("%s: no error, but %s", c.what, inWords(list))
		case !strings.Contains(err.Error(), c.want) || strings.ContainsAny(err.Error(), "\n\r\x00"):
			t.Errorf("%s: the error is %v, want %q in it", c.what, err, c.want)
		}
	}
}

// Who has verified the signature with gpg has verified nothing around it.
func TestOnlyTheSignedTextCounts(t *testing.T) {
	evil := otherSHA256 + "  disk.img\n"
	good := emptySHA256 + "  disk.img\n"
	const begin, header, end = "-----BEGIN PGP SIGNED MESSAGE-----\n", "Hash: SHA256\n\n", "-----BEGIN PGP SIGNATURE-----\n\n=abcd\n-----END PGP SIGNATURE-----\n"
	for what, text := range map[string]string{
		"before":                  evil + begin + header + good + end,
		"among the headers":       begin + "Hash: SHA256\n" + evil + "\n" + good + end,
		"in the signature":        begin + header + good + end[:30] + evil + end[30:],
		"behind":                  begin + header + good + end + evil,
		"in a second signed text": begin + header + good + end + begin + header + evil + end,
	} {
		list, err := parseExpectation("@"+checksumFile(t, "sum", text), "disk.img", "/")
		if err != nil || inWords(list) != "sha256:"+emptySHA256 {
			t.Errorf("a line %s: got %s and %v", what, inWords(list), err)
		}
	}
	if list, err := parseExpectation("@"+checksumFile(t, "sum", begin+"\n"+good+end), "disk.img", "/"); err != nil || inWords(list) != "sha256:"+emptySHA256 {
		t.Errorf("a text without headers: got %s and %v", inWords(list), err)
	}
	escaped := begin + header + "- -----BEGIN PGP SIGNATURE-----\n- " + good + end
	list, err := parseExpectation("@"+checksumFile(t, "sum", escaped), "disk.img", "/")
	if err != nil || inWords(list) != "sha256:"+emptySHA256 {
		t.Errorf("escaped lines: got %s and %v", inWords(list), err)
	}
}

// A file of random lines in random forms has, for each name, the digests that
// a map from names to digests has.
func TestChecksumFilesAgainstAMap(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 8))
	linear := algorithms[:6]
	for range 2000 {
		model := make(map[string]map[string]string)
		var names []string
		var text bytes.Buffer
		for range 1 + r.IntN(12) {
			name := randomName(r)
			a := linear[r.IntN(len(linear))]
			sum := hex.EncodeToString(randomBytes(r, int64(a.size)))
			if model[name] == nil {
				model[name] = make(map[string]string)
				names = append(names, name)
			}
			if old, ok := model[name][a.name]; ok {
				sum = old
			}
			model[name][a.name] = sum
			text.WriteString(randomLine(r, a, name, sum))
		}
		content := text.String()
		if r.IntN(3) == 0 {
			content = "preface\n-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n" + content + "-----BEGIN PGP SIGNATURE-----\n=x\n"
		}
		if r.IntN(3) == 0 {
			content = strings.ReplaceAll(content, "\n", "\r\n")
		}
		if r.IntN(3) == 0 {
			content = "\ufeff" + content
		}
		sums, err := parseChecksums(content)
		if err != nil {
			t.Fatalf("%v\n%s", err, content)
		}
		for _, name := range append(names, "no such name") {
			var got []expectation
			lines, err := sumsFor(sums, name)
			if err == nil {
				got, err = expect(lines, algorithm{}, "SUMS")
			}
			if (err == nil) != (model[name] != nil) || len(got) != len(model[name]) {
				t.Fatalf("%q: got %s and %v, want %v in\n%s", name, inWords(got), err, model[name], content)
			}
			for _, e := range got {
				if hex.EncodeToString(e.sum) != model[name][e.algorithm.name] {
					t.Fatalf("%q: got %s, want %v in\n%s", name, inWords(got), model[name], content)
				}
			}
		}
	}
}

// randomName has no slash, so that it is the end of no other.
func randomName(r *rand.Rand) string {
	pieces := []string{"a", "disk", ".img", " ", "(", ")", " = ", `\`, "\n", `\n`, "#", "*", "é", "-", emptyMD5}
	name := "n"
	for range 1 + r.IntN(4) {
		name += pieces[r.IntN(len(pieces))]
	}
	return name + "m"
}

func randomLine(r *rand.Rand, a algorithm, name, sum string) string {
	if r.IntN(2) == 0 {
		sum = strings.ToUpper(sum)
	}
	shown := escapeName.Replace(name)
	mark := ""
	if shown != name {
		mark = `\`
	}
	blank := strings.Repeat("# a comment\n", r.IntN(2)) + strings.Repeat("\n", r.IntN(2)) + strings.Repeat(" ", r.IntN(2))
	switch r.IntN(5) {
	case 0:
		return fmt.Sprintf("%s%s%s  %s\n", blank, mark, sum, shown)
	case 1:
		return fmt.Sprintf("%s%s%s *%s\n", blank, mark, sum, shown)
	case 2:
		return fmt.Sprintf("%s%s%s(%s)= %s\n", blank, mark, strings.ToLower(a.tag()), shown, sum)
	case 3:
		return fmt.Sprintf("%s%s%s:%s  %s\n", blank, mark, a.name, sum, shown)
	}
	return fmt.Sprintf("%s%s%s (%s) = %s\n", blank, mark, a.tag(), shown, sum)
}

// Whatever a file has, the answer is digests of the right length, one for
// each algorithm, or an error of one line; and it is the same every time.
func FuzzChecksums(f *testing.F) {
	for _, text := range []string{ubuntuSums, debianSums, fedoraSums, freebsdSums, openbsdSums, gentooSums, rpmdistSums, htmlPage,
		emptyMD5, "SHA256 (disk.img) = " + emptyMD5, `\` + emptySHA1 + `  a\\b`, "\ufeff" + emptySHA1 + "  -\r\n"} {
		f.Add(text, "disk.img", "SHA256SUMS", "")
		f.Add(text, "", "x.b3sum", "sha256")
	}
	f.Fuzz(func(t *testing.T, text, name, file, alg string) {
		want, err := parseAlgorithm(alg)
		if err != nil {
			want = algorithm{}
		}
		get := func() ([]expectation, error) {
			sums, err := parseChecksums(text)
			if err != nil {
				return nil, err
			}
			if len(sums) == 0 {
				t.Fatal("neither digests nor an error")
			}
			if sums, err = sumsFor(sums, name); err != nil {
				return nil, err
			}
			return expect(sums, want, file)
		}
		list, err := get()
		again, err2 := get()
		if inWords(list) != inWords(again) || fmt.Sprint(err) != fmt.Sprint(err2) {
			t.Fatalf("first %s and %v, then %s and %v", inWords(list), err, inWords(again), err2)
		}
		if err != nil {
			if err.Error() == "" || strings.ContainsAny(err.Error(), "\n\r\x00") {
				t.Fatalf("not an error of one line: %q", err)
			}
			return
		}
		if len(list) == 0 {
			t.Fatal("neither expectations nor an error")
		}
		var seen []string
		for _, e := range list {
			if len(e.sum) != e.algorithm.size || slices.Contains(seen, e.algorithm.name) || !e.matches(e.sum) ||
				want.name != "" && want.name != e.algorithm.name ||
				!strings.Contains(strings.ToLower(text), hex.EncodeToString(e.sum)) {
				t.Fatalf("%s", inWords(list))
			}
			seen = append(seen, e.algorithm.name)
		}
	})
}
