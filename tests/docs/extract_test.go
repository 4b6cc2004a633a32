// SPDX-License-Identifier: BSD-3-Clause

package docs

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

// A block is something in a document that is set as it stands: commands, or
// what they print, or a drawing.
type block struct {
	file    string
	line    int
	section string // the heading above it
	kind    string // "sh", "console", another name that stands at the fence, or "" in POD
	text    string // without the indent
}

func (b block) String() string { return fmt.Sprintf("%s:%d", b.file, b.line) }

// firstLine names a block in the lists.
func (b block) firstLine() string {
	line, _, _ := strings.Cut(b.text, "\n")
	return line
}

// isTranscript tells whether a block has commands behind a prompt, and what
// they print.
func (b block) isTranscript() bool { return strings.HasPrefix(b.text, "$ ") }

var (
	fence   = regexp.MustCompile("^( *)```([a-z]*)$")
	heading = regexp.MustCompile(`^#+ `)
	bullet  = regexp.MustCompile(`^ *([*-]|\d+\.) `)
	indent  = regexp.MustCompile(`^ {4,}\S`)
)

// markdown returns the fenced blocks of a text. A block that is only indented
// is an error: it does not say what it is.
func markdown(file, text string) (blocks []block, err error) {
	var open *block
	margin, section, inList, blank := "", "", false, false
	for i, line := range strings.Split(text, "\n") {
		m := fence.FindStringSubmatch(line)
		switch {
		case m != nil && open == nil && m[2] == "":
			return nil, fmt.Errorf("%s:%d: a fence without a name: use sh, console, text, ...", file, i+1)
		case m != nil && open == nil:
			margin = m[1]
			open = &block{file: file, line: i + 1, section: section, kind: m[2]}
		case m != nil:
			open.text = strings.TrimSuffix(open.text, "\n")
			blocks = append(blocks, *open)
			open = nil
		case open != nil:
			open.text += strings.TrimPrefix(line, margin) + "\n"
		case heading.MatchString(line):
			section, inList = line, false
		case bullet.MatchString(line):
			inList = true
		case indent.MatchString(line) && blank && !inList:
			return nil, fmt.Errorf("%s:%d: an indented block: use a fence", file, i+1)
		}
		blank = line == ""
	}
	if open != nil {
		return nil, fmt.Errorf("%s:%d: a fence that does not end", file, open.line)
	}
	return blocks, nil
}

var podHeading = regexp.MustCompile(`^=head[12] `)

// pod returns the verbatim paragraphs of a text in POD. Those with nothing but
// an empty line between them, and the same kind of content, are one to POD's
// formatters, but not here: a transcript stands apart.
func pod(file, text string) (blocks []block) {
	section, line := "", 1
	for paragraph := range strings.SplitSeq(text, "\n\n") {
		switch {
		case podHeading.MatchString(paragraph):
			section = paragraph
		case strings.HasPrefix(paragraph, " "):
			var lines []string
			for l := range strings.SplitSeq(strings.TrimSuffix(paragraph, "\n"), "\n") {
				lines = append(lines, strings.TrimPrefix(l, " "))
			}
			blocks = append(blocks, block{file: file, line: line, section: section, text: strings.Join(lines, "\n")})
		}
		line += strings.Count(paragraph, "\n") + 2
	}
	return blocks
}

// blocksOf reads a document of the project.
func blocksOf(t *testing.T, file string) []block {
	t.Helper()
	text, err := os.ReadFile("../../" + file)
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasSuffix(file, ".pod") {
		return pod(file, string(text))
	}
	blocks, err := markdown(file, string(text))
	if err != nil {
		t.Fatal(err)
	}
	return blocks
}

func TestBlocksAreFound(t *testing.T) {
	md := "# A\n\nText `x`.\n\n```sh\na\n\n  b\n```\n\n## B\n\n1. Do\n\n   ```console\n   $ c\n   d\n   ```\n"
	blocks, err := markdown("f", md)
	if err != nil || len(blocks) != 2 {
		t.Fatalf("%+v, %v", blocks, err)
	}
	if b := blocks[0]; b != (block{"f", 5, "# A", "sh", "a\n\n  b"}) {
		t.Errorf("%+v", b)
	}
	if b := blocks[1]; b != (block{"f", 15, "## B", "console", "$ c\nd"}) || !b.isTranscript() {
		t.Errorf("%+v", b)
	}
	for _, bad := range []string{"```\na\n```\n", "Text:\n\n    a\n", "```sh\na\n"} {
		if blocks, err := markdown("f", bad); err == nil {
			t.Errorf("%q: %+v", bad, blocks)
		}
	}

	blocks = pod("f", "=head1 A\n\nText.\n\n a \\\n   b\n\n $ c\n d\n\n=head2 B\n\n e\n")
	want := []block{{"f", 5, "=head1 A", "", "a \\\n  b"}, {"f", 8, "=head1 A", "", "$ c\nd"}, {"f", 13, "=head2 B", "", "e"}}
	if fmt.Sprint(blocks) != fmt.Sprint(want) || len(blocks) != 3 || blocks[0] != want[0] || blocks[1] != want[1] || blocks[2] != want[2] {
		t.Errorf("%+v", blocks)
	}
}
