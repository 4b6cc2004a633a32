// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"strings"
	"testing"
)

const vmdkDescriptorText = `# Disk DescriptorFile
version=1
CID=2a6c32e6
parentCID=ffffffff
createType="monolithicSparse"

# Extent description
RW 20480 SPARSE "disk.vmdk"

# The Disk Data Base
#DDB

ddb.virtualHWVersion = "4"
ddb.adapterType = "ide"
`

// craftVMDK returns a sparse VMDK with this descriptor.
func craftVMDK(text string) []byte {
	return craft(128<<10, patch{0, "KDMV" + le32(1)}, patch{12, le64(20480)}, patch{28, le64(1) + le64(20)}, patch{512, text})
}

func TestDangersOfVMDK(t *testing.T) {
	testDangers(t, "vmdk", craftVMDK(vmdkDescriptorText), []dangerousCase{
		{"no capacity", []patch{{12, le64(0)}}, "no capacity"},
		{"no capacity and no descriptor", []patch{{12, le64(0)}, {28, le64(0)}}, "no capacity"},
		{"a descriptor at sector 2", []patch{{28, le64(2)}}, "at sector 2, not 1"},
		{"a descriptor far away", []patch{{28, le64(1 << 63)}}, "not 1"},
		{"an empty descriptor", []patch{{36, le64(0)}}, "no descriptor"},
		{"a descriptor of more than 1 MiB", []patch{{36, le64(2049)}}, "more than 1 MiB"},
		{"a descriptor whose length overflows", []patch{{36, le64(1 << 55)}}, "more than 1 MiB"},
		{"a descriptor beyond the image", []patch{{36, le64(256)}}, "beyond the image"},
		{"a descriptor up to the end", []patch{{36, le64(255)}}, ""},
		{"a capacity of one sector", []patch{{12, le64(1)}}, ""},
		{"ESX", []patch{{0, "COWD"}}, "sparse extent of ESX"},
		{"another version", []patch{{4, le32(2)}}, ""},
		{"a parent behind the length of the descriptor", []patch{{36, le64(2)},
			{512 + len(vmdkDescriptorText), strings.Repeat("\n", 5000) + "parentFileNameHint=\"x\""}}, "names a parent"},
	})
	whole := craftVMDK(vmdkDescriptorText)
	expectSignature(t, identifyBytes(t, patched(whole[:len(whole)-1], patch{36, le64(255)})), "vmdk", "beyond the image")
	expectSignature(t, identifyBytes(t, patched(whole[:1024], patch{36, le64(1)})), "vmdk", "")
	// What is said once is not said in other words as well.
	flat := strings.Replace(vmdkDescriptorText, "monolithicSparse", "monolithicFlat", 1) + "RW 1 FLAT \"a\" 0\n"
	for _, image := range [][]byte{[]byte(flat), patched(craftVMDK(flat), patch{12, le64(0)})} {
		if s := identifyBytes(t, image); len(s.dangers) != 1 {
			t.Errorf("%.20q...: the dangers are %q", image, s.dangers)
		}
	}
}

