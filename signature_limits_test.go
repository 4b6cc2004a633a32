// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"slices"
	"strings"
	"testing"
)

// What is just within, and just beyond, what makes a kind.

// What is like a kind, but is not.
func TestNearMisses(t *testing.T) {
	for _, test := range []struct {
		why, like string
		patch     patch
		want      string
	}{
		{"version 0", "qcow2", patch{4, be32(0)}, "unknown"},
		{"version 4", "qcow2", patch{4, be32(4)}, "unknown"},
		{"clusters of 256 bytes", "qcow2", patch{20, be32(8)}, "unknown"},
		{"clusters of 4 MiB", "qcow2", patch{20, be32(22)}, "unknown"},
		{"version 0", "qcow", patch{4, be32(0)}, "unknown"},
		{"clusters of 256 bytes", "qcow", patch{32, "\x08"}, "unknown"},
		{"clusters of 4 MiB", "qcow", patch{32, "\x16"}, "unknown"},
		{"version 4", "vmdk", patch{4, le32(4)}, "unknown"},
		{"version 3", "luks", patch{7, "\x03"}, "unknown"},
		{"no boot signature", "bitlocker", patch{510, "\xaa\x55"}, "unknown"},
		{"a terminator first", "iso9660", patch{32768, "\x03"}, "unknown"},
		{"no primary descriptor", "iso9660", patch{32768, "\xff"}, "unknown"},
		{"no NSR descriptor", "udf", patch{34817, "TEA01"}, "unknown"},
		{"the end of the sequence before an NSR descriptor", "udf", patch{34817, "TEA01" + string(make([]byte, 2043)) + "CD001" + string(make([]byte, 2043)) + "NSR02"}, "unknown"},
		{"a wrong sum", "gpt", patch{512 + 16, "\x00"}, "mbr"},
		{"a changed field", "gpt", patch{512 + 40, "\x01"}, "mbr"},
		{"LBA 2", "gpt", patch{512, gptHeader(92, 2)}, "mbr"},
		{"a short header", "gpt", patch{512, gptHeader(91, 1)}, "mbr"},
		{"a header longer than a sector", "gpt", patch{512, gptHeader(513, 1)}, "mbr"},
		{"revision 1.1", "gpt", patch{512, gptHeader(92, 1, patch{8, "\x01"})}, "mbr"},
		{"another magic and its sum", "gpt", patch{512, gptHeader(92, 1, patch{0, "EFI PARK"})}, "mbr"},
		{"no boot signature", "mbr", patch{511, "\xab"}, "unknown"},
		{"a wrong boot flag", "mbr", patch{446, "\x01"}, "unknown"},
		{"a wrong boot flag of an unused entry", "mbr", patch{446 + 48, "\x7f"}, "unknown"},
		{"type 0", "mbr", patch{450, "\x00"}, "unknown"},
		{"start 0, not to be booted", "mbr", mbrEntry(0, 0, 0x83, 0, 2048), "unknown"},
		{"length 0", "mbr", patch{458, le32(0)}, "unknown"},
		{"LVM1", "lvm", patch{512 + 24, "LVM1 001"}, "unknown"},
		{"version 0.90", "mdraid", patch{4100, le32(0)}, "unknown"},
		{"no jump", "vfat", patch{0, "\xea"}, "unknown"},
		{"sectors of 500 bytes", "vfat", patch{11, "\xf4\x01"}, "unknown"},
		{"sectors of 256 bytes", "vfat", patch{11, "\x00\x01"}, "unknown"},
		{"clusters of 3 sectors", "vfat", patch{13, "\x03"}, "unknown"},
		{"clusters of 0 sectors", "vfat", patch{13, "\x00"}, "unknown"},
		{"no FAT", "vfat", patch{16, "\x00"}, "unknown"},
		{"5 FATs", "vfat", patch{16, "\x05"}, "unknown"},
		{"no boot signature", "vfat", patch{510, "\x00"}, "unknown"},
		{"no boot signature", "exfat", patch{510, "\x00"}, "unknown"},
		{"no boot signature", "ntfs", patch{510, "\x00"}, "unknown"},
		{"blocks of 256 bytes", "xfs", patch{4, be32(256)}, "unknown"},
		{"blocks of 128 KiB", "xfs", patch{4, be32(128 << 10)}, "unknown"},
		{"blocks of 513 bytes", "xfs", patch{4, be32(513)}, "unknown"},
		{"version 3", "squashfs", patch{28, "\x03"}, "unknown"},
		{"blocks of 128 KiB", "ext", patch{1024 + 24, le32(7)}, "unknown"},
		{"a state of noise", "ext", patch{1024 + 58, "\x80"}, "unknown"},
		{"revision 2", "ext", patch{1024 + 76, le32(2)}, "unknown"},
		{"no blocks", "ext", patch{1024 + 4, le32(0)}, "unknown"},
		{"version 3", "hfsplus", patch{1027, "\x03"}, "unknown"},
		{"blocks of 0 bytes", "hfsplus", patch{1064, be32(0)}, "unknown"},
		{"blocks of 100 bytes", "apfs", patch{36, le32(100)}, "unknown"},
		{"level 0", "bzip2", patch{3, "0"}, "text"},
		{"level 10", "bzip2", patch{3, ":"}, "text"},
		{"no block", "bzip2", patch{4, "\x32"}, "text"},
		{"version 2", "lzip", patch{4, "\x02"}, "unknown"},
		{"an odd dictionary", "lzma", patch{1, le32(1<<23 + 1<<16)}, "unknown"},
		{"an odd dictionary of two bits", "lzma", patch{1, le32(1<<23 + 1<<21)}, "unknown"},
		{"a dictionary of three bits", "lzma", patch{1, le32(7 << 20)}, "unknown"},
		{"256 TiB", "lzma", patch{5, le64(1 << 48)}, "unknown"},
		{"a size of exabytes", "lzma", patch{5, le64(1 << 60)}, "unknown"},
		{"a range coder that starts with 1", "lzma", patch{13, "\x01"}, "unknown"},
		{"a wrong sum", "tar", patch{148, "0012345"}, "unknown"},
		{"no sum", "tar", patch{148, "........"}, "unknown"},
		{"a header with other characters", "cpio", patch{50, "g"}, "text"},
		{"another character behind the magic", "cpio", patch{6, "g"}, "text"},
		{"no zero behind the name", "cpio", patch{111, "b"}, "text"},
		{"another version", "dmg", patch{-505, "\x05"}, "unknown"},
		{"a magic one byte on", "xz", patch{0, "\x00\xfd7zXZ"}, "unknown"},
	} {
		if got := identifyBytes(t, patched(sample(test.like), test.patch)).String(); got != test.want {
			t.Errorf("%s with %s is %s, want %s", test.like, test.why, got, test.want)
		}
	}
}

