package tests

import (
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
