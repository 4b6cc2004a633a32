// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"slices"
	"strings"
	"testing"
)

func TestSignaturePolicy(t *testing.T) {
	page, iso := []byte("<html>\n\x1b"), craft(128<<10, primary, linux, signed)
	for _, test := range []struct {
		policy string
		image  []byte
		want   string // all in the error, or "" if the image is accepted
	}{
		{"sane", sample("gpt"), ""},
		{"sane", sample("qcow2"), ""},
		{"sane", sample("unknown"), ""},
		{"sane", sample("blank"), ""},
		{"sane", nil, "signature=sane wants a disk image, but it is empty: signature=any accepts it"},
		{"sane", page, `signature=sane wants a disk image, but it is html (text) and starts with "<html>..": signature=any accepts it`},
		{"Sane", sample("text"), "text"},
		{"sane", sample("xml"), "xml"},
		{"sane", sample("json"), "json"},
		{"any", page, ""},
		{"any", nil, ""},
		{"known", sample("gpt"), ""},
		{"known", sample("ext"), ""},
		{"known", sample("luks"), ""},
		{"known", sample("vhdx"), ""},
		{"known", sample("xz"), ""},
		{"known", sample("tar"), "signature=known wants disk or container or compressed, but it is tar (archive)"},
		{"known", sample("unknown"), "signature=known wants disk or container or compressed, but it is unknown and starts with \".\": signature=unknown or signature=any accepts it"},
		{"known", sample("blank"), "blank"},
		{"known", page, "html"},
		{"qcow2", sample("qcow2"), ""},
		{"qcow2,vmdk", sample("vmdk"), ""},
		{"qcow2,vmdk", sample("gpt"), "signature=qcow2,vmdk wants qcow2 or vmdk, but it is gpt (partition-table)"},
		{"QCOW2", sample("qcow2"), ""},
		{"mbr", iso, ""},
		{"iso9660", iso, ""},
		{"gpt", iso, "iso9660 (filesystem), mbr (partition-table)"},
		{"disk", sample("ext"), ""},
		{"disk", sample("mbr"), ""},
		{"disk", sample("lvm"), ""},
		{"disk", sample("qcow2"), "qcow2 (container)"},
		{"filesystem", sample("gpt"), "gpt"},
		{"text", page, ""},
		{"blank", nil, ""},
		{"unknown", sample("unknown"), ""},
	} {
		p, err := parseSignaturePolicy(test.policy)
		if err != nil {
			t.Fatal(err)
		}
		err = p.check(identifyBytes(t, test.image), int64(len(test.image)))
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("signature=%s: the error is %v, want %q", test.policy, err, test.want)
		}
	}
}

func TestEveryKindAndGroupCanBeAskedFor(t *testing.T) {
	for _, s := range samples {
		for _, value := range []string{s.kind, identifyBytes(t, s.image).kinds[0].group} {
			p, err := parseSignaturePolicy("rar," + value)
			if err != nil {
				t.Fatal(err)
			}
			if err := p.check(identifyBytes(t, s.image), int64(len(s.image))); err != nil {
				t.Errorf("%s: %v", s.kind, err)
			}
		}
	}
	for _, row := range kindTable {
		if !slices.Contains(groupNames(), row.group) {
			t.Errorf("%s is in the group %s, which is not listed", row.name, row.group)
		}
	}
}

func TestBadSignaturePolicy(t *testing.T) {
	for value, want := range map[string]string{
		"qcow3":      `unknown kind "qcow3": use sane, known, any, or a list of the kinds gpt, mbr`,
		"":           `unknown kind "": use sane`,
		"qcow2,":     `remove a comma: unknown kind ""`,
		"qcow2, vdi": `unknown kind " vdi"`,
		"qcow2,any":  "any cannot be part of a list: use it alone",
		"sane,qcow2": "sane cannot be part of a list",
		"rar,Known":  "known cannot be part of a list",
		"x":          "and of the groups disk, partition-table",
	} {
		if _, err := parseSignaturePolicy(value); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("signature=%s: the error is %v, want %q", value, err, want)
		}
	}
}
