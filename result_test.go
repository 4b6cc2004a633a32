// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"strings"
	"testing"
)

// What is not known yet is neither as expected nor otherwise.
func TestResultBeforeThereIsADigest(t *testing.T) {
	im, _ := newTestImage(t, mib, "digest-expect", "blake3:"+strings.Repeat("00", 32))
	if d := im.snapshot().Digests[0]; d.Expected == "" || d.Match != nil {
		t.Errorf("expected %q, match %v", d.Expected, d.Match)
	}
	im.end()
}

// A result says when it came, also before the server ends, until a write takes it back.
func TestResultSaysWhenItCame(t *testing.T) {
	im, c := newTestImage(t, mib, "digest", "blake3")
	c.read(0, im.size)
	if r := im.snapshot(); r.State != complete || r.Finished == nil {
		t.Errorf("%s, finished %v", r.State, r.Finished)
	}
	c.write([]byte("new"), 0, true)
	if r := im.snapshot(); r.State == complete || r.Finished != nil {
		t.Errorf("after a write: %s, finished %v", r.State, r.Finished)
	}
	im.end()
}

// A digest that is not the expected one is no line that a tool would take.
func TestMismatchIsACommentOfTheSidecar(t *testing.T) {
	results := someResults("a")
	results[0].State = mismatch
	for name, write := range map[string]format{"text": formatText, "gnu": formatGNU} {
		if got := string(write(results)); !strings.HasPrefix(got, "# ") {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestSidecarSaysWhyItFailed(t *testing.T) {
	results := someResults("a")
	r := &results[0]
	r.State, r.Error, r.Digests[0].Hex = failed, "a fault", ""
	if got := string(formatText(results)); got != "# SHA256 (a): failed: a fault\n" {
		t.Error(got)
	}
}

// A script goes through the images, if there are none, too.
func TestDocumentWithoutImages(t *testing.T) {
	if doc := formatJSON(nil); !bytes.Contains(doc, []byte(`"images": []`)) {
		t.Errorf("%s", doc)
	}
}
