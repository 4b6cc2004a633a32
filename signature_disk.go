// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/bits"
)

// What magic bytes alone do not tell of partition tables, filesystems and
// volumes. The terms are those of the UEFI specification, ECMA-119 (ISO
// 9660), ECMA-167 (UDF), Microsoft's FAT specification, and Linux's headers.

const (
	bootSignature = "\x55\xaa" // at 510
	gptMagic      = "EFI PART"
	sectorSize    = 512
)

func hasBootSignature(v *view, _ int64) bool { return v.has(510, bootSignature) }

func powerOfTwo(n, least, most uint32) bool {
	return bits.OnesCount32(n) == 1 && n >= least && n <= most
}

// isGPT looks at the header in the second sector, which is as large as its
// offset says.
func isGPT(v *view, offset int64) bool {
	size := int64(v.le32(offset + 12))
	if v.le32(offset+8) != 0x00010000 || size < 92 || size > offset || v.le64(offset+24) != 1 {
		return false
	}
	header := v.at(offset, size)
	if header == nil {
		return false
	}
	crc := crc32.ChecksumIEEE(header[:16])
	crc = crc32.Update(crc, crc32.IEEETable, []byte{0, 0, 0, 0}) // the field of the sum
	crc = crc32.Update(crc, crc32.IEEETable, header[20:])
	return crc == binary.LittleEndian.Uint32(header[16:])
}

func hasGPT(v *view) bool {
	for _, offset := range []int64{512, 4096} {
		if v.has(offset, gptMagic) && isGPT(v, offset) {
			return true
		}
	}
	return false
}

// A partition is one of the four entries of an MBR.
type partition struct {
	flag, kind    byte
	start, length uint32 // sectors
}

const protective = 0xee // the type of an entry that covers a GPT

func (v *view) partitions() (p [4]partition) {
	for i := range p {
		at := int64(446 + 16*i)
		p[i] = partition{v.u8(at), v.u8(at + 4), v.le32(at + 8), v.le32(at + 12)}
	}
	return p
}

// isMBR tells a partition table from the boot sector of a filesystem, which ends in the
// same two bytes. A partition that begins at 0 is to be booted: those of isohybrid and of
// FreeBSD's whole disks are.
func isMBR(v *view, _ int64) bool {
	boot := v.has(3, "NTFS    ") || v.has(3, "EXFAT   ") || v.has(3, "-FVE-FS-")
	if boot || hasFATName(v) && hasFATGeometry(v) {
		return false
	}
	used, others := 0, 0
	for _, p := range v.partitions() {
		if p.flag&0x7f != 0 {
			return false
		}
		if p.kind != 0 && p.length != 0 && (p.start != 0 || p.flag != 0) {
			used++
			if p.kind != protective {
				others++
			}
		}
	}
	return used > 0 && (others > 0 || !hasGPT(v))
}

func hasFATName(v *view) bool { return v.has(54, "FAT12") || v.has(54, "FAT16") || v.has(82, "FAT32") }

func hasFATGeometry(v *view) bool {
	jump, fats := v.u8(0), v.u8(16)
	return (jump == 0xeb || jump == 0xe9) &&
		powerOfTwo(uint32(v.le16(11)), 512, 4096) && // bytes in a sector
		powerOfTwo(uint32(v.u8(13)), 1, 128) && // sectors in a cluster
		fats >= 1 && fats <= 4
}

func isVFAT(v *view, offset int64) bool { return hasBootSignature(v, offset) && hasFATGeometry(v) }

// isISO9660 wants a primary volume descriptor, first or behind others.
func isISO9660(v *view, _ int64) bool {
	switch v.u8(32768) {
	case 1:
		return true
	case 0, 2, 255:
		for at := int64(32768 + 2048); at < 32768+16*2048 && v.has(at+1, "CD001"); at += 2048 {
			if v.u8(at) == 1 {
				return true
			}
		}
	}
	return false
}

