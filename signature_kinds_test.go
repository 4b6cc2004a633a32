// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"testing"
)

// A patch puts bytes at an offset of an image, from the end if it is
// negative.
type patch struct {
	offset int
	bytes  string
}

func patched(image []byte, patches ...patch) []byte {
	image = bytes.Clone(image)
	for _, p := range patches {
		if p.offset < 0 {
			p.offset += len(image)
		}
		copy(image[p.offset:], p.bytes)
	}
	return image
}

func craft(size int, patches ...patch) []byte { return patched(make([]byte, size), patches...) }

func le32(n uint32) string { return string(binary.LittleEndian.AppendUint32(nil, n)) }
func le64(n uint64) string { return string(binary.LittleEndian.AppendUint64(nil, n)) }
func be32(n uint32) string { return string(binary.BigEndian.AppendUint32(nil, n)) }
func be64(n uint64) string { return string(binary.BigEndian.AppendUint64(nil, n)) }

// gptHeader returns a header with a valid sum.
func gptHeader(size int, lba uint64, patches ...patch) string {
	h := patched(craft(size, patch{0, "EFI PART" + le32(0x10000) + le32(uint32(size))}, patch{24, le64(lba)}), patches...)
	copy(h[16:], le32(crc32.ChecksumIEEE(h)))
	return string(h)
}

// mbrEntry returns entry n of an MBR as a patch.
func mbrEntry(n int, flag, kind byte, start, length uint32) patch {
	return patch{446 + 16*n, string([]byte{flag, 0, 2, 0, kind, 0, 0, 0}) + le32(start) + le32(length)}
}

var (
	signed    = patch{510, "\x55\xaa"}
	linux     = mbrEntry(0, 0x80, 0x83, 2048, 2048)
	pmbr      = mbrEntry(0, 0, 0xee, 1, 0xffffffff)
	fatFields = patch{0, "\xeb\x3c\x90mkfs.fat\x00\x02\x04\x01\x00\x02"} // 512-byte sectors, clusters of 4, 2 FATs
	gptAt512  = patch{512, gptHeader(92, 1)}
	gptAt4096 = patch{4096, gptHeader(92, 1)}
	primary   = patch{32768, "\x01CD001\x01"}

	tarHeader = patch{0, string(tarOf("file"))}
)

// tarOf returns the header of a file with this name.
func tarOf(name string) []byte {
	h := craft(512, patch{0, name}, patch{148, "        "}, patch{257, "ustar"})
	sum := 0
	for _, b := range h {
		sum += int(b)
	}
	return patched(h, patch{148, fmt.Sprintf("%06o\x00 ", sum)})
}