func TestDangersOfVMDKDescriptors(t *testing.T) {
	long := strings.Repeat("x", 100)
	for _, test := range []struct{ why, old, new, want string }{
		{"unchanged", "", "", ""},
		{"for a stream", "monolithicSparse", "streamOptimized", ""},
		{"in upper case", "monolithicSparse", "MONOLITHICSPARSE", ""},
		{"with the line ends of Windows", "\n", "\r\n", ""},
		{"read only", "RW 20480", "RDONLY 20480", ""},
		{"a name that is not ASCII", "disk.vmdk", "d\xefsk.vmdk", ""},
		{"the identity of the parent in quotes", "=ffffffff", "=\"ffffffff\"", ""},
		{"no access", "RW 20480", "NOACCESS 20480", ""},
		{"an unknown word with a path", "version=1", "version=1\nsomeUnknownThing=\"/x\"", ""},
		{"a line of the data base that is no assignment", "# The Disk", "ddb.a comment", ""},
		{"a word", "version=1", "version", "none of a descriptor's"},
		{"an assignment to two words", "# The Disk", "two words=1", "none of a descriptor's"},
		{"an assignment to two words with a tab", "# The Disk", "two\twords=1", "none of a descriptor's"},
		{"an unknown word", "version=1", "version=1\nsomeUnknownThing=foo", ""},
		{"change tracking in a file beside it", "# The Disk", "changeTrackPath=\"disk-ctk.vmdk\"\n#", ""},
		{"change tracking in a file with a time", "# The Disk", "changeTrackPath=\"10:00-ctk.vmdk\"\n#", ""},
		{"change tracking by an absolute path", "# The Disk", "changeTrackPath=\"/etc/shadow\"\n#", "change tracking that names a path"},
		{"change tracking by a relative path", "# The Disk", "CHANGETRACKPATH = ../disk-ctk.vmdk\n#", "change tracking that names a path"},
		{"change tracking by a path of Windows", "# The Disk", `changeTrackPath="c:disk-ctk.vmdk"`, "change tracking that names a path"},
		{"change tracking by a slash as VMware writes it", "# The Disk", `changeTrackPath="|2Fetc|2Fshadow"`, "change tracking that names a path"},
		{"change tracking by a second path", "# The Disk", "changeTrackPath=\"a\"\nchangeTrackPath=\"/a\"\n#", "change tracking that names a path"},
		{"flat", "monolithicSparse", "monolithicFlat", "createType"},
		{"a custom type", "monolithicSparse", "custom", "createType"},
		{"an absurd type", "monolithicSparse", long, "createType"},
		{"no type", "createType", "#", "createType"},
		{"a type without an equals sign", "createType=", "createType ", "none of a descriptor's"},
		{"a second type", "createType", "createType=\"custom\"\ncreateType", "more than one createType"},
		{"a second type in a comment", "# The Disk", "# createType=\"monolithicFlat\"", "more than one createType"},
		{"a parent", "ffffffff", "12345678", "vmdk has a parent"},
		{"a parent behind another word", "CID=2a6c32e6", "xparentCID=12345678", "vmdk has a parent"},
		{"the name of a parent", "version=1", "version=1\nparentFileNameHint=\"/etc/shadow\"", "names a parent"},
		{"the name of a parent in a comment", "# The Disk", "#parentFileNameHint=\"/etc/shadow\"", "names a parent"},
		{"no extent", "RW 20480", "#", "0 extents"},
		{"two extents", "RW 20480 SPARSE", "RW 1 SPARSE \"a.vmdk\"\nRW 20480 SPARSE", "2 extents"},
		{"a flat extent", "SPARSE", "FLAT", "not part of it"},
		{"a flat extent between other blanks", "# The Disk", "RW\v1\vFLAT\v\"/x=1\" 0", "not part of it"},
		{"blanks that are none of a descriptor's", "RW 20480 SPARSE", "RW\t20480\tSPARSE", "none of a descriptor's"},
		{"a device", "SPARSE", "VMFSRDM", "not part of it"},
		{"zeros", "SPARSE \"disk.vmdk\"", "ZERO", "not part of it"},
		{"a name without quotes", "\"disk.vmdk\"", "disk.vmdk", "not part of it"},
		{"an absolute path", "disk.vmdk", "/etc/shadow", "names a path"},
		{"a relative path", "disk.vmdk", "../disk.vmdk", "names a path"},
		{"a path behind the name", "\"disk.vmdk\"", "\"disk.vmdk\" /dev/sda", "names a path"},
		{"a path of Windows behind the name", "\"disk.vmdk\"", `"disk.vmdk" \\.\PhysicalDrive0`, "names a path"},
		{"a path in front of the name", "\"disk.vmdk\"", "/dev/sda \"disk.vmdk\"", "names a path"},
		{"a name in the place of the size", `RW 20480 SPARSE "disk.vmdk"`, `RW "20480" SPARSE`, "not part of it"},
		{"a path of Windows", "disk.vmdk", `c:\disk.vmdk`, "names a path"},
		{"a protocol", "disk.vmdk", "nbd:localhost:10809", "names a path"},
		{"a description in JSON", "disk.vmdk", "json:{'driver':'file'}", "names a path"},
		{"a time of day", "disk.vmdk", "2026-01-01T10:00.vmdk", ""},
		{"a time of day behind a word", "disk.vmdk", "My disk 10:00.vmdk", ""},
		{"a drive of Windows", "disk.vmdk", "c:disk.vmdk", "names a path"},
		{"a drive behind a blank", "disk.vmdk", " c:disk.vmdk", "names a path"},
		{"a protocol before a blank", "disk.vmdk", "nbd :localhost", "names a path"},
		{"a protocol with other characters", "disk.vmdk", "nbd+unix-2.x_y:disk.vmdk", "names a path"},
		{"nothing before a colon", "disk.vmdk", ":disk.vmdk", "names a path"},
		{"a slash as VMware writes it", "disk.vmdk", "|2Fetc|2Fshadow", "names a path"},
		{"a name with the word for the type", "disk.vmdk", "createType.vmdk", ""},
		{"a short name of DOS with the word for the type", "disk.vmdk", "createType~1.vmdk", ""},
		{"a name with the word for the parent", "disk.vmdk", "parentCID.vmdk", ""},
		{"a name with both, twice", "disk.vmdk", "createType createType parentCID 1 parentCID.vmdk", ""},
		{"a name that assigns a type", "disk.vmdk", "createType=custom", "more than one createType"},
		{"a name that assigns a parent", "disk.vmdk", "parentCID=12345678", "vmdk has a parent"},
		{"a name with another line in it", "disk.vmdk", "x\rparentCID 1", "vmdk has a parent"},
		{"a name with a line in it that is one in Unicode", "disk.vmdk", "x\u2028parentCID 1", "vmdk has a parent"},
		{"a word behind a name", "\"disk.vmdk\"", "\"disk.vmdk\" parentCID=12345678", "vmdk has a parent"},
		{"a name before the parent", "parentCID=ffffffff", "RW 1 SPARSE \"parentCID.vmdk\"\nparentCID=ffffffff", "vmdk has a parent"},
		{"a name between the type and the parent", "parentCID=ffffffff\ncreateType=\"monolithicSparse\"",
			"createType=\"monolithicSparse\"\nRW 1 SPARSE \"parentCID.vmdk\"\nparentCID=ffffffff", "vmdk has a parent"},
		{"a name before the type", "createType", "RW 1 SPARSE \"createType.vmdk\"\ncreateType", "more than one createType"},
		{"a name in a comment", "# The Disk", "#RW 1 SPARSE \"createType\"", "more than one createType"},
		{"a name with the word for the name of a parent", "disk.vmdk", "x.parentFileNameHint", "names a parent"},
		{"an access mode that is none", "RW 20480", "WRONLY 20480", "none of a descriptor's"},
		{"a line of noise", "# The Disk", "\xff\x01\x02", "none of a descriptor's"},
		{"a danger behind a zero byte, where the text has ended", "ddb.adapterType", "\x00parentFileNameHint", ""},
	} {
		t.Run(test.why, func(t *testing.T) {
			text := strings.ReplaceAll(vmdkDescriptorText, test.old, test.new)
			expectSignature(t, identifyBytes(t, craftVMDK(text)), "vmdk", test.want)
		})
	}
	expectSignature(t, identifyBytes(t, []byte(vmdkDescriptorText)), "vmdk", "bare descriptor")
}

