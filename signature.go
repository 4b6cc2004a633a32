// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"io"
	"slices"
	"strconv"
	"strings"
)

// Notes on the design of signatures
//
// What an image is, is decided by its first MiB and, for footers, its last
// 1536 bytes. kindTable has a row for each kind: the magic bytes, and a
// function where they are not enough. All rows are tried, and all kinds that
// are found are reported in the order of the table, which puts the one first
// that tells most: what a program that opens the image would take it for.
// Text is what no row matches and a person can read (signature_text.go).
//
// Containers can name other files, which whoever opens them then reads. The
// checks for that have names and are listed by kind in safetyChecks
// (unsafe.go). They say no when in doubt: a header that contradicts itself,
// or leads out of the image, is not safe.

// A kind is what an image can be.
type kind struct {
	name, group string
}

// String is as in "qcow2 (container)".
func (k kind) String() string {
	if k.name == k.group {
		return k.name
	}
	return k.name + " (" + k.group + ")"
}

// Groups of kinds. The first three together are diskGroup.
const (
	partitionTable = "partition-table"
	filesystem     = "filesystem"
	volume         = "volume"
	container      = "container"
	compressed     = "compressed"
	archive        = "archive"
	textGroup      = "text"

	diskGroup = "disk"
)

var (
	htmlKind    = kind{"html", textGroup}
	xmlKind     = kind{"xml", textGroup}
	jsonKind    = kind{"json", textGroup}
	textKind    = kind{"text", textGroup}
	blankKind   = kind{"blank", "blank"}
	unknownKind = kind{"unknown", "unknown"}

	// rowlessKinds are the kinds that have no row in the table.
	rowlessKinds = []kind{htmlKind, xmlKind, jsonKind, textKind, blankKind, unknownKind}
)

// A magic is bytes at an offset, which counts from the end of the image if it
// is negative. Some kinds have no fixed bytes: with none, the row's function
// decides.
type magic struct {
	offset int64
	bytes  string
}

// A kindRow says how a kind is recognised: by any of its magics, and then by
// also, if there is one, which is given the offset of the magic.
type kindRow struct {
	kind
	magics []magic
	also   func(v *view, offset int64) bool
}

var kindTable = []kindRow{
	{kind{"qcow2", container}, []magic{{0, "QFI\xfb"}}, isQcow2},
	{kind{"qcow", container}, []magic{{0, "QFI\xfb"}}, isQcow},
	{kind{"qed", container}, []magic{{0, "QED\x00"}}, nil},
	{kind{"vmdk", container}, []magic{{0, "KDMV"}, {0, "COWD"}, {0, ""}}, isVMDK},
	{kind{"vdi", container}, []magic{{64, "\x7f\x10\xda\xbe"}}, nil},
	{kind{"vhdx", container}, []magic{{0, "vhdxfile"}}, nil},
	{kind{"vhd", container}, []magic{{0, "conectix"}, {-512, "conectix"}}, nil},
	{kind{"parallels", container}, []magic{{0, "WithoutFreeSpace"}, {0, "WithouFreSpacExt"}}, nil},
	{kind{"dmg", container}, []magic{{-512, "koly\x00\x00\x00\x04\x00\x00\x02\x00"}}, nil}, // version 4, 512 bytes

	{kind{"luks", volume}, []magic{{0, "LUKS\xba\xbe\x00\x01"}, {0, "LUKS\xba\xbe\x00\x02"}}, nil},
	{kind{"bitlocker", volume}, []magic{{3, "-FVE-FS-"}}, hasBootSignature},
	{kind{"iso9660", filesystem}, []magic{{32769, "CD001"}}, isISO9660},
	{kind{"udf", filesystem}, []magic{{32769, "BEA01"}, {32769, "CD001"}}, isUDF},
	{kind{"gpt", partitionTable}, []magic{{512, gptMagic}, {4096, gptMagic}}, isGPT},
	{kind{"mbr", partitionTable}, []magic{{510, bootSignature}}, isMBR},
	{kind{"lvm", volume}, []magic{{0, "LABELONE"}, {512, "LABELONE"}, {1024, "LABELONE"}, {1536, "LABELONE"}}, isLVM},
	{kind{"mdraid", volume}, []magic{{4096, "\xfc\x4e\x2b\xa9"}, {0, "\xfc\x4e\x2b\xa9"}}, isMDRaid},

	{kind{"vfat", filesystem}, []magic{{54, "FAT12"}, {54, "FAT16"}, {82, "FAT32"}}, isVFAT},
	{kind{"exfat", filesystem}, []magic{{3, "EXFAT   "}}, hasBootSignature},
	{kind{"ntfs", filesystem}, []magic{{3, "NTFS    "}}, hasBootSignature},
	{kind{"xfs", filesystem}, []magic{{0, "XFSB"}}, isXFS},
	{kind{"squashfs", filesystem}, []magic{{0, "hsqs"}}, isSquashfs},
	{kind{"ext", filesystem}, []magic{{1080, "\x53\xef"}}, isExt},
	{kind{"btrfs", filesystem}, []magic{{65600, "_BHRfS_M"}}, nil},
	{kind{"f2fs", filesystem}, []magic{{1024, "\x10\x20\xf5\xf2"}}, nil},
	{kind{"erofs", filesystem}, []magic{{1024, "\xe2\xe1\xf5\xe0"}}, nil},
	{kind{"hfsplus", filesystem}, []magic{{1024, "H+"}, {1024, "HX"}}, isHFSPlus},
	{kind{"apfs", filesystem}, []magic{{32, "NXSB"}}, isAPFS},
	{kind{"swap", filesystem}, []magic{
		{4086, "SWAPSPACE2"}, {8182, "SWAPSPACE2"}, {16374, "SWAPSPACE2"}, {32758, "SWAPSPACE2"}, {65526, "SWAPSPACE2"},
		{4086, "SWAP-SPACE"}, {8182, "SWAP-SPACE"}, {16374, "SWAP-SPACE"}, {32758, "SWAP-SPACE"}, {65526, "SWAP-SPACE"},
	}, nil},

	{kind{"xz", compressed}, []magic{{0, "\xfd7zXZ\x00"}}, nil},
	{kind{"gzip", compressed}, []magic{{0, gzipMagic}}, isGzip},
	{kind{"bzip2", compressed}, []magic{{0, "BZh"}}, isBzip2},
	{kind{"zstd", compressed}, []magic{{0, "\x28\xb5\x2f\xfd"}, {1, "\x2a\x4d\x18"}}, isZstd},
	// The second is that of lz4 -l.
	{kind{"lz4", compressed}, []magic{{0, "\x04\x22\x4d\x18"}, {0, "\x02\x21\x4c\x18"}}, nil},
	{kind{"lzip", compressed}, []magic{{0, "LZIP\x00"}, {0, "LZIP\x01"}}, nil}, // version 0 or 1
	{kind{"lzma", compressed}, []magic{{0, "\x5d\x00\x00"}}, isLZMA},

	{kind{"tar", archive}, []magic{{257, "ustar"}, {0, ""}}, isTar}, // that of Unix V7 has no magic
	{kind{"cpio", archive}, []magic{{0, "070701"}, {0, "070702"}, {0, "070707"}}, isCpio},
	{kind{"zip", archive}, []magic{{0, "PK\x03\x04"}}, nil},
	{kind{"7z", archive}, []magic{{0, "7z\xbc\xaf\x27\x1c"}}, nil},
	{kind{"rar", archive}, []magic{{0, "Rar!\x1a\x07"}}, nil},
}

