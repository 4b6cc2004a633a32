// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"fmt"
	"slices"
)

// Notes on what is in a container
//
// A container whose header is short stores the start of its disk within the
// first 64 KiB, where magics are looked for: a VDI of 700 MiB at 3584, so that
// the GPT in the second sector of its disk is at 4096, as with sectors of 4
// KiB. If what is found says that its place is another one, then it is part of
// the disk, and not a kind of the file.
//
// This must not hide a second thing that a program takes the file itself for.
// So it is asked for what the programs that read the kind check, and that the
// file fails: they would not take it for that. Kinds that do not say where
// they are, or of which programs do not check it, are always a second thing.
// QEMU's probe knows none of these kinds. Only containers with a header are
// looked at, so that a bare disk is what it was without this.

// misplaced has the kinds that say where they are. A function tells whether
// what was found at an offset is of no use there.
var misplaced = map[string]func(v *view, offset int64) bool{
	"gpt":    isMisplacedGPT,
	"lvm":    isMisplacedLVM,
	"mdraid": isMisplacedMDRaid,
	"swap":   isMisplacedSwap,
}

// withoutContent leaves out what is only part of a container's disk. All
// places of a kind count: one that is of no use must not hide another.
func (v *view) withoutContent(found []finding) []finding {
	headed := func(f finding) bool { return f.group == container && f.offset >= 0 }
	if !slices.ContainsFunc(found, headed) {
		return found
	}
	return slices.DeleteFunc(found, func(f finding) bool {
		test := misplaced[f.name]
		inPlace := func(offset int64) bool { return !test(v, offset) }
		return test != nil && !slices.ContainsFunc(v.places(rowOf(f.name)), inPlace)
	})
}

// isMisplacedGPT is for sectors of 4 KiB. Linux, libblkid, libfdisk and parted
// want a protective MBR in the first sector, and the last sector of partitions
// on the disk. UEFI and GRUB want the MBR only, and Linux with gpt=force can do
// without, so both must fail: of a GPT that was written for sectors of 512
// bytes, the last one is at 8 times its place.
func isMisplacedGPT(v *view, offset int64) bool {
	return offset == 4096 && !v.has(510, bootSignature) && v.le64(offset+48) >= uint64(v.size/4096)
}

// isMisplacedLVM compares the number of the sector in the label, as LVM and
// libblkid do. (GRUB does not. It opens no images, but is in them.)
func isMisplacedLVM(v *view, offset int64) bool {
	return v.le64(offset+8) != uint64(offset/sectorSize)
}

// isMisplacedMDRaid compares the offset of the superblock in it, as Linux,
// libblkid and GRUB do.
func isMisplacedMDRaid(v *view, offset int64) bool {
	return v.le64(offset+144) != uint64(offset/sectorSize)
}

// isMisplacedSwap wants the version, which is at 1024 whatever the size of a
// page, as Linux and libblkid do. The older SWAP-SPACE has none.
func isMisplacedSwap(v *view, offset int64) bool {
	return v.has(offset, "SWAPSPACE2") && v.le32(1024) != 1 && v.be32(1024) != 1
}

// twoThings looks for a container that is something else as well: what one
// program checks as an ISO, another opens as a qcow2. What a container with a
// footer only has in front of it is its content.
func (v *view) twoThings(found []finding) string {
	for _, c := range found {
		if c.group != container || c.offset < 0 {
			continue
		}
		for _, other := range found {
			if other != c && !v.isContent(c, other) {
				return fmt.Sprintf("it is %s and %s at once", c.name, other.name)
			}
		}
	}
	return ""
}

// isContent tells whether other may be content of c that happens to lie where
// it would in a bare disk, and be valid there. Almost all magics are within
// the first 64 KiB, which most containers need for themselves. A btrfs is the
// exception: the first grain of a VMDK, or cluster of Parallels, can be stored
// at 64 KiB. (A qcow2 does not say where its data begin.)
func (v *view) isContent(c, other finding) bool {
	overhead := v.overhead(c)
	return overhead >= 64<<10 && other.offset >= overhead
}

// overhead returns what a container says that it needs at its start, or 0.
func (v *view) overhead(c finding) int64 {
	switch {
	case c.name == "vmdk" && v.has(0, "KDMV"):
		return int64(min(v.le64(64), 1<<32)) * sectorSize
	case c.name == "parallels":
		return int64(v.le32(48)) * sectorSize
	}
	return 0
}
