// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"fmt"
	"math"
	"regexp"
	"strings"
)

// VMDK, as in VMware's "Virtual Disk Format 5.0" and as block/vmdk.c of QEMU
// reads it. Numbers are little-endian, offsets and sizes are in sectors.
//
// A header (KDMV) is followed by a descriptor, a text whose extent lines name
// the files with the data; with createType monolithicSparse or
// streamOptimized that is the file itself. A bare descriptor is nothing but
// names of files.

const (
	vmdkFooterFollows = math.MaxUint64 // in place of the grain directory's offset
	vmdkMaxDescriptor = 1 << 20        // bytes
	vmdkParentSearch  = 20 * sectorSize
)

// vmdkHeaderFields are those of a header that lead elsewhere.
type vmdkHeaderFields struct {
	magic, version                         uint32
	capacity, descriptor, descriptorLength uint64
	grainDirectory                         uint64
}

func vmdkHeaderAt(v *view, at int64) vmdkHeaderFields {
	return vmdkHeaderFields{v.le32(at), v.le32(at + 4), v.le64(at + 12), v.le64(at + 28), v.le64(at + 36), v.le64(at + 56)}
}

func isVMDK(v *view, _ int64) bool {
	if v.has(0, "KDMV") || v.has(0, "COWD") {
		return v.le32(4) <= 3 // QEMU reads version 0 as it does 1
	}
	return isVMDKDescriptor(v)
}

// isVMDKDescriptor recognises what QEMU does, which is more than text: in the
// first sector, a line with a version behind comments and empty lines.
func isVMDKDescriptor(v *view) bool {
	if v.has(0, "# Disk DescriptorFile") {
		return true
	}
	rest := v.at(0, min(v.size, sectorSize))
	for len(rest) > 0 {
		line, behind, _ := bytes.Cut(rest, []byte("\n"))
		switch blank := len(bytes.Trim(line, " \r")) == 0; {
		case line != nil && blank, bytes.HasPrefix(line, []byte("#")):
			rest = behind
		default:
			switch string(bytes.ToLower(bytes.TrimSuffix(line, []byte("\r")))) {
			case "version=1", "version=2", "version=3":
				return true
			}
			return false
		}
	}
	return false
}

// hiddenDescriptor looks for a createType in what is no VMDK by its start. A
// program that does not probe, but is told that it is a VMDK, wants no more
// than that of a descriptor: vmdk_open in QEMU, in all versions since 2011,
// searches for the word in the text before the first zero byte of the first
// MiB, skips two bytes that may be any, and then opens the extents. Of the
// other formats that can name files (qcow, qcow2, QED) the opener wants the
// magic that the probe wants.
//
// The kind stays what it was: a page that is refused as such must not become
// a container. Disks have a zero byte long before they have this word.
func (v *view) hiddenDescriptor(found []finding) string {
	text, _, _ := bytes.Cut(v.at(0, min(v.size, vmdkMaxDescriptor)), []byte{0})
	if isFound(found, "vmdk") || !bytes.Contains(lowerASCII(text), []byte("createtype")) {
		return ""
	}
	return "it has a createType and so can be opened as a bare descriptor of a vmdk, whose data is in other files"
}

// lowerASCII is bytes.ToLower for what may be no text, which that takes long
// for.
func lowerASCII(p []byte) []byte {
	p = bytes.Clone(p)
	for i, b := range p {
		if b >= 'A' && b <= 'Z' {
			p[i] = b + 'a' - 'A'
		}
	}
	return p
}

