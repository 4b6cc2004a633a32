// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"encoding/binary"
	"hash/crc32"
	"strings"
	"testing"
)

// A dangerousCase is a change to a safe image, and what is said of it; "" if
// it stays safe.
type dangerousCase struct {
	why     string
	patches []patch
	want    string
}

func testDangers(t *testing.T, kind string, safe []byte, cases []dangerousCase) {
	t.Helper()
	if s := identifyBytes(t, safe); len(s.dangers) > 0 {
		t.Fatalf("the image to start from has the dangers %q", s.dangers)
	}
	for _, c := range cases {
		t.Run(c.why, func(t *testing.T) {
			s := identifyBytes(t, patched(safe, c.patches...))
			expectSignature(t, s, kind, c.want)
			if err := s.unsafe(); (err == nil) != (c.want == "") {
				t.Errorf("unsafe returns %v", err)
			}
		})
	}
}

func TestDangersOfQcow(t *testing.T) {
	testDangers(t, "qcow", sample("qcow"), []dangerousCase{
		{"a backing file", []patch{{8, be64(48)}}, "qcow names a backing file"},
	})
}

func TestDangersOfQcow2(t *testing.T) {
	safe := craft(128<<10, patch{0, "QFI\xfb" + be32(3)}, patch{20, be32(16)}, patch{100, be32(104)})
	extension := func(kind, length uint32) string { return be32(kind) + be32(length) }
	testDangers(t, "qcow2", safe, []dangerousCase{
		{"a backing file", []patch{{8, be64(1000)}}, "qcow2 names a backing file"},
		{"a backing file far away", []patch{{8, be64(1 << 63)}}, "qcow2 names a backing file"},
		{"a data file", []patch{{72, be64(1 << 2)}}, "external data file"},
		{"dirty", []patch{{72, be64(1 << 0)}}, ""},
		{"corrupt", []patch{{72, be64(1 << 1)}}, ""},
		{"a compression type", []patch{{72, be64(1 << 3)}}, ""},
		{"extended L2", []patch{{72, be64(1 << 4)}}, ""},
		{"the next feature", []patch{{72, be64(1 << 5)}}, "not known"},
		{"a feature of the first byte", []patch{{72, be64(1 << 56)}}, "not known"},
		{"a feature of the last byte", []patch{{72, be64(1 << 7)}}, "not known"},
		{"no features in version 2", []patch{{4, be32(2)}, {72, be64(1 << 7)}}, ""},
		{"a short header", []patch{{100, be32(96)}}, "header of a wrong length"},
		{"a header of 0 bytes", []patch{{100, be32(0)}}, "header of a wrong length"},
		{"a header of an odd length", []patch{{100, be32(105)}}, "header of a wrong length"},
		{"a header of all of the cluster", []patch{{100, be32(65536)}}, ""},
		{"a header beyond the cluster", []patch{{100, be32(65544)}}, "header of a wrong length"},
		{"a header of 4 GiB", []patch{{100, be32(0xfffffff8)}}, "header of a wrong length"},
		{"the name of a data file", []patch{{104, extension(0x44415441, 8)}}, "names an external data file"},
		{"the name of a data file behind others", []patch{{104, extension(0xe2792aca, 5)}, {120, extension(0x6803f857, 48)},
			{176, extension(0x44415441, 0)}}, "names an external data file"},
		{"the name of a data file in version 2", []patch{{4, be32(2)}, {72, extension(0x44415441, 8)}}, "names an external data file"},
		{"a name behind the last extension", []patch{{112, extension(0x44415441, 8)}}, ""},
		{"an extension beyond the cluster", []patch{{104, extension(1, 65536)}}, "does not end in the first cluster"},
		{"an extension just beyond the cluster", []patch{{104, extension(1, 65536-111)}}, "does not end in the first cluster"},
		{"an extension up to the end of the cluster", []patch{{104, extension(1, 65536-112)}}, ""},
		{"the name of a data file at the end of the cluster", []patch{{104, extension(1, 65536-120)}, {65528, extension(0x44415441, 0)}}, "names an external data file"},
		{"the name of a data file behind one byte and its padding", []patch{{104, extension(1, 1)}, {120, extension(0x44415441, 8)}}, "names an external data file"},
		{"the name of a data file behind eight bytes", []patch{{104, extension(1, 8)}, {120, extension(0x44415441, 8)}}, "names an external data file"},
		{"an extension of 4 GiB", []patch{{104, extension(1, 0xffffffff)}}, "does not end in the first cluster"},
	})
	old := patched(safe, patch{4, be32(2)})
	expectSignature(t, identifyBytes(t, safe[:103]), "qcow2", "cut off")
	expectSignature(t, identifyBytes(t, safe[:104]), "qcow2", "")
	expectSignature(t, identifyBytes(t, old[:71]), "qcow2", "cut off")
	expectSignature(t, identifyBytes(t, old[:72]), "qcow2", "")
	// The name of a backing file is in the place of extensions, and is none.
	named := identifyBytes(t, patched(old, patch{8, be64(72) + be32(11)}, patch{72, "/etc/shadow"}))
	if len(named.dangers) != 1 {
		t.Errorf("a qcow2 with a backing file has the dangers %q", named.dangers)
	}
	expectSignature(t, identifyBytes(t, patched(safe, patch{4, be32(4)})), "unknown", "starts as qcow2 does")

	// Extensions of 1 MiB in a cluster of 2 MiB hide what follows.
	large := craft(4<<20, patch{0, string(safe)}, patch{20, be32(21)}, patch{104, extension(1, 1<<20)},
		patch{112 + 1<<20, extension(0x44415441, 8)})
	expectSignature(t, identifyBytes(t, large), "qcow2", "too long to look at")
	last := craft(4<<20, patch{0, string(safe)}, patch{20, be32(21)}, patch{104, extension(1, 1<<20-120)},
		patch{1<<20 - 8, extension(0x44415441, 8)})
	expectSignature(t, identifyBytes(t, last), "qcow2", "names an external data file")
}

