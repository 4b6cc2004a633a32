// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"nbdkit-digest-filter/nbdkit"
)

func TestNamesOfQueries(t *testing.T) {
	for _, c := range []struct {
		name string
		want query
		ok   bool
	}{
		{".digest", query{all: true}, true},
		{".digest/", query{}, true},
		{".digest/a", query{export: "a"}, true},
		{".digest/a/b", query{export: "a/b"}, true},
		{".digest/.digest", query{export: ".digest"}, true},
		{".digest-final", query{all: true, final: true}, true},
		{".digest-final/", query{final: true}, true},
		{".digest-final/a", query{export: "a", final: true}, true},
		{"", query{}, false},
		{"a", query{}, false},
		{"/", query{}, false},
		{"/.digest", query{}, false},
		{".digests", query{}, false},
		{".digest-", query{}, false},
		{".digest-finally/a", query{}, false},
		{".DIGEST", query{}, false},
		{"digest/a", query{}, false},
	} {
		if got, ok := parseQuery(c.name); got != c.want || ok != c.ok {
			t.Errorf("%q: got %+v, %v", c.name, got, ok)
		}
	}
}

func FuzzQueryNames(f *testing.F) {
	for _, s := range []string{"", ".digest", ".digest/", ".digest-final/a", ".digest-final/\xff", ".digest/a/b/", ".digest/\n\"<>"} {
		f.Add(s)
	}
	conf, err := parseConfig([]nbdkit.Param{{Key: "digest", Value: "sha256,blake3"}}, "/")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, name string) {
		filter := &filter{conf: conf}
		q, ok := parseQuery(name)
		for _, kind := range []string{".digest", ".digest-final"} {
			export, named := strings.CutPrefix(name, kind+"/")
			want := query{export: export, final: kind == ".digest-final"}
			if name == kind {
				want.export, want.all = "", true
			} else if !named {
				continue
			}
			if q != want {
				t.Fatalf("%q asks %+v, want %+v", name, q, want)
			}
		}
		if q.final && q.export == "" {
			return // this needs nbdkit
		}
		content, err := filter.OpenOwn(name, false)
		if err != nil || ok != (content != nil) {
			t.Fatalf("%q is opened as %v, %v", name, content, err)
		}
		if !ok {
			if strings.HasPrefix(name, ".digest/") || strings.HasPrefix(name, ".digest-final/") {
				t.Fatalf("%q is not a query", name)
			}
			return
		}
		if content.Size()%queryBlock != 0 || content.Size() == 0 {
			t.Errorf("the size is %d", content.Size())
		}
		if q.final {
			return // to be read it needs nbdkit
		}
		p := make([]byte, content.Size())
		if n, err := content.ReadAt(p, 0); n != len(p) || err != nil {
			t.Fatalf("%d bytes are read, %v", n, err)
		}
		var doc document
		doc.Images = []result{{}}
		if err := json.Unmarshal(p, &doc); err != nil {
			t.Fatal(err)
		}
		if got, want := doc.Images[0].Export, q.export; got != want && utf8.ValidString(want) {
			t.Errorf("the answer is about %q, not %q", got, want)
		}
	})
}

// Whatever becomes of an image, the final document has the size that was told.
func TestFinalDocumentFits(t *testing.T) {
	conf := testConfig(t, "digest", "md5,sha512,blake3")
	now := time.Now()
	for _, r := range []result{
		unopened("", conf),
		unopened(strings.Repeat("long", 1000), conf),
		{State: failed, Error: strings.Repeat("é\n\"", 1000), Size: 1 << 60, Started: now, Finished: &now},
	} {
		size := new(queries).roundUp(len(formatJSON(widest([]result{r, r}))))
		for _, later := range []result{r, {Export: r.Export, Name: r.Name, Digests: r.Digests, Error: strings.Repeat("\"", 5000)}} {
			if doc := padTo(fit([]result{later, later}, size), size); len(doc) != size || !json.Valid(doc) {
				t.Errorf("the document has %d bytes of %d", len(doc), size)
			}
		}
	}
}