// signature is what identify found out about an image.
type signature struct {
	kinds    []kind   // the most telling one first, at least one
	dangers  []string // clauses such as "qcow2 names a backing file"
	warnings []string // odd, but not dangerous
	head     string   // the first bytes, quoted, printable characters only
}

// identify looks at an image of size bytes. prefix is its first bytes, as
// many as there are up to prefixSize. r is asked for little beyond them: the
// last bytes, and what a container's header points to. The error is that of
// r.
func identify(prefix []byte, size int64, r io.ReaderAt) (signature, error) {
	v := newView(prefix, size, r)
	found := v.find()
	s := signature{head: quoteHead(v.prefix), warnings: v.warn(found), dangers: v.findDangers(found)}
	for _, f := range found {
		s.kinds = append(s.kinds, f.kind)
	}
	if len(found) == 0 {
		s.kinds = []kind{v.rowless()}
	}
	return s, v.err
}

// A finding is a kind that was found, and where its magic is.
type finding struct {
	kind
	offset int64
}

func (v *view) find() (found []finding) {
	for _, row := range kindTable {
		if at := v.places(row); len(at) > 0 {
			found = append(found, finding{row.kind, at[0]})
		}
	}
	return v.withoutContent(found)
}

// places returns the offsets at which a row matches.
func (v *view) places(row kindRow) (at []int64) {
	for _, m := range row.magics {
		if v.has(m.offset, m.bytes) && (row.also == nil || row.also(v, m.offset)) {
			at = append(at, m.offset)
		}
	}
	return at
}

// rowOf returns the row of a kind.
func rowOf(name string) kindRow {
	return kindTable[slices.IndexFunc(kindTable, func(row kindRow) bool { return row.name == name })]
}

func isFound(found []finding, name string) bool {
	return slices.ContainsFunc(found, func(f finding) bool { return f.name == name })
}

// rowless returns the kind of an image that no row matches.
func (v *view) rowless() kind {
	if k, ok := v.textKind(); ok {
		return k
	}
	if v.blank() {
		return blankKind
	}
	return unknownKind
}

// String lists the kinds, as in "iso9660, mbr".
func (s signature) String() string {
	var names []string
	for _, k := range s.kinds {
		names = append(names, k.name)
	}
	return strings.Join(names, ", ")
}

// quoteHead quotes the first bytes. Whatever they are, the result is one line
// of ASCII: a log must not be written by the image.
func quoteHead(prefix []byte) string {
	head := slices.Clone(prefix[:min(len(prefix), 48)])
	for i, b := range head {
		if b < ' ' || b > '~' {
			head[i] = '.'
		}
	}
	return strconv.Quote(string(head))
}

// kindNames returns all kinds, those of a group side by side.
func kindNames() (names []string) {
	for _, group := range groupNames() {
		names = append(names, kindsOf(group)...)
	}
	return names
}

// kindsOf returns the kinds of a group.
func kindsOf(group string) (names []string) {
	for _, row := range kindTable {
		if row.group == group {
			names = append(names, row.name)
		}
	}
	for _, k := range rowlessKinds {
		if k.group == group {
			names = append(names, k.name)
		}
	}
	return names
}

// groupNames returns all groups, but not diskGroup, which is made of them.
func groupNames() []string {
	return []string{partitionTable, filesystem, volume, container, compressed, archive, textGroup, blankKind.group, unknownKind.group}
}

// inGroup tells whether k is of that kind or group.
func (k kind) inGroup(name string) bool {
	return name == k.name || name == k.group ||
		name == diskGroup && (k.group == partitionTable || k.group == filesystem || k.group == volume)
}