// samples has an image for each kind, and for each way to recognise it.
var samples = []struct {
	kind  string
	image []byte
}{
	{"qcow2", craft(4096, patch{0, "QFI\xfb" + be32(2)}, patch{20, be32(16)})},
	{"qcow2", craft(4096, patch{0, "QFI\xfb" + be32(3)}, patch{20, be32(9)}, patch{100, be32(104)})},
	{"qcow", craft(4096, patch{0, "QFI\xfb" + be32(1)}, patch{32, "\x0c"})},
	{"qed", craft(4096, patch{0, "QED\x00"})},
	{"vmdk", craft(4096, patch{0, "KDMV" + le32(3)})},
	{"vmdk", craft(4096, patch{0, "KDMV" + le32(0)})},
	{"vmdk", craft(4096, patch{0, "COWD" + le32(1)})},
	{"vmdk", []byte("# Disk DescriptorFile\nversion=1\n")},
	{"vmdk", []byte("\nversion=1\n")},
	{"vmdk", []byte("#\nVersion=3")},
	{"vmdk", []byte("#\xff\x00 any comment\r\n  \r\nversion=2\r\n" + strings.Repeat("\x00", 700))},
	{"vdi", craft(4096, patch{0, "<<< Oracle VM VirtualBox Disk Image >>>\n"}, patch{64, "\x7f\x10\xda\xbe"})},
	{"vhdx", craft(4096, patch{0, "vhdxfile"})},
	{"vhd", craft(4096, patch{0, "conectix"})},
	{"vhd", craft(4096, patch{-512, "conectix"})},
	{"vhd", craft(3<<20, patch{-512, "conectix"})},
	{"parallels", craft(4096, patch{0, "WithoutFreeSpace"})},
	{"parallels", craft(4096, patch{0, "WithouFreSpacExt"})},
	{"dmg", craft(4096, patch{-512, "koly\x00\x00\x00\x04\x00\x00\x02\x00"})},
	{"luks", craft(4096, patch{0, "LUKS\xba\xbe\x00\x01"})},
	{"luks", craft(4096, patch{0, "LUKS\xba\xbe\x00\x02"})},
	{"bitlocker", craft(4096, patch{0, "\xeb\x58\x90-FVE-FS-"}, signed)},
	{"iso9660", craft(64<<10, primary)},
	{"iso9660", craft(64<<10, patch{32768, "\x00CD001"}, patch{34816, "\x01CD001"})},
	{"iso9660", craft(64<<10, patch{32768, "\x02CD001"}, patch{34816, "\xffCD001"}, patch{36864, "\x01CD001"})},
	{"iso9660", craft(64<<10, patch{32768, "\xffCD001"}, patch{34816, "\x01CD001"})},
	{"udf", craft(64<<10, patch{32769, "BEA01"}, patch{34817, "NSR02"})},
	{"udf", craft(64<<10, patch{32769, "BEA01"}, patch{36865, "NSR03"})},
	{"udf", craft(64<<10, patch{32769, "BEA01"}, patch{40961, "NSR03"})}, // blocks of 8 KiB
	{"udf", craft(64<<10, patch{32769, "BEA01"}, patch{49153, "NSR03"})},
	{"udf", craft(96<<10, patch{32769, "BEA01"}, patch{65537, "NSR03"})},
	{"udf", craft(64<<10, patch{32769, "BEA01"}, patch{34817, "BOOT2"}, patch{36865, "CDW02"}, patch{38913, "NSR02"})},
	{"gpt", craft(4096, pmbr, signed, gptAt512)},
	{"gpt", craft(8192, pmbr, signed, gptAt4096)},
	{"gpt", craft(8192, pmbr, signed, patch{4096, gptHeader(4096, 1)})},
	{"mbr", craft(4096, linux, signed)},
	{"mbr", craft(4096, pmbr, signed)},
	{"mbr", craft(4096, mbrEntry(3, 0, 7, 1, 1), signed)},
	{"mbr", craft(4096, mbrEntry(0, 0x80, 0x17, 0, 2048), signed)}, // isohybrid's
	// from a file on which pvcreate 2.03.16 was run
	{"lvm", craft(4096, patch{512, "LABELONE\x01\x00\x00\x00\x00\x00\x00\x00\x0f\x29\x89\x93\x20\x00\x00\x00LVM2 001"})},
	{"lvm", craft(4096, patch{0, "LABELONE"}, patch{24, "LVM2 001"})},
	{"lvm", craft(4096, patch{1024, "LABELONE"}, patch{1048, "LVM2 001"})},
	{"lvm", craft(4096, patch{1536, "LABELONE"}, patch{1560, "LVM2 001"})},
	{"mdraid", craft(8192, patch{4096, "\xfc\x4e\x2b\xa9\x01\x00\x00\x00"})},
	{"mdraid", craft(8192, patch{0, "\xfc\x4e\x2b\xa9\x01\x00\x00\x00"})},
	{"vfat", craft(4096, fatFields, patch{54, "FAT12   "}, signed)},
	{"vfat", craft(4096, fatFields, patch{54, "FAT16   "}, signed)},
	{"vfat", craft(4096, fatFields, patch{0, "\xe9"}, patch{82, "FAT32   "}, signed)},
	{"exfat", craft(4096, patch{3, "EXFAT   "}, signed)},
	{"ntfs", craft(4096, patch{3, "NTFS    "}, signed)},
	{"xfs", craft(4096, patch{0, "XFSB" + be32(4096)})},
	{"squashfs", craft(4096, patch{0, "hsqs"}, patch{28, "\x04\x00"})},
	{"ext", craft(4096, patch{1024 + 4, le32(8192)}, patch{1080, "\x53\xef\x01\x00"}, patch{1024 + 76, le32(1)})},
	{"btrfs", craft(128<<10, patch{65600, "_BHRfS_M"})},
	{"f2fs", craft(4096, patch{1024, "\x10\x20\xf5\xf2"})},
	{"erofs", craft(4096, patch{1024, "\xe2\xe1\xf5\xe0"})},
	{"hfsplus", craft(4096, patch{1024, "H+\x00\x04"}, patch{1064, be32(4096)})},
	{"hfsplus", craft(4096, patch{1024, "HX\x00\x05"}, patch{1064, be32(4096)})},
	// as mkapfs of apfsprogs writes it
	{"apfs", craft(4096, patch{0, "\xb0\xb9\x09\x3d\x90\x5f\xb7\x35\x01"}, patch{32, "NXSB" + le32(4096)})},
	{"swap", craft(4096, patch{4086, "SWAPSPACE2"})},
	{"swap", craft(4096, patch{4086, "SWAP-SPACE"})},
	{"swap", craft(128<<10, patch{8182, "SWAPSPACE2"})},
	{"swap", craft(128<<10, patch{16374, "SWAPSPACE2"})},
	{"swap", craft(128<<10, patch{32758, "SWAPSPACE2"})},
	{"swap", craft(128<<10, patch{65526, "SWAPSPACE2"})},
	{"swap", craft(128<<10, patch{8182, "SWAP-SPACE"})},
	{"swap", craft(128<<10, patch{16374, "SWAP-SPACE"})},
	{"swap", craft(128<<10, patch{32758, "SWAP-SPACE"})},
	{"swap", craft(128<<10, patch{65526, "SWAP-SPACE"})},
	{"xz", craft(64, patch{0, "\xfd7zXZ\x00"})},
	{"gzip", craft(64, patch{0, "\x1f\x8b\x08"})},
	{"bzip2", craft(64, patch{0, "BZh9\x31\x41\x59\x26\x53\x59"})},
	{"bzip2", []byte("BZh1\x17\x72\x45\x38\x50\x90\x00\x00\x00\x00")}, // of nothing
	{"zstd", craft(64, patch{0, "\x28\xb5\x2f\xfd"})},
	{"zstd", []byte(strings.Repeat("\x5f\x2a\x4d\x18\x03\x00\x00\x00abc", 4) + "\x28\xb5\x2f\xfd")},
	{"lz4", craft(64, patch{0, "\x04\x22\x4d\x18"})},
	{"lzip", craft(64, patch{0, "LZIP\x00\x17"})},
	{"lzip", craft(64, patch{0, "LZIP\x01\x17"})},
	{"lzma", craft(64, patch{0, "\x5d" + le32(1<<23) + le64(1<<64-1)})},
	{"lzma", craft(64, patch{0, "\x5d" + le32(3<<20) + le64(123456)})},
	{"lzma", craft(14, patch{0, "\x5d" + le32(1<<16) + le64(1<<64-1)})},
	{"tar", craft(4096, tarHeader)},
	{"cpio", []byte("070701" + strings.Repeat("0a0F0c0d", 11) + "0000000200000000" + "a\x00")},
	{"cpio", []byte("070702" + strings.Repeat("00000000", 11) + "0000000B00000000" + "TRAILER!!!\x00")},
	{"cpio", []byte("070701" + strings.Repeat("00000000", 11) + "0000001000000000" + strings.Repeat("a", 15) + "\x00")},
	{"cpio", []byte("070707" + strings.Repeat("070707", 7) + "07070707070" + "000002" + "00000000000" + "a\x00")},
	{"cpio", []byte("070707" + strings.Repeat("070707", 7) + "07070707077" + "000010" + "00000000000" + "aaaaaaa\x00")},
	{"zip", craft(64, patch{0, "PK\x03\x04"})},
	{"7z", craft(64, patch{0, "7z\xbc\xaf\x27\x1c"})},
	{"rar", craft(64, patch{0, "Rar!\x1a\x07"})},
	{"html", []byte("<html>")},
	{"xml", []byte("<Error>")},
	{"json", []byte("{}")},
	{"text", []byte("not found\n")},
	{"blank", make([]byte, 2<<20)},
	{"blank", nil},
	{"unknown", []byte{1}},
}