// What is just within the limits of a kind is of that kind.
func TestLimitsOfKinds(t *testing.T) {
	for _, test := range []struct {
		why, kind string
		patches   []patch
	}{
		{"a partition of 2^24 sectors", "mbr", []patch{mbrEntry(0, 0x80, 0x83, 2048, 1<<24)}},
		{"clusters of 2 MiB", "qcow2", []patch{{20, be32(21)}}},
		{"clusters of 512 bytes", "qcow", []patch{{32, "\x09"}}},
		{"clusters of 2 MiB", "qcow", []patch{{32, "\x15"}}},
		{"sectors of 4 KiB", "vfat", []patch{{11, "\x00\x10"}}},
		{"clusters of one sector", "vfat", []patch{{13, "\x01"}}},
		{"clusters of 128 sectors", "vfat", []patch{{13, "\x80"}}},
		{"one FAT", "vfat", []patch{{16, "\x01"}}},
		{"4 FATs", "vfat", []patch{{16, "\x04"}}},
		{"a primary descriptor that is the last one looked at", "iso9660", []patch{{32768, strings.Repeat(string(craft(2048, patch{0, "\x02CD001"})), 15) + "\x01CD001"}}},
		{"blocks of 512 bytes", "xfs", []patch{{4, be32(512)}}},
		{"blocks of 64 KiB", "xfs", []patch{{4, be32(64 << 10)}}},
		{"blocks of 64 KiB", "ext", []patch{{1024 + 24, le32(6)}}},
		{"all known states", "ext", []patch{{1024 + 58, "\x27"}}},
		{"revision 0", "ext", []patch{{1024 + 76, le32(0)}}},
		{"8 blocks", "ext", []patch{{1024 + 4, le32(8)}}},
		{"2^32 blocks", "ext", []patch{{1024 + 4, le32(0)}, {1024 + 0x150, le32(1)}}},
		{"2^24 blocks", "ext", []patch{{1024 + 4, le32(1 << 24)}}},
		{"2^56 blocks", "ext", []patch{{1024 + 4, le32(0)}, {1024 + 0x150, le32(1 << 24)}}},
		{"blocks of 512 bytes", "hfsplus", []patch{{1064, be32(512)}}},
		{"blocks of 1 GiB", "hfsplus", []patch{{1064, be32(1 << 30)}}},
		{"blocks of 64 KiB", "apfs", []patch{{36, le32(64 << 10)}}},
		{"nearly 256 TiB", "lzma", []patch{{5, le64(1<<48 - 1)}}},
	} {
		image := patched(slices.Concat(sample(test.kind), make([]byte, 64<<10)), test.patches...)
		if got := identifyBytes(t, image).String(); got != test.kind {
			t.Errorf("%s with %s is %s", test.kind, test.why, got)
		}
	}
	// What is just beyond is not.
	iso := strings.Repeat(string(craft(2048, patch{0, "\x02CD001"})), 16) + "\x01CD001"
	skipped := strings.Repeat("\x50\x2a\x4d\x18\x00\x00\x00\x00", 5) + "\x28\xb5\x2f\xfd"
	name := func(digits string, n int) string {
		return "070701" + strings.Repeat("00000000", 11) + digits + "00000000" + strings.Repeat("a", n-1) + "\x00"
	}
	for image, want := range map[string]string{
		string(craft(128<<10, patch{32768, iso})):                              "unknown",
		string(craft(64<<10, patch{32768, "\x00CD001"}, patch{34816, "\x01"})): "unknown",
		string(sample("tar")[:511]):                                            "unknown",
		string(sample("lzma")[:13]):                                            "unknown",
		skipped:                                                                "unknown",
		name("00001000", 4096):                                                 "cpio",
		name("00001001", 4097):                                                 "text",
		name("10000002", 2):                                                    "text",
	} {
		if got := identifyBytes(t, []byte(image)).String(); got != want {
			t.Errorf("%d bytes, %.20q...: it is %s, want %s", len(image), image, got, want)
		}
	}
}
