// SPDX-License-Identifier: BSD-3-Clause

package tests

import (
	"encoding/binary"
	"path/filepath"
	"strings"
	"testing"
)

// qemu is told that an image is a VMDK. It then needs nothing of a descriptor
// but createType, which no one who probes for a VMDK looks for.
func TestHiddenDescriptorIsRefused(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	secret := strings.Repeat("secret of the host", 65536/18+1)[:65536]
	write(t, path("secret"), secret)
	const ids = "CID=1\nparentCID=ffffffff\n"
	extent := "RW 128 FLAT \"" + path("secret") + "\" 0\n"
	for name, text := range map[string]string{
		"text":           "x\ncreateType=\"monolithicFlat\"\n" + ids + extent,
		"no text":        "\x01createType=\"monolithicFlat\"\n" + ids + extent,
		"no equals sign": "createType??monolithicFlat\"\n" + ids + extent,
		"at the end":     ids + extent + strings.Repeat("x", 1*mib-200) + "createType=\"vmfs\"",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image := path(strings.ReplaceAll(name, " ", "-"))
			write(t, image, text+strings.Repeat("\x00", max(2*mib-len(text), 0)))
			run(t, "", "qemu-img", "convert", "-f", "vmdk", "-O", "raw", image, image+".raw")
			if contents(t, image+".raw") != secret {
				t.Fatal("qemu-img does not open the file that the image names: this shows nothing")
			}
			for _, params := range []string{"signature=sane", "signature=any"} {
				s := serve(t, "-r", "--filter="+filter, "file", image, "digest-file="+image+".sum", params)
				o := execute(t, "", "qemu-img", "convert", "-f", "vmdk", "-O", "raw", s.uri(), image+".out")
				log := s.stop()
				if o.status == 0 || exists(image+".out") {
					t.Errorf("%s lets qemu-img read a file of the host", params)
				}
				if !strings.Contains(log, "bare descriptor of a vmdk") && (params == "signature=any" || !strings.Contains(log, "it is text")) {
					t.Errorf("%s: nbdkit says\n%s", params, log)
				}
			}
		})
	}
}

// QEMU goes by the start of an image, whatever container its end, or what is at
// 64, says that it is; and by that of a VMDK for most of its versions.
func TestStartBeforeAFooterIsRefused(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	secret := strings.Repeat("secret of the host", 65536/18+1)[:65536]
	write(t, path("secret"), secret)
	run(t, dir, "qemu-img", "create", "-q", "-f", "vmdk", "base.vmdk", "64k")
	run(t, dir, "qemu-img", "convert", "-f", "raw", "-O", "vmdk", "secret", "base.vmdk")

	le32 := func(numbers ...uint32) (s []byte) {
		for _, n := range numbers {
			s = binary.LittleEndian.AppendUint32(s, n)
		}
		return s
	}
	// The descriptor is at sector 1 and has 20, the capacity is 0.
	sparse := func(version uint32) string {
		return "KDMV" + string(le32(version, 3, 0, 0, 128, 0, 1, 0, 20, 0, 512))
	}
	// 128 sectors, grains of 128, one entry of the directory at sector 4.
	esx := "COWD" + string(le32(4, 3, 128, 128, 4, 1))
	flat := "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 128 FLAT \"" + path("secret") + "\" 0\n"
	var id string
	for line := range strings.Lines(contents(t, path("base.vmdk"))[512:]) {
		if strings.HasPrefix(line, "CID=") {
			id = line
		}
	}
	child := "# Disk DescriptorFile\nversion=1\nCID=1\nparent" + id + "parentFileNameHint=\"" + path("base.vmdk") + "\"\n"

	for _, start := range []struct{ name, header, descriptor string }{
		{"version-0", sparse(0), flat}, {"version-4", sparse(4), flat}, {"esx", esx, child},
	} {
		for _, other := range []struct {
			name   string
			offset int // from the end if it is negative
			bytes  string
		}{
			{"vhd", -512, "conectix" + strings.Repeat("\x00", 52) + "\x00\x00\x00\x02"},
			{"dmg", -512, "koly\x00\x00\x00\x04\x00\x00\x02\x00"},
			{"vdi", 64, "\x7f\x10\xda\xbe\x01\x00\x01\x00\x90\x01\x00\x00\x02"},
		} {
			t.Run(start.name+" and "+other.name, func(t *testing.T) {
				t.Parallel()
				data := make([]byte, 1*mib)
				copy(data, start.header)
				copy(data[512:], start.descriptor)
				copy(data[(other.offset+len(data))%len(data):], other.bytes)
				image := path(start.name + "." + other.name)
				write(t, image, string(data))
				for _, format := range []string{"", "-f vmdk"} {
					if format == "" && other.name == "vdi" {
						continue // which of the two it is depends on the version of QEMU
					}
					convert := append(append([]string{"qemu-img", "convert"}, strings.Fields(format)...), "-O", "raw")
					run(t, "", append(convert, image, image+".raw")...)
					if contents(t, image+".raw") != secret {
						t.Fatal("qemu-img does not open the file that the image names: this shows nothing")
					}
					s := serve(t, "-r", "--filter="+filter, "file", image, "digest-file="+image+".sum")
					o := execute(t, "", append(convert, s.uri(), image+".out")...)
					log := s.stop()
					if o.status == 0 || exists(image+".out") || !strings.Contains(log, "is not safe to open") {
						t.Errorf("qemu-img %s reads a file of the host, nbdkit says\n%s", format, log)
					}
				}
			})
		}
	}
}