func sample(kind string) []byte {
	for _, s := range samples {
		if s.kind == kind {
			return s.image
		}
	}
	panic(kind)
}

func TestEveryKindIsRecognised(t *testing.T) {
	missing := kindNames()
	for _, s := range samples {
		if got := identifyBytes(t, s.image).String(); got != s.kind {
			t.Errorf("%s, % x...: it is %s", s.kind, s.image[:min(len(s.image), 40)], got)
		}
		missing = slices.DeleteFunc(missing, func(kind string) bool { return kind == s.kind })
	}
	if len(missing) > 0 {
		t.Errorf("there is no sample of %v", missing)
	}
}

// An image that is cut off anywhere is another kind or the same, and there is
// no panic.
func TestEveryKindCutOff(t *testing.T) {
	t.Parallel()
	for _, s := range samples {
		for n := range min(len(s.image), 2048) {
			identifyBytes(t, s.image[:n])
			identifyBytes(t, s.image[:len(s.image)-n])
		}
	}
}

// A tar whose sum was taken of signed bytes, as those of old programs, or of unsigned
// ones, and may take all of its field between other digits.
func TestTarWithSignedSum(t *testing.T) {
	h := craft(512, patch{0, "\xff\xff"}, patch{136, "777777777777"}, patch{148, "        7"}, patch{257, "ustar"})
	sum, signed := 0, 0
	for _, b := range h {
		sum += int(b)
		signed += int(int8(b))
	}
	for _, n := range []int{sum, signed} {
		for _, form := range []string{"%06o\x00 ", "%08o"} {
			expectSignature(t, identifyBytes(t, patched(h, patch{148, fmt.Sprintf(form, n)})), "tar", "")
		}
	}
}

