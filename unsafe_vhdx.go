// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"encoding/binary"
	"hash/crc32"
)

// Hyper-V's VHDX, as in MS-VHDX. Numbers are little-endian.
//
// A region table, of which there are two copies, says where the metadata is.
// The metadata starts with a table of items. File parameters tell whether the
// disk has a parent, the parent locator names it.

const (
	vhdxHeader        = 64 << 10
	vhdxHeader2       = 128 << 10
	vhdxHeaderSize    = 4 << 10
	vhdxRegionTable   = 192 << 10
	vhdxRegionTable2  = 256 << 10
	vhdxMaxEntries    = 2047 // in either table
	vhdxEntrySize     = 32
	vhdxMetadataTable = 64 << 10

	vhdxHasParent = 1 << 1 // in the file parameters
)

// A GUID is stored with its first three numbers little-endian.
const (
	vhdxMetadataRegion = "\x06\xa2\x7c\x8b\x90\x47\x9a\x4b\xb8\xfe\x57\x5f\x05\x0f\x88\x6e"
	vhdxFileParameters = "\x37\x67\xa1\xca\x36\xfa\x43\x4d\xb3\xb6\x33\xf0\xaa\x44\xe7\x6b"
	vhdxParentLocator  = "\x2d\x5f\xd3\xa8\x0b\xb3\x4d\x45\xab\xf7\xd3\xd8\x48\x34\xab\x0c"
)

// vhdxLog looks whether the log is to be replayed, which could change what
// the other checks see. Of two headers that which is valid and newer counts, or both if
// neither is.
func vhdxLog(v *view) string {
	newest, replay, valid := uint64(0), false, false
	for _, at := range []int64{vhdxHeader, vhdxHeader2} {
		header := v.at(at, vhdxHeaderSize)
		if header == nil || string(header[:4]) != "head" {
			continue
		}
		castagnoli := crc32.MakeTable(crc32.Castagnoli)
		crc := crc32.Checksum(header[:4], castagnoli)
		crc = crc32.Update(crc, castagnoli, []byte{0, 0, 0, 0}) // the field of the sum
		crc = crc32.Update(crc, castagnoli, header[8:])
		sequence := binary.LittleEndian.Uint64(header[8:])
		if crc != binary.LittleEndian.Uint32(header[4:]) || valid && sequence < newest {
			continue
		}
		replay = replay && sequence == newest || !isZero(header[48:48+uuidSize])
		newest, valid = sequence, true
	}
	switch {
	case !valid:
		return "vhdx has no valid header"
	case replay:
		return "vhdx has a log to be replayed, which can change what was checked"
	}
	return ""
}

// vhdxParent follows both region tables: a program may use the second one
// when it thinks the first to be damaged.
func vhdxParent(v *view) string {
	first, why := vhdxMetadataAt(v, vhdxRegionTable)
	if why == "" {
		why = vhdxMetadata(v, first)
	}
	if why != "" || !v.has(vhdxRegionTable2, "regi") {
		return why
	}
	second, why := vhdxMetadataAt(v, vhdxRegionTable2)
	if why == "" && second != first {
		why = vhdxMetadata(v, second)
	}
	return why
}

// vhdxMetadataAt returns the offset of the metadata, or why there is none.
func vhdxMetadataAt(v *view, table int64) (offset uint64, why string) {
	count := int64(v.le32(table + 8))
	if !v.has(table, "regi") {
		return 0, "vhdx has no region table"
	}
	if count > vhdxMaxEntries {
		return 0, "vhdx has too many regions"
	}
	entries := v.at(table+16, count*vhdxEntrySize)
	for ; len(entries) > 0; entries = entries[vhdxEntrySize:] {
		if string(entries[:16]) == vhdxMetadataRegion {
			offset = binary.LittleEndian.Uint64(entries[16:])
			if !v.inside(offset, vhdxMetadataTable) {
				return 0, "vhdx has its metadata beyond the image"
			}
			return offset, ""
		}
	}
	return 0, "vhdx has no metadata region"
}

// vhdxMetadata looks through the items of the metadata at offset.
func vhdxMetadata(v *view, offset uint64) string {
	at := int64(offset)
	table := v.at(at, vhdxMetadataTable)
	if table == nil || string(table[:8]) != "metadata" {
		return "vhdx has no metadata where its region table says"
	}
	count := int(binary.LittleEndian.Uint16(table[10:]))
	if count > vhdxMaxEntries {
		return "vhdx has too many metadata items"
	}
	parameters := false
	for i := range count {
		entry := table[vhdxEntrySize*(i+1):][:vhdxEntrySize]
		switch string(entry[:16]) {
		case vhdxParentLocator:
			return "vhdx names a parent"
		case vhdxFileParameters:
			if parameters {
				return "vhdx has file parameters twice"
			}
			parameters = true
			item, length := binary.LittleEndian.Uint32(entry[16:]), binary.LittleEndian.Uint32(entry[20:])
			if item < vhdxMetadataTable || length != 8 || !v.inside(offset+uint64(item), 8) {
				return "vhdx has file parameters out of place"
			}
			if v.le32(at+int64(item)+4)&vhdxHasParent != 0 {
				return "vhdx has a parent"
			}
		}
	}
	if !parameters {
		return "vhdx has no file parameters"
	}
	return ""
}