func TestDangersOfQED(t *testing.T) {
	s := identifyBytes(t, patched(sample("qed"), patch{16, le64(1)}))
	expectSignature(t, s, "qed", "never accepted; qed names a backing file")
	if s := identifyBytes(t, sample("qed")); len(s.dangers) != 1 || s.dangers[0] != "qed is obsolete and never accepted" {
		t.Errorf("the dangers are %q", s.dangers)
	}
}

func TestDangersOfVHD(t *testing.T) {
	footer := string(craft(512, patch{0, "conectix"}, patch{16, be64(512)}, patch{60, be32(3)}))
	safe := craft(64<<10, patch{0, footer}, patch{512, "cxsparse"}, patch{-512, footer})
	testDangers(t, "vhd", safe, []dangerousCase{
		{"differencing", []patch{{60, be32(4)}, {-452, be32(4)}}, "differencing disk"},
		{"differencing by the footer only", []patch{{-452, be32(4)}}, "differencing disk"},
		{"differencing by the copy only", []patch{{60, be32(4)}}, "differencing disk"},
		{"an unknown type", []patch{{60, be32(5)}}, "disk type 5"},
		{"no footer", []patch{{-512, strings.Repeat("\x00", 512)}}, ""},
		{"a header beyond the image", []patch{{16, be64(1 << 62)}}, "beyond the image"},
		{"a header beyond the end", []patch{{16, be64(64<<10 - 1023)}}, "beyond the image"},
		{"a header that is none", []patch{{16, be64(1024)}}, "no dynamic header"},
		{"a header at the end", []patch{{16, be64(64<<10 - 1024)}, {-1024, "cxsparse"}}, ""},
		{"a time behind the parent", []patch{{512 + 56, "\x01"}}, ""},
		{"a sum", []patch{{512 + 36, "\x01\x02\x03\x04"}}, ""},
		{"a parent", []patch{{512 + 40, "\x01"}}, "vhd has a parent"},
	})
	fixed := craft(64<<10, patch{-512, "conectix"}, patch{-452, be32(2)})
	testDangers(t, "vhd", fixed, []dangerousCase{
		{"differencing", []patch{{-452, be32(4)}}, "differencing disk"},
	})
	expectSignature(t, identifyBytes(t, patched(fixed, linux, signed)), "vhd, mbr", "")

	// The dynamic header behind the first MiB.
	far := craft(3<<20, patch{0, footer}, patch{16, be64(2 << 20)}, patch{2 << 20, "cxsparse"})
	expectSignature(t, identifyBytes(t, far), "vhd", "")
	expectSignature(t, identifyBytes(t, patched(far, patch{2<<20 + 55, "\x01"})), "vhd", "vhd has a parent")
}