// More than one kind applies, or seems to.
func TestAmbiguousImages(t *testing.T) {
	iso := craft(128<<10, primary)
	ext := sample("ext")
	for _, test := range []struct {
		why   string
		image []byte
		want  string
	}{
		{"a hybrid ISO is booted from a stick, but mounted as an ISO", patched(iso, linux, signed), "iso9660, mbr"},
		{"so is one with a GPT, whose MBR is protective", patched(iso, pmbr, signed, gptAt512), "iso9660, gpt"},
		{"a GPT with a hybrid MBR is read by its GPT first",
			craft(8192, pmbr, mbrEntry(1, 0, 7, 40, 40), signed, gptAt512), "gpt, mbr"},
		{"a protective MBR stands for its GPT", sample("gpt"), "gpt"},
		{"a protective MBR without a GPT is what is left of one", craft(4096, pmbr, signed), "mbr"},
		{"a FAT's boot sector ends as an MBR does, and has code where the entries are",
			patched(sample("vfat"), patch{446, "\xb4\x0e\xcd\x10"}), "vfat"},
		{"a FAT on a stick may have entries as well", patched(sample("vfat"), linux), "vfat"},
		{"so may a FAT16", patched(sample("vfat"), patch{54, "FAT16   "}, linux), "vfat"},
		{"and a FAT32", patched(sample("vfat"), patch{54, "        "}, patch{82, "FAT32   "}, linux), "vfat"},
		{"the letters FAT16 in the boot code of an MBR are not a FAT", craft(4096, patch{54, "FAT16   "}, linux, signed), "mbr"},
		{"boot code may begin as a FAT does", craft(4096, fatFields, linux, signed), "mbr"},
		{"an NTFS is no MBR, even with entries", patched(sample("ntfs"), linux), "ntfs"},
		{"an exFAT is no MBR, even with entries", patched(sample("exfat"), linux), "exfat"},
		{"nor is BitLocker", patched(sample("bitlocker"), linux), "bitlocker"},
		{"an MBR over a filesystem: the disk was partitioned later, or the filesystem is in the gap",
			patched(ext, linux, signed), "mbr, ext"},
		{"boot code without partitions before a filesystem", patched(ext, signed), "ext"},
		{"a bridge disc: the ISO 9660 names the disc, the UDF may hold more",
			craft(128<<10, primary, patch{34816, "\xffCD001"}, patch{36865, "BEA01"}, patch{38913, "NSR02"}), "iso9660, udf"},
		{"an NSR descriptor without its beginning is none", patched(iso, patch{34817, "NSR02"}), "iso9660"},
		{"a swap that mke2fs did not wipe", patched(ext, patch{4086, "SWAPSPACE2"}), "ext, swap"},
		{"a RAID member with a stale MBR", patched(sample("mdraid"), linux, signed), "mbr, mdraid"},
		{"a VHD of fixed size with an MBR in it", patched(sample("mbr"), patch{-512, "conectix"}, patch{-452, be32(2)}), "vhd, mbr"},
		{"a DMG starts with a compressed block", patched(sample("dmg"), patch{0, "BZh9\x31\x41\x59\x26\x53\x59"}), "dmg, bzip2"},
		{"blank but for a footer", sample("vhd"), "vhd"},
		{"a descriptor is text, but says what it is", []byte("# Disk DescriptorFile\n"), "vmdk"},
		{"zeros, and one byte in the middle", craft(4096, patch{2000, "x"}), "unknown"},
		{"zeros, and one byte at the end", craft(3<<20, patch{-1, "x"}), "unknown"},
		{"zeros, and something behind the first MiB, which is not looked at", craft(3<<20, patch{2 << 20, "x"}), "blank"},
	} {
		if got := identifyBytes(t, test.image).String(); got != test.want {
			t.Errorf("%s: it is %s, want %s", test.why, got, test.want)
		}
	}
}