// A program that is told that an image is a VMDK takes it for a descriptor if
// the word is anywhere before the first zero byte. See tests/unsafe_test.go.
func TestDangersOfVMDKDescriptorsThatDoNotLookIt(t *testing.T) {
	const extent = "\nRW 128 FLAT \"/etc/shadow\" 0\n"
	filled := func(before int) []byte {
		return append(bytes.Repeat([]byte("\xff"), before), "createType=\"vmfs\"\n"+extent+"\x00"...)
	}
	for _, test := range []struct {
		why          string
		image        []byte
		kinds, wants string
	}{
		{"behind a line of text", craft(1<<20, patch{0, "x\ncreateType=\"monolithicFlat\"" + extent}), "unknown", "bare descriptor"},
		{"behind a byte that is no text", craft(1<<20, patch{0, "\x01createType=\"monolithicFlat\"" + extent}), "unknown", "bare descriptor"},
		{"without an equals sign", craft(1<<20, patch{0, "createType??monolithicFlat\"" + extent}), "unknown", "bare descriptor"},
		{"in another case", craft(1<<20, patch{0, "CREATETYPE=\"monolithicFlat\"" + extent}), "unknown", "bare descriptor"},
		{"as text", []byte("x\ncreateType=\"monolithicFlat\"" + extent), "text", "bare descriptor"},
		{"in a page, which stays one", []byte("<html>createType=\"monolithicFlat\"" + extent), "html", "bare descriptor"},
		{"at the end of 1 MiB", filled(1<<20 - len("createType")), "unknown", "bare descriptor"},
		{"behind 1 MiB", filled(1 << 20), "unknown", ""},
		{"behind a zero byte", craft(1<<20, patch{0, "x\x00createType=\"monolithicFlat\"" + extent}), "unknown", ""},
		{"in a boot sector of a disk", patched(sample("mbr"), patch{0, "createType"}), "mbr", "bare descriptor"},
	} {
		t.Run(test.why, func(t *testing.T) {
			expectSignature(t, identifyBytes(t, test.image), test.kinds, test.wants)
		})
	}
}