func TestDangersOfVDI(t *testing.T) {
	safe := craft(4096, patch{64, "\x7f\x10\xda\xbe"}, patch{76, le32(1)}, patch{340, le32(512) + le32(1024)})
	testDangers(t, "vdi", safe, []dangerousCase{
		{"fixed", []patch{{76, le32(2)}}, ""},
		{"undo", []patch{{76, le32(3)}}, "image type 3"},
		{"differencing", []patch{{76, le32(4)}}, "image type 4"},
		{"a UUID of its own", []patch{{392, "\x01"}, {408, "\x01"}}, ""},
		{"a geometry behind the parent", []patch{{456, "\x01"}}, ""},
		{"a parent", []patch{{424, "\x01"}}, "vdi has a parent"},
		{"a state of the parent", []patch{{455, "\x01"}}, "vdi has a parent"},
		{"a block map and data that are yet to be written", []patch{{340, le32(4096) + le32(4096)}}, ""},
		{"a block map beyond the image", []patch{{340, le32(4097)}}, "beyond the image"},
		{"data just beyond the image", []patch{{344, le32(4097)}}, "beyond the image"},
		{"data beyond the image", []patch{{344, le32(0xffffffff)}}, "beyond the image"},
	})
	expectSignature(t, identifyBytes(t, safe[:450]), "vdi", "vdi has a parent") // cut off: who knows
}

// vhdxHeaderOf returns a header of a VHDX with its sum.
func vhdxHeaderOf(sequence uint64, log string, patches ...patch) string {
	h := patched(craft(4096, patch{0, "head"}, patch{8, le64(sequence)}, patch{48, log}), patches...)
	binary.LittleEndian.PutUint32(h[4:], crc32.Checksum(h, crc32.MakeTable(crc32.Castagnoli)))
	return string(h)
}

