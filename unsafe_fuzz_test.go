// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
)

// FuzzUnsafe reads images as a program would that believes what they say. If
// that leads it to another file, or makes a container something else as well,
// the image must be refused; and a qcow2 in which nothing is odd must not be.
func FuzzUnsafe(f *testing.F) {
	xor := func(at int, s string) []byte { return append(make([]byte, at), s...) }
	f.Add(byte(0), []byte{})
	f.Add(byte(0), xor(8, be64(1000)))
	f.Add(byte(0), xor(72, be64(1<<2)))
	f.Add(byte(0), xor(104, be32(0xe2792aca)+be32(5)+"abcdefgh"+be32(0x44415441)+be32(4)+"disk"))
	f.Add(byte(0), xor(104, be32(1)+be32(1)+"a\x00\x00\x00\x00\x00\x00\x00"+be32(0x44415441)+be32(4)+"disk"))
	f.Add(byte(1), []byte{})
	f.Add(byte(1), xor(63, "\x07")) // differencing
	f.Add(byte(1), xor(552, "parent"))
	f.Add(byte(2), []byte("parentCID=12345678\n"))
	f.Add(byte(2), []byte("parentCID=ffff1234\n"))
	f.Add(byte(2), []byte("RW 2048 FLAT \"/etc/shadow\" 0\n"))
	f.Add(byte(2), []byte("parentFileNameHint=\"a\"\n"))
	f.Add(byte(2), []byte("RW 1 SPARSE \"parentCID.vmdk\"\nparentCID=1\n"))
	f.Add(byte(2), []byte("changeTrackPath=\"/etc/shadow\"\n"))
	f.Add(byte(3), []byte("x\ncreateType=\"vmfs\"\n"))
	f.Add(byte(4), xor(1536, "LABELONE"+le64(1)+"\x00\x00\x00\x00\x20\x00\x00\x00LVM2 001"))
	f.Add(byte(4), xor(1024, "LABELONE"+le64(2)+"\x00\x00\x00\x00\x20\x00\x00\x00LVM2 001"))
	for format := byte(5); format < 8; format++ {
		f.Add(format, []byte{})
		f.Add(format, xor(4, "\x01"))             // version 1
		f.Add(format, xor(4, "\x04"))             // version 4
		f.Add(format, []byte("\x08\x0b\x1a\x12")) // COWD
		f.Add(format, xor(12, "\x80"))            // a capacity
	}
	f.Fuzz(func(t *testing.T, format byte, change []byte) {
		var image []byte
		var leads, clean bool
		change = change[:min(len(change), 1600)]
		switch format % 8 {
		case 0:
			image = changed(craft(64<<10, patch{0, "QFI\xfb" + be32(3)}, patch{20, be32(16)}, patch{100, be32(104)}), change)
			leads, clean = readQcow2(image)
		case 1:
			image = changed(craft(64<<10, patch{0, "conectix"}, patch{16, be64(512)}, patch{60, be32(vhdDynamic)}, patch{512, "cxsparse"}), change)
			leads = readVHD(image)
		case 2:
			image = craftVMDK(vmdkDescriptorText + string(change))
			leads = readVMDK(image[512:])
		case 3:
			image = append(bytes.Clone(change), make([]byte, 4096)...)
			leads = readBareDescriptor(image)
		case 4:
			image = changed(craft(64<<10, patch{64, "\x7f\x10\xda\xbe"}, patch{76, le32(vdiDynamic)}), change)
			leads = string(image[64:68]) == "\x7f\x10\xda\xbe" && readLVM(image)
		default: // VMDK version 0, and what may hide it
			sparse := craftVMDK(strings.Replace(vmdkDescriptorText, `SPARSE "disk.vmdk"`, `FLAT "/etc/shadow" 0`, 1))
			other := []string{"vhd", "dmg", "vdi"}[format%8-5]
			image = patched(changed(patched(sparse, patch{4, le32(0)}, patch{12, le64(0)}), change), otherHeaders[other]...)
			leads = readStart(image)
		}
		s := identifyBytes(t, image)
		if leads && s.unsafe() == nil {
			t.Fatalf("%s leads to another file and is accepted", s)
		}
		for _, danger := range s.dangers {
			if clean && !strings.HasPrefix(danger, "it is ") { // two things at once
				t.Fatalf("a clean %s is refused: %s", s, danger)
			}
		}
	})
}

