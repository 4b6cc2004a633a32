// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"nbdkit-digest-filter/nbdkit"
)

// Notes on queries
//
// A client asks by the name of an export that is the filter's own, and reads
// the answer: the document of the sidecar in JSON, as of now. To open such an
// export does not open the layer below.
//
// The answer of .digest is made when it is opened, that of .digest-final when
// it is first read: nbdinfo --list opens every export, most clients open one
// twice, and neither must read an image. As the size must be told before, the
// final document is padded to what it can at most become.

const (
	queryNow   = ".digest"
	queryFinal = ".digest-final"

	// queryBlock is what the size of an answer is a multiple of: qemu adds zeros
	// to what is not one of 512, and clients that know larger blocks do not read
	// a part of one. More blanks would be a nuisance in a terminal.
	queryBlock = 4 << 10
	// largestBlock is the same behind the blocksize filter, which leaves out what
	// is not a whole block: it is the most that minblock= can be.
	largestBlock = 64 << 10

	// finalReserve is how much a document may grow for each image, beside what
	// widest knows of.
	finalReserve = 512
	errorMax     = 256
	// signatureReserve is the same for each part of a signature. If it needs
	// more, only its kind is told.
	signatureReserve = 256
)

var _ nbdkit.Exporter = (*filter)(nil)

// fragile are nbdkit's filters that must not have the filter's own exports behind
// them. cache, cow and tar know one export: they hand out its bytes, or its
// size, for another one, or read beyond the end of it, for which nbdkit aborts.
// luks crashes at an export that is not encrypted.
var fragile = []string{"cache", "cow", "luks", "tar"}

// decoding are those that find nothing to decode in a document, or nothing where they
// look: nbdinfo --list fails if a single export cannot be opened.
var decoding = []string{
	"bzip2", "ddrescue", "ext2", "extentlist", "gzip", "indexed-gzip", "lzip", "offset", "partition", "qcow2dec", "xz",
}

// queries is what a filter keeps for queries.
type queries struct {
	behind string // one of the fragile, if that keeps the own exports closed
	hidden bool   // they are not listed
	block  int    // largestBlock, or 0 for queryBlock

	mu     sync.Mutex               // guards all below
	warned map[string]bool          // exports of the layer below that are hidden
	turns  map[string]chan struct{} // exports that are being completed
}

// A query is what the name of an export asks.
type query struct {
	export string
	all    bool // no export was named
	final  bool
}

// parseQuery tells whether an export is the filter's own, and what it asks.
func parseQuery(name string) (q query, ok bool) {
	kind, export, named := strings.Cut(name, "/")
	if kind != queryNow && kind != queryFinal {
		return query{}, false
	}
	return query{export: export, all: !named, final: kind == queryFinal}, true
}

// List puts the filter's own exports behind those of the layer below.
func (f *filter) List(below []nbdkit.Export) []nbdkit.Export {
	if !f.conf.query {
		return below
	}
	var list []nbdkit.Export
	for _, e := range below {
		if _, ours := parseQuery(e.Name); ours {
			f.warnHidden(e.Name)
		} else {
			list = append(list, e)
		}
	}
	if f.queries.behind != "" || f.queries.hidden {
		return list
	}
	return append(list,
		nbdkit.Export{Name: queryNow, Description: describeQuery(query{})},
		nbdkit.Export{Name: queryFinal, Description: describeQuery(query{final: true})})
}

// lookInFront finds out what the filters in front mean for queries.
func (f *filter) lookInFront() {
	if nbdkit.IsBehind("blocksize") {
		f.queries.block = largestBlock
	}
	f.closeQueries()
}

// closeQueries keeps clients from exports that a filter in front cannot bear or open,
// unless whoever started nbdkit wants to have them all the same.
func (f *filter) closeQueries() {
	if f.conf.queryGiven {
		return
	}
	f.queries.hidden = slices.ContainsFunc(decoding, nbdkit.IsBehind)
	for _, name := range fragile {
		if nbdkit.IsBehind(name) {
			f.queries.behind = name
			nbdkit.Debug("behind the %s filter queries are not answered", name)
			return
		}
	}
}

func (f *filter) warnHidden(export string) {
	f.queries.mu.Lock()
	defer f.queries.mu.Unlock()
	if f.queries.warned[export] {
		return
	}
	if f.queries.warned == nil {
		f.queries.warned = make(map[string]bool)
	}
	f.queries.warned[export] = true
	nbdkit.Error("export %q of the layer below is hidden by the filter's own: digest-query=false gives it back", export)
}

func describeQuery(q query) string {
	if q.final {
		return "digests as JSON, completed when this is read"
	}
	return "digests as JSON, as far as they are known"
}

// An answer is what one connection reads.
type answer struct {
	query  query
	size   int64
	render func() []byte // called by the first read

	once    sync.Once
	content []byte
}

func (f *filter) OpenOwn(export string, tls bool) (nbdkit.Content, error) {
	q, ok := parseQuery(export)
	if !ok || !f.conf.query {
		return nil, nil
	}
	if behind := f.queries.behind; behind != "" {
		return nil, fmt.Errorf("export %q cannot be served behind the %s filter, which takes every export for the image: the description of the export tells its digests", export, behind)
	}
	exports := f.asked(q)
	results := make([]result, len(exports))
	for i, e := range exports {
		results[i] = f.query(e)
	}
	if !q.final {
		content := formatJSON(results)
		content = padTo(content, f.queries.roundUp(len(content)))
		return &answer{query: q, size: int64(len(content)), render: func() []byte { return content }}, nil
	}
	size := f.queries.roundUp(len(formatJSON(widest(results))))
	open := f.opener(exports, tls)
	return &answer{query: q, size: int64(size), render: func() []byte {
		return padTo(fit(f.finals(exports, open), size), size)
	}}, nil
}