func TestDangersOfVHDX(t *testing.T) {
	t.Parallel()
	const regions, regions2, metadata, items = 192 << 10, 256 << 10, 2 << 20, 2<<20 + 64<<10
	parameters := vhdxFileParameters + le32(64<<10) + le32(8)
	region := func(offset uint64) string { return vhdxMetadataRegion + le64(offset) + le32(1<<20) + le32(1) }
	safe := craft(4<<20,
		patch{0, "vhdxfile"},
		patch{64 << 10, vhdxHeaderOf(1, "\x01")},
		patch{128 << 10, vhdxHeaderOf(2, "")},
		patch{regions, "regi"}, patch{regions + 8, le32(1)}, patch{regions + 16, region(metadata)},
		patch{metadata, "metadata"}, patch{metadata + 10, "\x01"}, patch{metadata + 32, parameters},
		patch{items, le32(1<<20) + le32(1)})
	second := []patch{{regions2, "regi"}, {regions2 + 8, le32(1)}}
	testDangers(t, "vhdx", safe, []dangerousCase{
		{"a parent", []patch{{items + 4, le32(2)}}, "vhdx has a parent"},
		{"the name of a parent", []patch{{metadata + 10, "\x02"}, {metadata + 64, vhdxParentLocator}}, "names a parent"},
		{"no region table", []patch{{regions, "xxxx"}}, "no region table"},
		{"2047 regions", []patch{{regions + 8, le32(2047)}}, ""},
		{"2048 regions", []patch{{regions + 8, le32(2048)}}, "too many regions"},
		{"4 billion regions", []patch{{regions + 8, le32(1<<32 - 1)}}, "too many regions"},
		{"another region only", []patch{{regions + 16, strings.Repeat("x", 16)}}, "no metadata region"},
		{"no region", []patch{{regions + 8, le32(0)}}, "no metadata region"},
		{"metadata beyond the image", []patch{{regions + 32, le64(1 << 40)}}, "metadata beyond the image"},
		{"metadata at an offset that overflows", []patch{{regions + 32, le64(1<<64 - 1)}}, "metadata beyond the image"},
		{"metadata at the end", []patch{{regions + 32, le64(4<<20 - 100)}}, "metadata beyond the image"},
		{"metadata that is none", []patch{{metadata, "x"}}, "no metadata where"},
		{"2047 items", []patch{{metadata + 10, "\xff\x07"}}, ""},
		{"2048 items", []patch{{metadata + 10, "\x00\x08"}}, "too many metadata items"},
		{"65535 items", []patch{{metadata + 10, "\xff\xff"}}, "too many metadata items"},
		{"no items", []patch{{metadata + 10, "\x00"}}, "no file parameters"},
		{"parameters in the table", []patch{{metadata + 48, le32(100)}}, "out of place"},
		{"parameters beyond the image", []patch{{metadata + 48, le32(1<<32 - 1)}}, "out of place"},
		{"parameters just beyond the image", []patch{{metadata + 48, le32(2<<20 - 7)}}, "out of place"},
		{"parameters at the end of the image", []patch{{metadata + 48, le32(2<<20 - 8)}}, ""},
		{"parameters of another length", []patch{{metadata + 52, le32(4)}}, "out of place"},
		{"parameters twice", []patch{{metadata + 10, "\x02"}, {metadata + 64, parameters}}, "twice"},
		{"a log to replay", []patch{{128 << 10, vhdxHeaderOf(2, "\x01")}}, "log to be replayed"},
		{"a log whose number ends in 1", []patch{{128 << 10, vhdxHeaderOf(2, strings.Repeat("\x00", 15)+"\x01")}}, "log to be replayed"},
		{"a log of the first of two headers of one age", []patch{{64 << 10, vhdxHeaderOf(2, "\x01")}, {128 << 10, vhdxHeaderOf(2, "")}}, "log to be replayed"},
		{"numbers of the file and of its data", []patch{{128 << 10, vhdxHeaderOf(2, "", patch{16, strings.Repeat("\x01", 32)})}}, ""},
		{"a log of an older header that is the second", []patch{{64 << 10, vhdxHeaderOf(3, "")}, {128 << 10, vhdxHeaderOf(2, "\x01")}}, ""},
		{"a newer header with a wrong sum, and an older one with a log", []patch{{128<<10 + 100, "\x01"}}, "log to be replayed"},
		{"a newer header with another magic and its sum", []patch{{128 << 10, vhdxHeaderOf(2, "", patch{0, "hear"})}}, "log to be replayed"},
		{"no valid header", []patch{{64 << 10, "x"}, {128 << 10, "x"}}, "no valid header"},
		{"the same region table again", append(second, patch{regions2 + 16, region(metadata)}), ""},
		{"a parent, and the same region table again", append(second, patch{regions2 + 16, region(metadata)}, patch{items + 4, le32(2)}), "vhdx has a parent"},
		{"a second table with other metadata", append(second, patch{regions2 + 16, region(metadata + 1<<20)},
			patch{metadata + 1<<20, "metadata"}, patch{metadata + 1<<20 + 10, "\x01"},
			patch{metadata + 1<<20 + 32, vhdxParentLocator}), "names a parent"},
		{"a second table that is broken", append(second, patch{regions2 + 8, le32(2048)}), "too many regions"},
	})
	expectSignature(t, identifyBytes(t, safe[:300<<10]), "vhdx", "metadata beyond the image")
}