func TestWarnings(t *testing.T) {
	for _, test := range []struct {
		why   string
		image []byte
		want  string
	}{
		{"a good GPT", sample("gpt"), ""},
		{"a good MBR", sample("mbr"), ""},
		{"another entry", craft(8192, pmbr, mbrEntry(1, 0, 7, 40, 40), signed, gptAt512), "other entries"},
		{"two protective entries", craft(8192, pmbr, mbrEntry(1, 0, 0xee, 1, 40), signed, gptAt512), "other entries"},
		{"it starts at sector 2", craft(8192, mbrEntry(0, 0, 0xee, 2, 40), signed, gptAt512), "at sector 2, not 1"},
		{"no partition", craft(8192, signed, gptAt512), "no partition at all"},
		{"an MBR of its own", craft(8192, linux, signed, gptAt512), "no protective one"},
		{"no MBR", craft(8192, gptAt512), "no protective MBR"},
		{"a FAT, which has code where the entries are", patched(sample("vfat"), patch{446, "\xb4"}), ""},
		{"a boot flag that is wrong in its last bit", craft(8192, pmbr, mbrEntry(1, 1, 0, 0, 0), signed, gptAt512), "boot flag 0x01"},
		{"a wrong boot flag", craft(8192, pmbr, mbrEntry(1, 0x0a, 0, 0, 0), signed, gptAt512), "entry 2 of the MBR has the boot flag 0x0a"},
		{"no GPT", craft(8192, pmbr, signed), "no valid GPT"},
		{"LUKS", sample("luks"), "luks is encrypted"},
		{"BitLocker", sample("bitlocker"), "bitlocker is encrypted"},
		{"a qcow2", sample("qcow2"), ""},
		{"a qcow2 with LUKS", patched(sample("qcow2"), patch{32, be32(2)}), "qcow2 is encrypted"},
		{"a qcow", sample("qcow"), ""},
		{"a qcow with AES", patched(sample("qcow"), patch{36, be32(1)}), "qcow is encrypted"},
	} {
		warnings := identifyBytes(t, test.image).warnings
		got := strings.Join(warnings, "; ")
		if test.want == "" && got != "" || !strings.Contains(got, test.want) || len(warnings) > 1 {
			t.Errorf("%s: the warnings are %q, want %q", test.why, got, test.want)
		}
	}
}
