// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// signaturePolicy is what signature= wants an image to be. The zero value
// accepts everything.
type signaturePolicy struct {
	value  string   // as the user wrote it
	sane   bool     // not empty and not text
	wanted []string // kinds and groups; nil: any
}

// knownGroups are what signature=known accepts: what a disk can be made of.
var knownGroups = []string{diskGroup, container, compressed}

// parseSignaturePolicy reads sane, known, any, or a list of kinds and groups
// such as "qcow2,disk".
func parseSignaturePolicy(value string) (signaturePolicy, error) {
	p := signaturePolicy{value: value}
	switch strings.ToLower(value) {
	case "any":
		return p, nil
	case "sane":
		p.sane = true
		return p, nil
	case "known":
		p.wanted = knownGroups
		return p, nil
	}
	names := slices.Concat(kindNames(), groupNames(), []string{diskGroup})
	for name := range strings.SplitSeq(value, ",") {
		lower := strings.ToLower(name)
		switch {
		case slices.Contains(names, lower):
			p.wanted = append(p.wanted, lower)
		case lower == "" && value != "":
			return signaturePolicy{}, fmt.Errorf("remove a comma: unknown kind %q", name)
		case lower == "sane" || lower == "known" || lower == "any":
			return signaturePolicy{}, fmt.Errorf("%s cannot be part of a list: use it alone", lower)
		default:
			return signaturePolicy{}, fmt.Errorf("unknown kind %q: use sane, known, any, or a list of the kinds %s, and of the groups %s",
				name, strings.Join(kindNames(), ", "), strings.Join(append([]string{diskGroup}, groupNames()...), ", "))
		}
	}
	return p, nil
}

// check returns nil if an image with this signature, of size bytes, is what
// is wanted.
func (p signaturePolicy) check(s signature, size int64) error {
	switch {
	case p.sane && size == 0:
		return errors.New("signature=sane wants a disk image, but it is empty: signature=any accepts it")
	case p.sane && s.matches([]string{textGroup}):
		return p.refuse(s, "a disk image", "signature=any accepts it")
	case p.wanted != nil && !s.matches(p.wanted):
		accepts := fmt.Sprintf("signature=%s or signature=any accepts it", s.kinds[0].name)
		return p.refuse(s, strings.Join(p.wanted, " or "), accepts)
	}
	return nil
}

func (p signaturePolicy) refuse(s signature, want, remedy string) error {
	var found []string
	for _, k := range s.kinds {
		found = append(found, k.String())
	}
	return fmt.Errorf("signature=%s wants %s, but it is %s and starts with %s: %s",
		p.value, want, strings.Join(found, ", "), s.head, remedy)
}

// matches tells whether any of the kinds found is one of these kinds or in
// one of these groups.
func (s signature) matches(names []string) bool {
	for _, k := range s.kinds {
		if slices.ContainsFunc(names, k.inGroup) {
			return true
		}
	}
	return false
}