// A container that is something else as well.
func TestTwoThingsAtOnce(t *testing.T) {
	qcow2 := craft(128<<10, patch{0, "QFI\xfb" + be32(2)}, patch{20, be32(16)})
	btrfs := patch{65600, "_BHRfS_M"}
	parallels := craft(128<<10, patch{0, "WithouFreSpacExt"})
	for _, test := range []struct {
		why          string
		image        []byte
		kinds, wants string
	}{
		{"qcow2 and ISO", patched(qcow2, primary), "qcow2, iso9660", "qcow2 and iso9660 at once"},
		{"qcow2 and MBR", patched(qcow2, linux, signed), "qcow2, mbr", "at once"},
		{"qcow2 and VDI", patched(qcow2, patch{64, "\x7f\x10\xda\xbe"}, patch{76, le32(1)}), "qcow2, vdi", "qcow2 and vdi at once"},
		{"qcow2 and the footer of a VHD", patched(qcow2, patch{-512, "conectix"}, patch{-452, be32(2)}), "qcow2, vhd", "qcow2 and vhd at once"},
		{"qcow2 and btrfs", patched(qcow2, btrfs), "qcow2, btrfs", "at once"},
		{"VDI and an MBR where its text is", patched(sample("mbr"), patch{64, "\x7f\x10\xda\xbe"}, patch{76, le32(1)}), "vdi, mbr", "vdi and mbr at once"},
		{"VDI and XFS", patched(sample("xfs"), patch{64, "\x7f\x10\xda\xbe"}, patch{76, le32(1)}), "vdi, xfs", "at once"},
		{"VDI and tar", patched(craft(512, tarHeader), patch{64, ""}), "tar", ""},
		{"a descriptor and swap", craft(4096, patch{0, vmdkDescriptorText}, patch{1024, le32(1)}, patch{4086, "SWAPSPACE2"}), "vmdk, swap", "vmdk and swap at once"},
		{"VMDK and btrfs in its first grain", patched(craftVMDK(vmdkDescriptorText), patch{64, le64(128)}, btrfs), "vmdk, btrfs", ""},
		{"VMDK and btrfs in its tables", patched(craftVMDK(vmdkDescriptorText), patch{64, le64(256)}, btrfs), "vmdk, btrfs", "at once"},
		{"VMDK that claims an ISO as a grain", patched(craftVMDK(vmdkDescriptorText), patch{64, le64(64)}, primary), "vmdk, iso9660", "at once"},
		{"parallels and btrfs in its first cluster", patched(parallels, patch{48, le32(128)}, btrfs), "parallels, btrfs", ""},
		{"parallels and btrfs in its tables", patched(parallels, patch{48, le32(256)}, btrfs), "parallels, btrfs", "at once"},
		{"parallels and btrfs, and nothing says where data begin", patched(parallels, btrfs), "parallels, btrfs", "at once"},
		{"parallels that claims an ISO as a cluster", patched(parallels, patch{48, le32(64)}, primary), "parallels, iso9660", "at once"},
		{"a tar whose first file has such a name", tarOf("QFI\xfb"), "tar", "starts as qcow2 does"},
		{"ISO and MBR, which are no containers", craft(64<<10, primary, linux, signed), "iso9660, mbr", ""},
	} {
		t.Run(test.why, func(t *testing.T) {
			expectSignature(t, identifyBytes(t, test.image), test.kinds, test.wants)
		})
	}
}

// otherHeaders make an image a container by bytes that are not at its start.
var otherHeaders = map[string][]patch{
	"vhd": {{-512, "conectix"}, {-452, be32(vhdFixed)}},
	"dmg": {{-512, "koly\x00\x00\x00\x04\x00\x00\x02\x00"}},
	"vdi": {{64, "\x7f\x10\xda\xbe"}, {76, le32(vdiFixed)}},
}

// What is a container by its end, or by what is at 64, may be opened by its
// start all the same. See tests/unsafe_test.go.
func TestStartOfAnotherContainer(t *testing.T) {
	flat := strings.NewReplacer("monolithicSparse", "monolithicFlat", `SPARSE "disk.vmdk"`, `FLAT "/etc/shadow" 0`).Replace(vmdkDescriptorText)
	vmdk := patched(craftVMDK(flat), patch{12, le64(0)})
	for other, header := range otherHeaders {
		for _, test := range []struct {
			why   string
			image []byte
			wants string
		}{
			{"VMDK version 0", patched(vmdk, patch{4, le32(0)}), "no capacity"},
			{"a whole VMDK of version 0", patched(craftVMDK(vmdkDescriptorText), patch{4, le32(0)}), "at once"},
			{"VMDK version 4", patched(vmdk, patch{4, le32(4)}), "starts as vmdk does"},
			{"ESX version 4", patched(vmdk, patch{0, "COWD" + le32(4)}), "starts as vmdk does"},
			{"qcow2 version 4", patched(sample("qcow2"), patch{4, be32(4)}), "starts as qcow2 does"},
			{"qcow2 with clusters of 256 bytes", patched(sample("qcow2"), patch{20, be32(8)}), "starts as qcow2 does"},
			{"qcow with clusters of 256 bytes", patched(sample("qcow"), patch{32, "\x08"}), "starts as qcow2 does"},
			{"qed", sample("qed"), "at once"},
			{"vhdx", sample("vhdx"), "at once"},
			{"parallels", sample("parallels"), "at once"},
			{"an MBR", sample("mbr"), map[string]string{"vdi": "at once"}[other]},
		} {
			t.Run(other+" and "+test.why, func(t *testing.T) {
				s := identifyBytes(t, patched(test.image, header...))
				expectSignature(t, s, s.String(), test.wants)
				if !strings.Contains(s.String(), other) {
					t.Errorf("it is %s, and no %s", s, other)
				}
			})
		}
	}
}

