// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// retry goes before a command of qemu-img that measures how fast a hash is. On
// a fast machine it sometimes sees no time pass: "Unable to get accurate CPU
// usage".
const retry = `retry () { for i in $(seq 50); do "$@" && return; done; return 1; }
	retry `

// realImages are made by the programs that own the formats. A script makes
// "img" in an empty directory.
var realImages = []struct {
	name, script string
	kinds        string
	danger       string // in the dangers, or "" if there must be none
}{
	{"ext2", "truncate -s 8M img; mke2fs -q -t ext2 img", "ext", ""},
	{"ext4", "truncate -s 64M img; mke2fs -q -t ext4 -O 64bit img", "ext", ""},
	{"xfs", "truncate -s 320M img; mkfs.xfs -q img", "xfs", ""},
	{"btrfs", "truncate -s 128M img; mkfs.btrfs -q img", "btrfs", ""},
	{"FAT12", "truncate -s 2M img; mkfs.vfat -F 12 img", "vfat", ""},
	{"FAT16", "truncate -s 20M img; mkfs.vfat -F 16 img", "vfat", ""},
	{"FAT32", "truncate -s 64M img; mkfs.vfat -F 32 img", "vfat", ""},
	{"FAT with a partition table in its boot sector", "truncate -s 20M img; mkfs.vfat --mbr=yes img", "vfat", ""},
	{"exfat", "truncate -s 16M img; mkfs.exfat img", "exfat", ""},
	{"ntfs", "truncate -s 8M img; mkntfs -q -F -p 0 -H 0 -S 0 img", "ntfs", ""},
	{"squashfs", "mkdir d; echo hello > d/f; mksquashfs d img -quiet -no-progress", "squashfs", ""},
	{"erofs", "mkdir d; echo hello > d/f; mkfs.erofs img d", "erofs", ""},
	{"f2fs", "truncate -s 64M img; mkfs.f2fs -q img", "f2fs", ""},
	{"udf", "truncate -s 16M img; mkudffs img", "udf", ""},
	{"udf with blocks of 4 KiB", "truncate -s 16M img; mkudffs -b 4096 img", "udf", ""},
	{"swap", "truncate -s 1M img; chmod 600 img; mkswap img", "swap", ""},
	{"swap for pages of 32 KiB", "truncate -s 4M img; chmod 600 img; mkswap -p 32768 img", "swap", ""},
	{"swap for pages of 64 KiB", "truncate -s 4M img; chmod 600 img; mkswap -p 65536 img", "swap", ""},
	{"an ISO", "mkdir d; echo hello > d/f; genisoimage -quiet -R -o img d", "iso9660", ""},
	{"an ISO that is UDF as well", "mkdir d; echo hello > d/f; genisoimage -quiet -udf -o img d", "iso9660, udf", ""},
	{"an ISO with an MBR", "mkdir d; echo hello > d/f; xorriso -as mkisofs -quiet -partition_offset 16 -o img d",
		"iso9660, mbr", ""},
	{"an ISO with a GPT", `mkdir d; echo hello > d/f; truncate -s 1M efi; mkfs.vfat efi
		xorriso -as mkisofs -quiet -append_partition 2 0xef efi -appended_part_as_gpt -o img d`, "iso9660, gpt", ""},

	{"an MBR", "truncate -s 8M img; echo '2048,,L' | sfdisk -q --label dos img", "mbr", ""},
	{"an MBR before a partition with a filesystem", `truncate -s 8M img; echo '64,,L' | sfdisk -q --label dos img
		mke2fs -q -E offset=32768 img 4M`, "mbr", ""},
	{"a GPT of sfdisk", "truncate -s 8M img; echo ',,L' | sfdisk -q --label gpt img", "gpt", ""},
	{"a GPT of sgdisk", "truncate -s 8M img; sgdisk -n 1:0:0 img", "gpt", ""},
	{"a GPT with a hybrid MBR", "truncate -s 8M img; sgdisk -n 1:0:0 -h 1 img", "gpt, mbr", ""},
	{"luks1", "truncate -s 4M img; echo secret | cryptsetup -q luksFormat --type luks1 --pbkdf-force-iterations 1000 img -",
		"luks", ""},
	{"luks2", `truncate -s 20M img
		echo secret | cryptsetup -q luksFormat --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 img -`, "luks", ""},

	{"raw", "qemu-img create -f raw img 8M", "blank", ""},
	{"qcow", "qemu-img create -f qcow img 8M", "qcow", ""},
	{"qcow with a backing file", "qemu-img create b 8M; qemu-img create -f qcow -b b -F raw img", "qcow",
		"qcow names a backing file"},
	{"qcow2 version 2", "qemu-img create -f qcow2 -o compat=0.10 img 8M", "qcow2", ""},
	{"qcow2 version 3", "qemu-img create -f qcow2 -o compat=1.1 img 8M", "qcow2", ""},
	{"qcow2 with clusters of 512 bytes", "qemu-img create -f qcow2 -o cluster_size=512 img 8M", "qcow2", ""},
	{"qcow2 with clusters of 2 MiB", "qemu-img create -f qcow2 -o cluster_size=2M img 8M", "qcow2", ""},
	{"qcow2 with extended L2", "qemu-img create -f qcow2 -o extended_l2=on,cluster_size=128k img 8M", "qcow2", ""},
	{"qcow2 with lazy refcounts", "qemu-img create -f qcow2 -o lazy_refcounts=on img 8M", "qcow2", ""},
	{"qcow2 with zstd", "echo hello > r; truncate -s 1M r; qemu-img convert -c -O qcow2 -o compression_type=zstd r img",
		"qcow2", ""},
	{"qcow2 with LUKS", retry + `qemu-img create -f qcow2 --object secret,id=s,data=secret \
		-o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 img 8M`, "qcow2", ""},
	{"qcow2 with a backing file", "qemu-img create b 8M; qemu-img create -f qcow2 -b b -F raw img", "qcow2",
		"qcow2 names a backing file"},
	{"qcow2 version 2 with a backing file", "qemu-img create b 8M; qemu-img create -f qcow2 -b b -F raw -o compat=0.10 img",
		"qcow2", "qcow2 names a backing file"},
	{"qcow2 with a data file", "qemu-img create -f qcow2 -o data_file=d img 8M", "qcow2", "external data file"},
	{"qcow2 with a raw data file", "qemu-img create -f qcow2 -o data_file=d,data_file_raw=on img 8M", "qcow2",
		"names an external data file"},
	{"qed", "qemu-img create -f qed img 8M", "qed", "never accepted"},
	{"qed with a backing file", "qemu-img create b 8M; qemu-img create -f qed -b b -F raw img", "qed",
		"qed names a backing file"},
	{"vdi", "qemu-img create -f vdi img 8M", "vdi", ""},
	{"vdi with all blocks", "qemu-img create -f vdi -o static=on img 8M", "vdi", ""},
	{"vmdk", "qemu-img create -f vmdk img 8M", "vmdk", ""},
	{"vmdk version 6", "qemu-img create -f vmdk -o compat6=on img 8M", "vmdk", ""},
	{"vmdk with a backing file", "qemu-img create -f vmdk b.vmdk 8M; qemu-img create -f vmdk -b b.vmdk -F vmdk img", "vmdk",
		"vmdk names a parent"},
	{"vmdk monolithicFlat", "qemu-img create -f vmdk -o subformat=monolithicFlat img 8M", "vmdk", "bare descriptor"},
	{"vmdk twoGbMaxExtentSparse", "qemu-img create -f vmdk -o subformat=twoGbMaxExtentSparse img 8M", "vmdk",
		"bare descriptor"},
	{"an extent of it", "qemu-img create -f vmdk -o subformat=twoGbMaxExtentSparse x.vmdk 8M; mv x-s001.vmdk img", "vmdk",
		"createType"},
	{"vmdk twoGbMaxExtentFlat", "qemu-img create -f vmdk -o subformat=twoGbMaxExtentFlat img 8M", "vmdk",
		"bare descriptor"},
	{"vmdk streamOptimized", `seq 200000 > r; truncate -s 2M r
		qemu-img convert -O vmdk -o subformat=streamOptimized r img`, "vmdk", ""},
	{"vhdx", "qemu-img create -f vhdx img 8M", "vhdx", ""},
	{"vhdx of fixed size", "qemu-img create -f vhdx -o subformat=fixed img 8M", "vhdx", ""},
	{"vhd", "qemu-img create -f vpc img 8M", "vhd", ""},
	{"vhd of fixed size", "qemu-img create -f vpc -o subformat=fixed img 8M", "vhd", ""},
	{"vhd of fixed size that is small", "qemu-img create -f vpc -o subformat=fixed,force_size=on img 4k", "vhd", ""},
	{"vhd of fixed size with a filesystem", `truncate -s 8M r; mke2fs -q r
		qemu-img convert -O vpc -o subformat=fixed r img`, "vhd, ext", ""},
	{"parallels", "qemu-img create -f parallels img 8M", "parallels", ""},
	{"luks of qemu", retry + `qemu-img create -f luks --object secret,id=s,data=secret -o key-secret=s,iter-time=10 img 8M`,
		"luks", ""},

	{"xz", "echo hello | xz > img", "xz", ""},
	{"lzma", "echo hello | xz --format=lzma > img", "lzma", ""},
	{"gzip", "echo hello | gzip > img", "gzip", ""},
	{"gzip of an image", "head -c 300000 /dev/urandom | gzip > img", "gzip", ""},
	{"gzip of a page", "(echo '<!DOCTYPE html>'; seq 100000) | gzip > img", "html", ""},
	{"gzip of a page with a name", "echo '<?xml version=\"1.0\"?><Error/>' > f; gzip f; mv f.gz img", "xml", ""},
	{"bzip2", "echo hello | bzip2 > img", "bzip2", ""},
	{"zstd", "echo hello | zstd -q > img", "zstd", ""},
	{"zstd behind a frame to skip, as of pzstd", `printf '\120\052\115\030\004\000\000\000size' > img; echo hello | zstd -q >> img`, "zstd", ""},
	{"lz4", "echo hello | lz4 -q > img", "lz4", ""},
	{"lzip", "echo hello | lzip > img", "lzip", ""},
	{"bzip2 of nothing", "bzip2 < /dev/null > img", "bzip2", ""},
	{"lz4 for kernels", "echo hello | lz4 -q -l > img", "lz4", ""},
	{"tar of Unix V7", "echo hello > f; tar --format=v7 -cf img f", "tar", ""},
	{"tar", "echo hello > f; tar -cf img f", "tar", ""},
	{"tar of POSIX", "echo hello > f; tar --format=pax -cf img f", "tar", ""},
	{"cpio", "echo hello > f; echo f | cpio --quiet -o -H newc > img", "cpio", ""},
	{"cpio with sums", "echo hello > f; echo f | cpio --quiet -o -H crc > img", "cpio", ""},
	{"cpio of old", "echo hello > f; echo f | cpio --quiet -o -H odc > img", "cpio", ""},
	{"zip", "echo hello > f; zip -q img.zip f; mv img.zip img", "zip", ""},
	{"7z", "echo hello > f; 7z a -bso0 -t7z img.7z f; mv img.7z img", "7z", ""},
}