// changed flips bits of an image.
func changed(image, change []byte) []byte {
	for i, b := range change {
		image[i] ^= b
	}
	return image
}

// readQcow2 reads the header as docs/interop/qcow2.txt of QEMU has it.
func readQcow2(image []byte) (leads, clean bool) {
	u32 := func(at uint64) uint64 { return uint64(binary.BigEndian.Uint32(image[at:])) }
	u64 := func(at uint64) uint64 { return binary.BigEndian.Uint64(image[at:]) }
	version, clusterBits := u32(4), u32(20)
	if string(image[:4]) != "QFI\xfb" || version < 2 || version > 3 || clusterBits < 9 || clusterBits > 16 {
		return false, false // no program opens it as qcow2; a larger cluster is larger than the image
	}
	if u64(8) != 0 {
		return true, false
	}
	at, odd := uint64(72), false
	if version == 3 {
		if u64(72)&4 != 0 {
			return true, false
		}
		at = u32(100)
		odd = u64(72) > 31 || at < 104 || at%8 != 0
	}
	cluster := uint64(1) << clusterBits
	odd = odd || at > cluster
	for at+8 <= cluster {
		kind, length := u32(at), u32(at+4)
		switch kind {
		case 0:
			return false, !odd
		case 0x44415441:
			return true, false
		}
		at += 8 + (length+7)/8*8
		odd = odd || at > cluster
	}
	return false, !odd
}

// readVHD reads the footer's copy and the dynamic header.
func readVHD(image []byte) (leads bool) {
	if string(image[:8]) != "conectix" {
		return false
	}
	diskType, at := binary.BigEndian.Uint32(image[60:]), binary.BigEndian.Uint64(image[16:])
	if diskType == 4 {
		return true
	}
	if diskType != 3 || at > uint64(len(image)-1024) || string(image[at:at+8]) != "cxsparse" {
		return false
	}
	return !isZero(image[at+40 : at+56])
}

// readVMDK looks for words wherever they stand in the descriptor, as QEMU does,
// and for any of those that stand there more than once.
func readVMDK(descriptor []byte) (leads bool) {
	text, _, _ := bytes.Cut(descriptor[:20*512], []byte{0})
	if bytes.Contains(text, []byte("parentFileNameHint=\"")) {
		return true
	}
	for _, parent := range bytes.Split(text, []byte("parentCID="))[1:] {
		if !bytes.HasPrefix(bytes.ToLower(parent), []byte("ffffffff")) {
			return true
		}
	}
	for line := range bytes.SplitSeq(text, []byte("\n")) {
		fields := bytes.Fields(line)
		if len(fields) >= 4 && string(fields[0]) == "RW" && bytes.HasPrefix(fields[3], []byte(`"/`)) {
			return true
		}
	}
	return false
}

// readBareDescriptor is what QEMU does if it is told that the image is a VMDK.
func readBareDescriptor(image []byte) (leads bool) {
	text, _, _ := bytes.Cut(image, []byte{0})
	return !bytes.HasPrefix(image, []byte("KDMV")) && bytes.Contains(text, []byte("createType"))
}

// readStart tells whether QEMU takes the image for a container by its start. For
// a VMDK without a capacity it does not look at the version before it opens the
// extents, and for one of ESX not at all.
func readStart(image []byte) bool {
	return string(image[:4]) == "KDMV" || string(image[:4]) == "COWD"
}

// readLVM looks for a label in the first four sectors, as LVM does.
func readLVM(image []byte) bool {
	for sector := range 4 {
		at := image[sector*512:]
		if string(at[:8]) == "LABELONE" && binary.LittleEndian.Uint64(at[8:]) == uint64(sector) && string(at[24:32]) == "LVM2 001" {
			return true
		}
	}
	return false
}