// A disk in a container that starts within its first 64 KiB. What is found of
// it is no second thing if no program takes the file itself for that.
func TestContentAtThePlaceOfABareDisk(t *testing.T) {
	vdi := craft(128<<10, patch{64, "\x7f\x10\xda\xbe"}, patch{76, le32(1)})
	gpt := func(last uint64) patch { // the last sector for partitions
		return patch{4096, gptHeader(92, 1, patch{48, le64(last)})}
	}
	label := func(at int, sector uint64) patch {
		return patch{at, "LABELONE" + le64(sector) + "\x00\x00\x00\x00\x20\x00\x00\x00LVM2 001"}
	}
	raid := patch{4096, "\xfc\x4e\x2b\xa9\x01\x00\x00\x00"}
	for _, test := range []struct {
		why     string
		patches []patch
		want    string // the other thing
	}{
		{"a GPT of 700 MiB", []patch{gpt(1433566)}, ""},
		{"a GPT that ends one sector behind the file", []patch{gpt(32)}, ""},
		{"a GPT that ends with the file", []patch{gpt(31)}, "gpt"},
		{"a GPT with a boot signature", []patch{gpt(1433566), pmbr, signed}, "gpt"},
		{"a GPT in the second sector", []patch{gptAt512}, "gpt"},
		{"a GPT in the second sector that ends behind the file", []patch{{512, gpt(1433566).bytes}}, "gpt"},
		{"a GPT in the second sector as well", []patch{gptAt512, gpt(1433566)}, "gpt"},
		{"a label for sector 1 in sector 3", []patch{label(1536, 1)}, ""},
		{"a label for sector 3 in sector 3", []patch{label(1536, 3)}, "lvm"},
		{"such a label behind another one", []patch{label(1024, 1), label(1536, 3)}, "lvm"},
		{"a superblock for offset 0 at 4096", []patch{raid}, ""},
		{"a superblock for 4096 at 4096", []patch{raid, {4096 + 144, le64(8)}}, "mdraid"},
		{"swap without its version", []patch{{8182, "SWAPSPACE2"}}, ""},
		{"swap with its version", []patch{{8182, "SWAPSPACE2"}, {1024, le32(1)}}, "swap"},
		{"swap of another byte order", []patch{{8182, "SWAPSPACE2"}, {1024, be32(1)}}, "swap"},
		{"swap that has no version", []patch{{8182, "SWAP-SPACE"}}, "swap"},
		{"swap that has no version behind other swap", []patch{{4086, "SWAPSPACE2"}, {8182, "SWAP-SPACE"}}, "swap"},
	} {
		t.Run(test.why, func(t *testing.T) {
			s := identifyBytes(t, patched(vdi, test.patches...))
			if test.want == "" {
				expectSignature(t, s, "vdi", "")
			} else {
				expectSignature(t, s, "vdi, "+test.want, "vdi and "+test.want+" at once")
			}
		})
	}
	expectSignature(t, identifyBytes(t, craft(8192, patch{0, "WithoutFreeSpace"}, label(1536, 1))), "parallels", "")
	// What has its header at the end has its disk in front of it.
	expectSignature(t, identifyBytes(t, craft(8192, patch{-512, "conectix"}, patch{-452, be32(2)}, label(1536, 1))), "vhd, lvm", "")
	expectSignature(t, identifyBytes(t, craft(8192, label(1536, 1))), "lvm", "")
}

func TestUnsafeIsOneLineWithTheRemedy(t *testing.T) {
	text := strings.Replace(vmdkDescriptorText, "disk.vmdk", "/\x1b[2Ja\x01b", 1)
	err := identifyBytes(t, patched(craftVMDK(text), patch{56, le64(1<<64 - 1)})).unsafe()
	const want = `the image is not safe to open: vmdk has an extent that names a path: "/.[2ja.b"; ` +
		`vmdk has a footer that contradicts its header: signature-unsafe=allow accepts it`
	if err == nil || err.Error() != want {
		t.Errorf("%v\nwant\n%s", err, want)
	}
}

// Each check belongs to a kind that exists, and has a name of its own.
func TestSafetyChecksAreNamed(t *testing.T) {
	names := make(map[string]bool)
	for _, c := range safetyChecks {
		if name := c.kind + " " + c.name; names[name] || !strings.Contains(strings.Join(kindsOf(container), " "), c.kind) {
			t.Errorf("%s is there twice, or its kind is none", name)
		} else {
			names[name] = true
		}
	}
}