func TestRealImages(t *testing.T) {
	needTools(t)
	for _, test := range realImages {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := identifyFile(t, makeImage(t, test.script))
			expectSignature(t, s, test.kinds, test.danger)
		})
	}
}

// What lies in a container is its content, wherever in the file it happens
// to be stored, and the container is safe.
func TestContentOfContainersIsTheirs(t *testing.T) {
	needTools(t)
	contents := []string{
		"truncate -s 16M r; mke2fs -q r",
		"truncate -s 128M r; mkfs.btrfs -q r",
		"truncate -s 16M r; mkudffs r",
		"truncate -s 16M r; echo ',,L' | sfdisk -q --label gpt r",
		"truncate -s 16M r; mkfs.vfat r",
		"truncate -s 64M r; mkfs.f2fs -q r",
		"mkdir d; seq 100000 > d/f; genisoimage -quiet -R -o r d",
		"head -c 1M /dev/urandom | xz > r; truncate -s 2M r",
	}
	formats := []string{
		"qcow", "qcow2", "qcow2 -c", "qcow2 -o cluster_size=4k", "vdi", "vmdk", "vmdk -o subformat=streamOptimized",
		"vhdx", "vhdx -o subformat=fixed", "vpc", "parallels",
	}
	for _, content := range contents {
		t.Run(content, func(t *testing.T) {
			t.Parallel()
			var script strings.Builder
			for i, format := range formats {
				fmt.Fprintf(&script, "qemu-img convert -f raw r img%d -O %s\n", i, format)
			}
			img := makeImage(t, content+"\n"+script.String())
			for i, format := range formats {
				kind := strings.Replace(strings.Fields(format)[0], "vpc", "vhd", 1)
				s := identifyFile(t, fmt.Sprint(img, i))
				if s.kinds[0].name != kind || len(s.dangers) > 0 {
					t.Errorf("%s is %v and has the dangers %q", format, s, s.dangers)
				}
			}
		})
	}
}