func (a *answer) Size() int64 { return a.size }

func (a *answer) ReadAt(p []byte, offset int64) (int, error) {
	a.once.Do(func() { a.content = a.render() })
	if offset+int64(len(p)) > int64(len(a.content)) {
		return 0, fmt.Errorf("the answer to a query cannot be read: %w", syscall.EIO)
	}
	return copy(p, a.content[offset:]), nil
}

func (a *answer) Describe(string) string { return describeQuery(a.query) }

// asked returns the exports that a query is about: if none is named, those
// that the sidecar would have, or else those that clients have opened, or else
// the default export.
func (f *filter) asked(q query) []string {
	if !q.all {
		return []string{f.named(q.export)}
	}
	var exports []string
	for _, im := range f.touched() {
		exports = append(exports, im.export)
	}
	if len(exports) > 0 {
		return exports
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.images) > 0 {
		return slices.Sorted(maps.Keys(f.images))
	}
	return []string{""}
}

// named returns the name that clients of the default export have got instead, if one
// has.
func (f *filter) named(export string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if export == "" && f.images[""] == nil && len(f.defaults) == 1 {
		for name := range f.defaults {
			return name
		}
	}
	return export
}

func (f *filter) opened(export string) *image {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.images[export]
}

// query returns what is known of an export now.
func (f *filter) query(export string) result {
	im := f.opened(export)
	if im == nil {
		return unopened(export, f.conf)
	}
	r := im.snapshot()
	if r.State == pending {
		r.Estimate = im.pace.rest(time.Now(), im.started, r.Bytes.Known, im.size)
	}
	return r
}

// unopened is the result of an export of which nothing is known, not even
// whether there is one.
func unopened(export string, conf *config) result {
	r := result{Export: export, Name: conf.displayName(export), Size: unknownSize, State: pending}
	for _, a := range conf.digests {
		r.Digests = append(r.Digests, digestResult{Algorithm: a.name, tag: a.tag()})
	}
	return r
}

// widest returns results that are longer in JSON than what these can become.
func widest(results []result) []result {
	now := time.Now().UTC()
	most := byteCounts{math.MaxInt64, math.MaxInt64, math.MaxInt64, math.MaxInt64, math.MaxInt64, math.MaxInt64}
	wide := make([]result, len(results))
	for i, r := range results {
		r.Size, r.Bytes = math.MaxInt64, most
		r.State, r.Error = incomplete, strings.Repeat("x", errorMax+finalReserve)
		r.Started, r.Finished = now, &now
		text := []string{strings.Repeat("x", signatureReserve)}
		r.Signature = &signatureResult{Kind: text[0], Group: text[0], Kinds: text, Dangers: text, Warnings: text}
		digests := make([]digestResult, len(r.Digests))
		for j, d := range r.Digests {
			match := false
			d.Hex = strings.Repeat("0", 128)
			d.Expected, d.Match = d.Hex, &match
			digests[j] = d
		}
		r.Digests = digests
		wide[i] = r
	}
	return wide
}

// fit returns a final document of at most size bytes.
func fit(results []result, size int) []byte {
	for i := range results {
		results[i].Error = cut(results[i].Error, errorMax)
	}
	if doc := formatJSON(results); len(doc) <= size {
		return doc
	}
	for i := range results {
		if s := results[i].Signature; s != nil {
			results[i].Signature = &signatureResult{Kind: s.Kind, Group: s.Group}
		}
	}
	if doc := formatJSON(results); len(doc) <= size {
		return doc
	}
	return nil // widest does not do what it should: reads fail
}

// roundUp returns the size of the blocks that n bytes take.
func (q *queries) roundUp(n int) int {
	block := cmp.Or(q.block, queryBlock)
	return (n + block - 1) / block * block
}

// padTo adds blanks before the last newline of a document, up to size.
func padTo(doc []byte, size int) []byte {
	if len(doc) == 0 {
		return nil
	}
	padded := append(make([]byte, 0, size), doc[:len(doc)-1]...)
	for len(padded) < size-1 {
		padded = append(padded, ' ')
	}
	return append(padded, '\n')
}

// cut shortens a text to at most n bytes.
func cut(s string, n int) string {
	const dots = "..."
	if len(s) <= n {
		return s
	}
	n -= len(dots)
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:max(n, 0)] + dots
}

// Describe puts the state of an export before what the layer below says of it.
func (c *conn) Describe(below string) string {
	if !c.filter.conf.query || c.image == nil {
		return below
	}
	s := cut(describe(c.image.snapshot()), nbdkit.MaxString)
	if room := nbdkit.MaxString - len(s) - len("; "); below != "" && room > 0 {
		s += "; " + cut(below, room)
	}
	return s
}

// describe tells a result in a line: its digests, separated by blanks, or why
// there are none.
func describe(r result) string {
	switch r.State {
	case complete:
		var list []string
		for _, d := range r.Digests {
			list = append(list, d.Algorithm+":"+d.Hex)
		}
		return strings.Join(list, " ")
	case pending:
		// Rounded down: 100% is complete.
		percent := math.Floor(1000*float64(r.Bytes.Known)/float64(max(1, r.Size))) / 10
		return fmt.Sprintf("digest pending: %.1f%% of %s", min(percent, 99.9), humanSize(int64(r.Size)))
	}
	return "digest " + string(r.State)
}

// humanSize is a size as people read it.
func humanSize(n int64) string {
	units := []string{"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	size, unit := float64(n), 0
	for size >= 1024 && unit < len(units)-1 {
		size /= 1024
		unit++
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", size), ".0") + " " + units[unit]
}