// A descriptor of 1 MiB ends one sector behind the prefix.
func TestDangersOfLongVMDKDescriptor(t *testing.T) {
	text := vmdkDescriptorText + strings.Repeat("\n", 1<<20-len(vmdkDescriptorText))
	safe := craft(3<<20, patch{0, string(craftVMDK(text)[:512])}, patch{36, le64(2048)}, patch{512, text})
	testDangers(t, "vmdk", safe, []dangerousCase{
		{"a line in the last sector", []patch{{1<<20 + 400, "RW 1 FLAT \"a\" 0\n"}}, "not part of it"},
		{"a line behind the last sector", []patch{{1<<20 + 512, "RW 1 FLAT \"a\" 0\n"}}, ""},
	})
}

func TestDangersOfVMDKFooters(t *testing.T) {
	stream := bytes.Clone(craftVMDK(strings.Replace(vmdkDescriptorText, "monolithicSparse", "streamOptimized", 1)))
	copy(stream[56:], le64(1<<64-1))
	header := string(stream[:512])
	safe := patched(stream, patch{-1536, le64(1) + le32(0) + le32(3)}, patch{-1024, header}, patch{-1024 + 56, le64(99)})
	testDangers(t, "vmdk", safe, []dangerousCase{
		{"another magic", []patch{{-1024, "leak"}}, "contradicts its header"},
		{"another version", []patch{{-1024 + 4, le32(2)}}, "contradicts its header"},
		{"another capacity", []patch{{-1024 + 12, le64(0)}}, "contradicts its header"},
		{"another place of the descriptor", []patch{{-1024 + 28, le64(2)}}, "contradicts its header"},
		{"another length of the descriptor", []patch{{-1024 + 36, le64(21)}}, "contradicts its header"},
		{"another footer", []patch{{-1024 + 56, le64(1<<64 - 1)}}, "refers to another one"},
		{"another type of marker", []patch{{-1536 + 12, le32(7)}}, "marker before its footer"},
		{"a marker with a size", []patch{{-1536 + 8, le32(1)}}, "marker before its footer"},
		{"a marker with something behind it", []patch{{-1536 + 16, "\x01"}}, "marker before its footer"},
		{"a marker with something at its end", []patch{{-1025, "\x01"}}, "marker before its footer"},
		{"an end with something at its end", []patch{{-1, "\x01"}}, "marker at its end"},
		{"another type of end", []patch{{-512 + 12, le32(7)}}, "marker at its end"},
		{"an end with a size", []patch{{-512 + 8, le32(1)}}, "marker at its end"},
		{"an end with something behind it", []patch{{-512 + 16, "\x01"}}, "marker at its end"},
	})
	expectSignature(t, identifyBytes(t, stream), "vmdk", "footer")
	expectSignature(t, identifyBytes(t, append(safe, 0)), "vmdk", "no footer at its end")
	expectSignature(t, identifyBytes(t, append(safe[:2<<10:2<<10], craft(2<<20, patch{-1536, string(safe[len(safe)-1536:])})...)), "vmdk", "")
	expectSignature(t, identifyBytes(t, stream[:1024]), "vmdk", "no footer at its end")
}