// What is packed is not looked at, but by a second nbdkit or in front of what
// unpacks it, as the manual says.
func TestPackedImageIsLookedAtWhereItIsUnpacked(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "secret"), strings.Repeat("x", 65536))
	run(t, dir, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "secret", "-F", "raw", "evil.qcow2")
	run(t, dir, "xz", "evil.qcow2")
	image := filepath.Join(dir, "evil.qcow2.xz")
	packed := serve(t, "-r", "--filter=xz", "--filter="+filter, "file", image, "digest-file="+dir+"/packed.sum")
	run(t, "", "nbdinfo", "--size", packed.uri())
	for name, layers := range map[string][]string{
		"a second nbdkit":          {"--filter=" + filter, "nbd", packed.uri()},
		"in front of what unpacks": {"--filter=" + filter, "--filter=xz", "file", image},
	} {
		s := serve(t, append(append([]string{"-r"}, layers...), "digest-file="+dir+"/sum")...)
		o := execute(t, "", "nbdinfo", "--size", s.uri())
		if log := s.stop(); o.status == 0 || !strings.Contains(log, "backing file") {
			t.Errorf("%s: it is served, nbdkit says\n%s", name, log)
		}
	}
	packed.stop()
}

// Extents have the name of the file, which may be odd.
func TestNamesOfVMDKs(t *testing.T) {
	dir := t.TempDir()
	for name, refusal := range map[string]string{
		"2026-01-01T10:00.vmdk": "",
		"My disk 10:00.vmdk":    "",
		"createType.vmdk":       "",
		"parentCID.vmdk":        "",
		"nbd:x.vmdk":            "names a path",
		"x.parentFileNameHint":  "names a parent", // qemu takes what follows for its name
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, dir, "qemu-img", "create", "-q", "-f", "vmdk", "./"+name, "1M")
			if !strings.Contains(contents(t, filepath.Join(dir, name)), "\nRW 2048 SPARSE \""+name+"\"\n") {
				t.Fatal("the extent has another name")
			}
			s := serve(t, "-r", "--filter="+filter, "file", filepath.Join(dir, name), "digest-file="+t.TempDir()+"/sum")
			o := execute(t, "", "qemu-img", "info", "-f", "vmdk", s.uri())
			log := s.stop()
			if (o.status == 0) != (refusal == "") || !strings.Contains(log, refusal) {
				t.Errorf("qemu-img has the status %d, nbdkit says\n%s", o.status, log)
			}
		})
	}
}