// vmdkHeader looks for images that are but a part.
func vmdkHeader(v *view) string {
	h := vmdkHeaderAt(v, 0)
	switch {
	case v.has(0, "COWD"):
		return "vmdk is a sparse extent of ESX, whose descriptor is another file"
	case !v.has(0, "KDMV"):
		return "vmdk is a bare descriptor, whose data is in other files"
	case h.capacity == 0:
		return "vmdk has no capacity, so that the extents that it names are opened"
	case h.descriptor != 1:
		return fmt.Sprintf("vmdk has its descriptor at sector %d, not 1", h.descriptor)
	case h.descriptorLength == 0:
		return "vmdk has no descriptor"
	case h.descriptorLength > vmdkMaxDescriptor/sectorSize:
		return "vmdk has a descriptor of more than 1 MiB"
	case !v.inside(sectorSize, h.descriptorLength*sectorSize):
		return "vmdk has a descriptor that reaches beyond the image"
	}
	return ""
}

// vmdkText returns the descriptor in lower case, up to its first zero byte,
// as programs in C read it. Its length is that of the header, or what QEMU
// searches for a parent, whichever is more.
func vmdkText(v *view) string {
	at, length := int64(0), int64(vmdkMaxDescriptor)
	if v.has(0, "KDMV") || v.has(0, "COWD") {
		at, length = sectorSize, vmdkParentSearch
		if n := vmdkHeaderAt(v, 0).descriptorLength; n <= vmdkMaxDescriptor/sectorSize {
			length = max(length, int64(n)*sectorSize)
		}
	}
	text, _, _ := bytes.Cut(v.at(at, min(length, v.size-at)), []byte{0})
	return string(bytes.ToLower(text))
}

// vmdkIsExtent tells whether a line of the descriptor is that of an extent,
// whatever stands between its words.
func vmdkIsExtent(line string) bool {
	for access := range strings.FieldsSeq(line) {
		return access == "rw" || access == "rdonly" || access == "noaccess"
	}
	return false
}

// vmdkExtentName returns what stands in front of the name in the line of an
// extent, the name, and what is behind it.
func vmdkExtentName(line string) (before, name, behind string, quoted bool) {
	before, name, _ = strings.Cut(line, `"`)
	name, behind, quoted = strings.Cut(name, `"`)
	return before, name, behind, quoted
}

// vmdkWords returns the descriptor without the names of extents, so that a
// file can be called createType.vmdk. A program that searches for the word must
// find that of the header, which has to come first, and one that goes by lines
// must find no line or assignment in the name, however it ends lines.
func vmdkWords(text string) string {
	harmless := func(name string) bool {
		return !strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r > '~' || r == '=' })
	}
	if strings.Count(text, "createtype") < 2 && strings.Count(text, "parentcid") < 2 {
		return text
	}
	var words strings.Builder
	hasType, hasParent := false, false
	for line := range strings.Lines(text) {
		if hasType && hasParent && vmdkIsExtent(line) {
			if before, name, behind, quoted := vmdkExtentName(line); quoted && harmless(name) {
				line = before + `""` + behind
			}
		}
		hasType = hasType || strings.Contains(line, "createtype")
		hasParent = hasParent || strings.Contains(line, "parentcid")
		words.WriteString(line)
	}
	return words.String()
}

// vmdkProtocol is what can be the name of a protocol, or the letter of a drive
// of Windows, in front of a colon. In "2026-01-01T10:00.vmdk" there is none.
var vmdkProtocol = regexp.MustCompile(`^\s*([a-z][a-z0-9+._-]*)?\s*:`)

// vmdkIsPath tells whether a name is more than that of a file beside the image.
// VMware writes some characters as | and their number.
func vmdkIsPath(name string) bool {
	return strings.ContainsAny(name, `/\|`) || strings.Contains(name, ":") && vmdkProtocol.MatchString(name)
}