// isUDF follows the volume recognition sequence: BEA01 and then NSR02 or
// NSR03. On a disc that is ISO 9660 as well, that comes first. Descriptors
// are 2048 bytes apart, or one block where blocks are larger.
func isUDF(v *view, _ int64) bool {
	for _, step := range []int64{2048, 4096, 8192, 16384, 32768} {
		begun := false
		for i := range int64(16) {
			id := string(v.at(32768+i*step+1, 5))
			switch {
			case id == "BEA01":
				begun = true
			case begun && (id == "NSR02" || id == "NSR03"):
				return true
			}
			if id != "BEA01" && id != "CD001" && id != "BOOT2" && id != "CDW02" {
				break
			}
		}
	}
	return false
}

func isLVM(v *view, offset int64) bool { return v.has(offset+24, "LVM2 001") }

func isMDRaid(v *view, offset int64) bool { return v.le32(offset+4) == 1 } // major version

func isXFS(v *view, _ int64) bool { return powerOfTwo(v.be32(4), 512, 65536) } // block size

func isSquashfs(v *view, _ int64) bool { return v.le16(28) == 4 } // major version

// isExt checks a superblock of ext2, ext3 or ext4, at 1024.
func isExt(v *view, _ int64) bool {
	const knownStates = 0x27       // valid, error, orphans, fast commit replay
	return v.le32(1024+24) <= 6 && // log2 of the block size in KiB
		v.le16(1024+58)&^knownStates == 0 &&
		v.le32(1024+76) <= 1 && // revision
		(v.le32(1024+4) != 0 || v.le32(1024+0x150) != 0) // blocks
}

func isHFSPlus(v *view, _ int64) bool {
	version := v.be16(1026)
	return (version == 4 || version == 5) && powerOfTwo(v.be32(1024+40), 512, 1<<30) // block size
}

func isAPFS(v *view, _ int64) bool { return powerOfTwo(v.le32(36), 4096, 65536) } // block size

// warn returns what is odd about the kinds that were found.
func (v *view) warn(found []finding) (warnings []string) {
	if isFound(found, "gpt") || isFound(found, "mbr") {
		warnings = v.warnOfProtectiveMBR(isFound(found, "gpt"))
	}
	for _, encrypted := range []struct {
		kind string
		is   bool
	}{
		{"luks", true},
		{"bitlocker", true},
		{"qcow2", v.be32(32) != 0},
		{"qcow", v.be32(36) != 0},
	} {
		if encrypted.is && isFound(found, encrypted.kind) {
			warnings = append(warnings, encrypted.kind+" is encrypted: nothing inside can be seen")
		}
	}
	return warnings
}

// warnOfProtectiveMBR looks for what OpenStack refuses. Programs that heed
// the MBR only and those that heed the GPT see different disks.
func (v *view) warnOfProtectiveMBR(gpt bool) (warnings []string) {
	covers, others := 0, 0
	for i, p := range v.partitions() {
		switch {
		case p.flag&0x7f != 0:
			warnings = append(warnings, fmt.Sprintf("entry %d of the MBR has the boot flag %#02x, not 0x00 or 0x80", i+1, p.flag))
		case p.kind == protective:
			covers++
			if p.start != 1 {
				warnings = append(warnings, fmt.Sprintf("the protective MBR starts at sector %d, not 1", p.start))
			}
		case p.kind != 0:
			others++
		}
	}
	switch {
	case gpt && !v.has(510, bootSignature):
		return []string{"the GPT has no protective MBR"}
	case gpt && covers+others == 0:
		warnings = append(warnings, "the MBR before the GPT has no partition at all")
	case gpt && covers == 0:
		warnings = append(warnings, "the MBR before the GPT has partitions, but no protective one")
	case !gpt && covers > 0:
		warnings = append(warnings, "there is a protective MBR, but no valid GPT")
	}
	if covers > 0 && others > 0 || covers > 1 {
		warnings = append(warnings, "the protective MBR has other entries")
	}
	return warnings
}
