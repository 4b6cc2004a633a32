// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"errors"
	"fmt"
	"strings"
)

// Notes on unsafe images
//
// A container may lead whoever opens it to other files: a qcow2 that names
// /etc/shadow as its backing file gives it to the guest. OpenStack had
// several CVEs of this sort (2015-1850, 2022-47951, 2024-32498, 2024-44082).
// A check looks at one way of a format to do so and returns a clause that
// says what it found, or "".

type safetyCheck struct {
	kind, name string
	find       func(v *view) string
}

var safetyChecks = []safetyCheck{
	{"qcow", "backing file", qcowBackingFile},
	{"qcow2", "backing file", qcowBackingFile},
	{"qcow2", "data file", qcow2DataFile},
	{"qcow2", "features", qcow2Features},
	{"qcow2", "header length", qcow2HeaderLength},
	{"qcow2", "header extensions", qcow2Extensions},
	{"qed", "format", qedFormat},
	{"qed", "backing file", qedBackingFile},
	{"vmdk", "header", vmdkHeader},
	{"vmdk", "descriptor", vmdkDescriptor},
	{"vmdk", "parent", vmdkParent},
	{"vmdk", "extents", vmdkExtents},
	{"vmdk", "footer", vmdkFooter},
	{"vhd", "disk type", vhdDiskType},
	{"vhd", "dynamic header", vhdDynamicHeader},
	{"vhdx", "log", vhdxLog},
	{"vhdx", "parent", vhdxParent},
	{"vdi", "image type", vdiImageType},
	{"vdi", "parent", vdiParent},
	{"vdi", "offsets", vdiOffsets},
}

// findDangers returns what is unsafe about the kinds that were found.
func (v *view) findDangers(found []finding) (dangers []string) {
	add := func(clause string) {
		if clause != "" {
			dangers = append(dangers, clause)
		}
	}
	for _, c := range safetyChecks {
		if isFound(found, c.kind) {
			add(c.find(v))
		}
	}
	add(v.hiddenDescriptor(found))
	add(v.brokenContainer())
	add(v.twoThings(found))
	return dangers
}

// brokenContainer looks for the magic of a container whose header is none
// that we know. Some program may know it, also if there is another container
// elsewhere in the image: QEMU goes by the start, and so a footer, which any
// image can have, must hide nothing.
func (v *view) brokenContainer() string {
	known := make(map[int64]bool)
	for _, row := range kindTable {
		if row.group == container {
			for _, at := range v.places(row) {
				known[at] = true
			}
		}
	}
	for _, row := range kindTable {
		for _, m := range row.magics {
			if row.group == container && m.bytes != "" && !known[m.offset] && v.has(m.offset, m.bytes) {
				return fmt.Sprintf("it starts as %s does, but the header is none that is known", row.name)
			}
		}
	}
	return ""
}

// unsafe returns an error if the image can lead its reader to other files.
func (s signature) unsafe() error {
	if len(s.dangers) == 0 {
		return nil
	}
	return errors.New("the image is not safe to open: " + strings.Join(s.dangers, "; ") +
		": signature-unsafe=allow accepts it")
}