// vmdkDescriptor wants lines that a descriptor has and no others, and says
// what is wrong with the type. A word of the header that stands a second
// time, be it in a comment, may be the one that another program finds.
func vmdkDescriptor(v *view) string {
	if vmdkHeader(v) != "" {
		return "" // said already
	}
	text := vmdkText(v)
	createType := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		key, value, assigned := strings.Cut(line, "=")
		key = strings.TrimSpace(key)
		access, _, _ := strings.Cut(line, " ")
		switch {
		case line == "" || line[0] == '#' || strings.HasPrefix(line, "ddb."):
		case access == "rw" || access == "rdonly" || access == "noaccess":
		case !assigned || strings.ContainsAny(key, " \t"):
			return "vmdk has a line in its descriptor that is none of a descriptor's: " + quoteHead([]byte(line))
		case key == "changetrackpath" && vmdkIsPath(strings.Trim(value, "\" \t\r\n")):
			return "vmdk has change tracking that names a path: " + quoteHead([]byte(strings.TrimSpace(value))) // VMware opens it
		case key == "createtype":
			createType = strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
	switch {
	case createType != "monolithicsparse" && createType != "streamoptimized":
		return fmt.Sprintf("vmdk has the createType %s, which is neither monolithicSparse nor streamOptimized", quoteHead([]byte(createType)))
	case strings.Count(vmdkWords(text), "createtype") > 1:
		return "vmdk has more than one createType"
	}
	return ""
}

// vmdkParent wants the name of a parent nowhere, not even in that of an extent:
// nothing stands in front of it that would be found first, and QEMU would take
// the lines behind it for a name.
func vmdkParent(v *view) string {
	text := vmdkText(v)
	if strings.Contains(text, "parentfilenamehint") {
		return "vmdk names a parent"
	}
	text = vmdkWords(text)
	for {
		_, behind, ok := strings.Cut(text, "parentcid")
		if !ok {
			return ""
		}
		text = behind
		value := strings.Trim(behind[:min(len(behind), 16)], " \t=\"")
		if !strings.HasPrefix(value, "ffffffff") {
			return "vmdk has a parent"
		}
	}
}

// vmdkExtents wants one extent, the file itself, whose name cannot be a path
// or the name of a protocol and what follows it.
func vmdkExtents(v *view) string {
	if vmdkHeader(v) != "" {
		return ""
	}
	extents := 0
	for line := range strings.Lines(vmdkText(v)) {
		if !vmdkIsExtent(line) {
			continue
		}
		extents++
		fields := strings.Fields(line)
		before, name, behind, quoted := vmdkExtentName(line)
		switch {
		case len(fields) < 4 || fields[2] != "sparse" || !quoted:
			return "vmdk has an extent that is not part of it: " + quoteHead([]byte(strings.TrimSpace(line)))
		case vmdkIsPath(name) || strings.ContainsAny(before+behind, `/\`):
			return "vmdk has an extent that names a path: " + quoteHead([]byte(strings.TrimSpace(name)))
		}
	}
	if extents != 1 {
		return fmt.Sprintf("vmdk names %d extents, not one", extents)
	}
	return ""
}

// vmdkFooter looks at the last three sectors of a stream: a marker, the
// footer, which stands for the header, and the end-of-stream marker.
func vmdkFooter(v *view) string {
	const footerMarker, endOfStream = 3, 0
	header := vmdkHeaderAt(v, 0)
	if !v.has(0, "KDMV") || header.grainDirectory != vmdkFooterFollows {
		return ""
	}
	at := v.size - 3*sectorSize
	if at < sectorSize || v.size%sectorSize != 0 {
		return "vmdk has no footer at its end"
	}
	footer := vmdkHeaderAt(v, at+sectorSize)
	if footer.grainDirectory == vmdkFooterFollows {
		return "vmdk has a footer that refers to another one"
	}
	footer.grainDirectory = header.grainDirectory
	if footer != header {
		return "vmdk has a footer that contradicts its header"
	}
	marker, end := v.at(at, sectorSize), v.at(at+2*sectorSize, sectorSize)
	if marker == nil || v.le32(at+8) != 0 || v.le32(at+12) != footerMarker || !isZero(marker[16:]) {
		return "vmdk has an invalid marker before its footer"
	}
	if end == nil || v.le32(at+2*sectorSize+12) != endOfStream || !isZero(end) {
		return "vmdk has an invalid marker at its end"
	}
	return ""
}
