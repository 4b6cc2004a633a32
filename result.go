// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// A result is what is known of one image at some moment.
type result struct {
	Export string    `json:"export"`
	Name   string    `json:"name"`
	Size   imageSize `json:"size"`
	State  state     `json:"state"`
	Error  string    `json:"error,omitempty"`

	Signature *signatureResult `json:"signature,omitempty"`

	Digests  []digestResult `json:"digests"`
	Bytes    byteCounts     `json:"bytes"`
	Estimate *int64         `json:"estimated_seconds,omitempty"` // in queries only
	Started  time.Time      `json:"started,omitzero"`
	Finished *time.Time     `json:"finished,omitempty"`
}

// A signatureResult says what the image is: the most telling kind, and all.
type signatureResult struct {
	Kind     string   `json:"kind"`
	Group    string   `json:"group"`
	Kinds    []string `json:"kinds"`
	Dangers  []string `json:"dangers,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
}

// imageSize is a number of bytes, or unknownSize.
type imageSize int64

const unknownSize imageSize = -1

func (n imageSize) MarshalJSON() ([]byte, error) {
	if n == unknownSize {
		return []byte("null"), nil
	}
	return strconv.AppendInt(nil, int64(n), 10), nil
}

// A digestResult has no Hex unless the digest is that of the whole image.
type digestResult struct {
	Algorithm string `json:"algorithm"`
	Hex       string `json:"hex,omitempty"`
	Expected  string `json:"expected,omitempty"`
	Match     *bool  `json:"match,omitempty"`
	tag       string
}

// expect fills in what was expected.
func (d *digestResult) expect(list []expectation) {
	for _, e := range list {
		if e.algorithm.name != d.Algorithm {
			continue
		}
		d.Expected = hex.EncodeToString(e.sum)
		if sum, err := hex.DecodeString(d.Hex); err == nil && d.Hex != "" {
			match := e.matches(sum)
			d.Match = &match
		}
	}
}

// byteCounts tell where the bytes of a digest came from.
type byteCounts struct {
	Known         int64 `json:"known"`
	Unread        int64 `json:"unread"` // not known yet
	ClientRead    int64 `json:"client_read"`
	ClientWritten int64 `json:"client_written"`
	Holes         int64 `json:"holes"`
	FilterRead    int64 `json:"filter_read"`
}

// snapshot returns what is known now.
func (im *image) snapshot() result {
	for _, t := range im.trees {
		t.flush()
	}
	known := im.progress()
	im.mu.Lock()
	defer im.mu.Unlock()
	r := result{
		Export:  im.export,
		Name:    im.conf.displayName(im.export),
		Size:    imageSize(im.size),
		State:   pending,
		Error:   im.failure,
		Started: im.started.UTC().Truncate(time.Second),
		Bytes: byteCounts{
			Known:         known,
			Unread:        im.size - known,
			ClientRead:    im.clientRead.Load(),
			ClientWritten: im.clientWritten.Load(),
			Holes:         im.holes.Load(),
			FilterRead:    im.filterRead.Load(),
		},
	}
	if s := im.signature; s != nil {
		r.Signature = &signatureResult{Kind: s.kinds[0].name, Group: s.kinds[0].group, Warnings: s.warnings, Dangers: s.dangers}
		for _, k := range s.kinds {
			r.Signature.Kinds = append(r.Signature.Kinds, k.name)
		}
	}
	switch {
	case im.failure != "":
		r.State = failed
	case im.refused.Load(), im.sums != nil && im.deferred.Load():
		r.State = mismatch
	case im.sums != nil:
		r.State = complete
	case im.writers > 0:
		r.State = changing
	case im.ended:
		r.State = incomplete
	}
	if im.sums != nil || im.ended {
		finished := im.finished.UTC().Truncate(time.Second)
		r.Finished = &finished
	}
	for i, a := range im.conf.digests {
		d := digestResult{Algorithm: a.name, tag: a.tag()}
		if im.sums != nil && (r.State == complete || r.State == mismatch) {
			d.Hex = im.sums[i]
		}
		d.expect(im.conf.expect)
		r.Digests = append(r.Digests, d)
	}
	return r
}

// document is the sidecar in JSON.
type document struct {
	Version int      `json:"version"`
	Filter  string   `json:"filter"`
	Images  []result `json:"images"`
}

// A format writes results in the form of a sidecar.
type format func(results []result) []byte

var formats = map[string]format{
	"text": formatText,
	"gnu":  formatGNU,
	"json": formatJSON,
}

// formatText writes BSD's tagged lines, which sha256sum --check and cksum
// --check read.
func formatText(results []result) []byte {
	return formatLines(results, func(d digestResult, name, mark string) string {
		return fmt.Sprintf("%s%s (%s) = %s\n", mark, d.tag, name, d.Hex)
	})
}

// formatGNU writes what sha256sum and b3sum do: one digest, two blanks, and
// the name.
func formatGNU(results []result) []byte {
	return formatLines(results, func(d digestResult, name, mark string) string {
		return fmt.Sprintf("%s%s  %s\n", mark, d.Hex, name)
	})
}

func formatLines(results []result, line func(d digestResult, name, mark string) string) []byte {
	var out bytes.Buffer
	for _, r := range results {
		// As coreutils: a name with special characters is escaped, and a
		// backslash at the start of the line says so.
		name := escapeName.Replace(r.Name)
		mark := ""
		if name != r.Name {
			mark = `\`
		}
		for _, d := range r.Digests {
			if d.Hex != "" && r.State == complete {
				out.WriteString(line(d, name, mark))
			} else {
				fmt.Fprintf(&out, "# %s (%s): %s\n", d.tag, name, r.explain(d))
			}
		}
	}
	return out.Bytes()
}

var escapeName = strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`)

// explain says in words why there is no digest.
func (r result) explain(d digestResult) string {
	switch {
	case d.Match != nil && !*d.Match:
		return fmt.Sprintf("%s, expected %s got %s", r.State, d.Expected, d.Hex)
	case r.State == mismatch:
		return fmt.Sprintf("%s of another digest", r.State)
	}
	if r.Error != "" {
		return fmt.Sprintf("%s: %s", r.State, r.Error)
	}
	return fmt.Sprintf("%s, %d of %d bytes are known", r.State, r.Bytes.Known, r.Size)
}

func formatJSON(results []result) []byte {
	doc := document{Version: 1, Filter: "digest " + version(), Images: results}
	if doc.Images == nil {
		doc.Images = []result{}
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(doc); err != nil {
		panic(err) // all of it is strings and numbers
	}
	return out.Bytes()
}