// The sizes are those with which the start of the disk is stored so that a
// part of it is where it would be in a bare disk. That is no other kind of the
// file, and libblkid does not take it for one.
func TestContentAtThePlaceOfABareDiskInRealImages(t *testing.T) {
	needTools(t)
	label := `printf 'LABELONE\1\0\0\0\0\0\0\0\0\0\0\0\040\0\0\0LVM2 001' | dd of=r bs=512 seek=1 conv=notrunc`
	for _, test := range []struct{ size, content, format, magic string }{
		{"700M", "echo ',,L' | sfdisk -q --label gpt r", "vdi", "4096 EFI PART"},
		{"600M", "echo ',,L' | sfdisk -q --label gpt r", "vpc", "4096 EFI PART"},
		{"6M", "echo ',,L' | sfdisk -q --label gpt r", "qcow2 -o cluster_size=512", "4096 EFI PART"},
		{"850M", "mkswap r", "vdi", "8182 SWAPSPACE2"},
		{"900M", "mkswap r", "vpc", "8182 SWAPSPACE2"},
		{"100M", label, "vdi", "1536 LABELONE"},
		{"850M", `printf '\374\116\053\251\1' | dd of=r conv=notrunc`, "vdi", "4096 \xfc\x4e\x2b\xa9"},
	} {
		t.Run(test.format+" "+test.magic, func(t *testing.T) {
			t.Parallel()
			img := makeImage(t, "truncate -s "+test.size+" r; chmod 600 r\n"+test.content+"\nqemu-img convert -f raw r img -O "+test.format)
			kind := strings.Replace(strings.Fields(test.format)[0], "vpc", "vhd", 1)
			expectSignature(t, identifyFile(t, img), kind, "")

			offset, magic, _ := strings.Cut(test.magic, " ")
			at, _ := strconv.Atoi(offset)
			if data, err := os.ReadFile(img); err != nil || !strings.HasPrefix(string(data[at:]), magic) {
				t.Errorf("there is no %q at %d: this shows nothing", magic, at)
			}
			if out, _ := shell("blkid -p " + img).CombinedOutput(); len(out) > 0 {
				t.Errorf("blkid takes it for %s", out)
			}
		})
	}
}

