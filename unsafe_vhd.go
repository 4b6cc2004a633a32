// SPDX-License-Identifier: BSD-3-Clause

package main

import "fmt"

// Virtual PC's VHD ("Virtual Hard Disk Image Format Specification", numbers
// are big-endian) and VirtualBox's VDI (VDICore.h, little-endian).

const (
	vhdFixed        = 2
	vhdDynamic      = 3
	vhdDifferencing = 4

	vdiDynamic = 1
	vdiFixed   = 2

	uuidSize = 16
)

// vhdFooters returns the offsets of the footer and of its copy at the start,
// which only a VHD that is not fixed has. Programs differ in which they read.
func vhdFooters(v *view) (at []int64) {
	if v.has(0, "conectix") {
		at = append(at, 0)
	}
	if v.has(-512, "conectix") {
		at = append(at, v.size-512)
	}
	return at
}

func vhdDiskType(v *view) string {
	for _, at := range vhdFooters(v) {
		switch diskType := v.be32(at + 60); diskType {
		case vhdFixed, vhdDynamic:
		case vhdDifferencing:
			return "vhd is a differencing disk, which names its parent"
		default:
			return fmt.Sprintf("vhd has the disk type %d, which is not known", diskType)
		}
	}
	return ""
}

// vhdDynamicHeader looks at the header of a dynamic disk, where a
// differencing one names its parent.
func vhdDynamicHeader(v *view) string {
	for _, at := range vhdFooters(v) {
		if v.be32(at+60) == vhdFixed {
			continue
		}
		offset := v.be64(at + 16)
		if !v.inside(offset, 1024) {
			return "vhd has its dynamic header beyond the image"
		}
		header := v.at(int64(offset), 40+uuidSize)
		if header == nil || string(header[:8]) != "cxsparse" {
			return "vhd has no dynamic header where its footer says"
		}
		if !isZero(header[40:]) {
			return "vhd has a parent"
		}
	}
	return ""
}

func vdiImageType(v *view) string {
	if t := v.le32(76); t != vdiDynamic && t != vdiFixed {
		return fmt.Sprintf("vdi has the image type %d: it is a part of another image", t)
	}
	return ""
}

// vdiParent looks at the UUIDs of the image that this one is based on, and of
// that one's last modification.
func vdiParent(v *view) string {
	if uuids := v.at(424, 2*uuidSize); uuids == nil || !isZero(uuids) {
		return "vdi has a parent"
	}
	return ""
}

func vdiOffsets(v *view) string {
	if blocks, data := v.le32(340), v.le32(344); int64(blocks) > v.size || int64(data) > v.size {
		return "vdi has offsets beyond the image"
	}
	return ""
}