// What is known of the start of an image can be longer than was reserved: then less of it
// is told.
func TestFinalDocumentWithManyWarningsFits(t *testing.T) {
	r := unopened("", testConfig(t, "digest", "blake3"))
	size := new(queries).roundUp(len(formatJSON(widest([]result{r}))))
	r.Signature = &signatureResult{Kind: "ext4", Group: "filesystem", Kinds: []string{"ext4"},
		Warnings: []string{strings.Repeat("w", 3*size)}}
	doc := padTo(fit([]result{r}, size), size)
	if len(doc) != size || !json.Valid(doc) || !bytes.Contains(doc, []byte(`"ext4"`)) {
		t.Errorf("%d bytes of %d: %s", len(doc), size, doc)
	}
}

// A query for all images is for those that clients have opened, and one for the default
// export for the one that it is.
func TestWhichImagesAreAskedFor(t *testing.T) {
	f := newFilter()
	f.conf = testConfig(t, "digest", "blake3")
	open := func(name string) {
		im, err := f.image(name, mib)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(im.end)
	}
	open("a")
	open("b")
	if got := strings.Join(f.asked(query{all: true}), " "); got != "a b" {
		t.Errorf("all images are %q", got)
	}
	f.defaults = map[string]bool{"a": true}
	if got := f.named(""); got != "a" {
		t.Errorf("the default export is %q, not its name", got)
	}
	f.defaults["b"] = true
	for range 20 { // the order of a map is random
		if got := f.named(""); got != "" {
			t.Errorf("of two default exports %q is taken", got)
		}
	}
	delete(f.defaults, "b")
	open("")
	if got := f.named(""); got != "" {
		t.Errorf("the export without a name is taken for %q", got)
	}
}

func TestDescriptions(t *testing.T) {
	for _, c := range []struct {
		want string
		r    result
	}{
		{"blake3:12", result{State: complete, Digests: []digestResult{{Algorithm: "blake3", Hex: "12"}}}},
		{"sha256:12 blake3:34", result{State: complete, Digests: []digestResult{{Algorithm: "sha256", Hex: "12"}, {Algorithm: "blake3", Hex: "34"}}}},
		{"digest pending: 37.2% of 10 GiB", result{State: pending, Size: 10 << 30, Bytes: byteCounts{Known: 372*10<<30/1000 + 1}}},
		{"digest pending: 99.9% of 1.5 KiB", result{State: pending, Size: 1536, Bytes: byteCounts{Known: 1536}}},
		{"digest pending: 0.0% of 77 bytes", result{State: pending, Size: 77}},
		{"digest changing", result{State: changing}},
		{"digest failed", result{State: failed}},
	} {
		if got := describe(c.r); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

// The description of the layer below comes after ours, as far as NBD has room.
func TestDescriptionOfTheLayerBelow(t *testing.T) {
	im, _ := newTestImage(t, 1<<20, "digest", "blake3")
	c := &conn{filter: &filter{conf: im.conf}, image: im}
	const ours = "digest pending: 0.0% of 1 MiB"
	if got := c.Describe(""); got != ours {
		t.Errorf("got %q", got)
	}
	if got := c.Describe("a disk"); got != ours+"; a disk" {
		t.Errorf("got %q", got)
	}
	got := c.Describe(strings.Repeat("é", 2048))
	if len(got) > nbdkit.MaxString || len(got) < nbdkit.MaxString-2 || !utf8.ValidString(got) || !strings.HasSuffix(got, "é...") {
		t.Errorf("got %d bytes, %q", len(got), got)
	}
	c.filter = &filter{conf: testConfig(t, "digest-query", "off")}
	if got := c.Describe("a disk"); got != "a disk" {
		t.Errorf("without queries, got %q", got)
	}
}

func TestPace(t *testing.T) {
	start := time.Now()
	var p pace
	for _, c := range []struct {
		name      string
		at        time.Duration
		seen, all int64
		want      int64 // -1 for nil
	}{
		{"nothing yet", 1 * time.Second, 0, 1000, -1},
		{"since the start", 2 * time.Second, 100, 1000, 18},
		{"a new sight", 7 * time.Second, 600, 1000, 4},
		{"since the one before", 8 * time.Second, 700, 1000, 3},
		{"it rests", 20 * time.Second, 700, 1000, 39},
		{"it still rests", 40 * time.Second, 700, 1000, -1},
		{"a part is unknown again", 41 * time.Second, 100, 1000, 369},
		{"all", 42 * time.Second, 1000, 1000, 0},
	} {
		got := p.rest(start.Add(c.at), start, c.seen, c.all)
		if got == nil && c.want != -1 || got != nil && *got != c.want {
			t.Errorf("%s: got %v", c.name, got)
			if got != nil {
				t.Log(*got)
			}
		}
	}
}