// A container that gives its own part a length of at least 64 KiB.
func TestContentBehindTheHeaderInRealImages(t *testing.T) {
	needTools(t)
	for _, format := range []string{"parallels -o cluster_size=64k", "vmdk"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			img := makeImage(t, "truncate -s 128M r; mkfs.btrfs -q r; qemu-img convert -f raw r img -O "+format)
			expectSignature(t, identifyFile(t, img), strings.Fields(format)[0]+", btrfs", "")
		})
	}
}

// The attack of OpenStack's test_bad_iso_qcow2: the first 32 KiB of an ISO
// are free for a qcow2 header.
func TestISOThatIsQcow2(t *testing.T) {
	needTools(t)
	for _, format := range []string{"qcow2", "qcow2 -o cluster_size=512", "qcow", "vmdk", "vdi", "vpc", "parallels"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			s := identifyFile(t, makeImage(t, `mkdir d; seq 100000 > d/f; genisoimage -quiet -R -o iso d
				qemu-img create -f `+format+` box 10M; truncate -s 32k box
				dd if=box of=img bs=32k count=1; dd if=iso of=img bs=32k skip=1 seek=1`))
			kind := strings.Replace(strings.Fields(format)[0], "vpc", "vhd", 1)
			expectSignature(t, s, kind+", iso9660", "at once")
		})
	}
}

// needTools names what is missing, instead of leaving tests out.
func needTools(t *testing.T) {
	t.Helper()
	for tool := range strings.FieldsSeq(`mke2fs mkfs.xfs mkfs.btrfs mkfs.vfat mkfs.exfat mkntfs mksquashfs mkfs.erofs mkfs.f2fs
		mkudffs mkswap genisoimage xorriso sfdisk sgdisk blkid cryptsetup qemu-img xz gzip bzip2 zstd lz4 lzip tar cpio zip 7z`) {
		if shell("command -v "+tool).Run() != nil {
			t.Errorf("%s is missing: run make deps", tool)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
}

// shell returns a command with the programs of the superuser in reach, who
// is not needed for their use on files.
func shell(script string) *exec.Cmd {
	c := exec.Command("sh", "-e", "-c", script)
	c.Env = append(os.Environ(), "LC_ALL=C", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	return c
}

// makeImage runs a script in a new directory and returns the path of "img" in
// it.
func makeImage(t *testing.T, script string) string {
	t.Helper()
	c := shell(script)
	c.Dir = t.TempDir()
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return filepath.Join(c.Dir, "img")
}

func identifyFile(t *testing.T, path string) signature {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	prefix := make([]byte, min(info.Size(), prefixSize))
	if _, err := io.ReadFull(f, prefix); err != nil {
		t.Fatal(err)
	}
	return mustIdentify(t, prefix, info.Size(), f)
}
