// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"nbdkit-digest-filter/nbdkit"
)

// The manual and --help know all that the program knows. What the manual tells
// to run is run by tests/docs.

// A manualPage is its sections, by their headings of either level.
type manualPage map[string]string

func readManual(t *testing.T) (page manualPage, headings []string) {
	t.Helper()
	text, err := os.ReadFile("nbdkit-digest-filter.pod")
	if err != nil {
		t.Fatal(err)
	}
	page = make(manualPage)
	heading := ""
	for line := range strings.Lines(string(text)) {
		if level, title, ok := strings.Cut(strings.TrimSpace(line), " "); ok && (level == "=head1" || level == "=head2") {
			heading = title
			if level == "=head1" {
				headings = append(headings, title)
			}
			continue
		}
		page[heading] += line
	}
	return page, headings
}

// help is what nbdkit --help shows, and keys are the parameters that nbdkit
// hands to the filter.
func readAbout(t *testing.T) (help string, keys []string) {
	t.Helper()
	text, err := os.ReadFile("about.c")
	if err != nil {
		t.Fatal(err)
	}
	about, list, _ := strings.Cut(string(text), ".config_help")
	list, about = about, list
	for _, m := range regexp.MustCompile(`(?m)^  "([a-z-]+)",$`).FindAllStringSubmatch(list, -1) {
		keys = append(keys, m[1])
	}
	for _, m := range regexp.MustCompile(`(?m)^    "(.*?)(?:\\n)?",?$`).FindAllStringSubmatch(about, -1) {
		help += m[1] + "\n"
	}
	if len(keys) == 0 || help == "" {
		t.Fatal("about.c is not what this test takes it for")
	}
	return help, keys
}

// hasWord tells whether a name stands in a text, and not only as part of
// another one.
func hasWord(text, name string) bool {
	return regexp.MustCompile(`(^|[^\w/-])` + regexp.QuoteMeta(name) + `($|[^\w/-])`).MatchString(text)
}

func TestManualHasTheSectionsOfNbdkitsPages(t *testing.T) {
	_, headings := readManual(t)
	at := -1
	for _, want := range []string{"NAME", "SYNOPSIS", "DESCRIPTION", "EXAMPLES", "PARAMETERS", "GUARANTEES", "EXIT STATUS",
		"FILES", "VERSION", "SEE ALSO", "AUTHORS", "COPYRIGHT"} {
		i := slices.Index(headings, want)
		if i <= at {
			t.Errorf("%s is missing or in another place: %q", want, headings)
		}
		at = max(at, i)
	}
}

func TestEveryParameterIsExplained(t *testing.T) {
	page, _ := readManual(t)
	help, keys := readAbout(t)
	// The words that a parameter takes.
	values := map[string][]string{
		"digest-format":    {"text", "gnu", "json"},
		"digest-query":     {"true", "false"},
		"digest-unread":    {string(early), string(late), string(skip)},
		"digest-verify":    {string(during), string(before)},
		"signature":        {"sane", "known", "any"},
		"signature-unsafe": {"refuse", "allow"},
	}
	for _, key := range keys {
		if !strings.Contains(page["PARAMETERS"], "=item B<"+key+"=") {
			t.Errorf("the manual does not explain %s", key)
		}
		if !strings.Contains(page["SYNOPSIS"], "["+key+"=") {
			t.Errorf("the synopsis does not have %s", key)
		}
		if !strings.Contains("\n"+help, "\n"+key+"=") {
			t.Errorf("--help does not explain %s", key)
		}
		for _, value := range values[key] {
			if !strings.Contains(page["PARAMETERS"], "=item B<"+key+"="+value+">") {
				t.Errorf("the manual does not explain %s=%s", key, value)
			}
			if _, line, _ := strings.Cut("\n"+help, "\n"+key+"="); !hasWord(strings.ReplaceAll(strings.Split(line, "\n")[0], "|", " "), value) {
				t.Errorf("--help does not have %s=%s", key, value)
			}
			if _, err := parseConfig([]nbdkit.Param{{Key: key, Value: value}, {Key: "digest-expect", Value: "md5:" + strings.Repeat("0", 32)}}, "/"); err != nil {
				t.Error(err)
			}
		}
	}
	// The program takes what is documented, and nothing else.
	for _, m := range regexp.MustCompile(`=item B<([a-z-]+)=`).FindAllStringSubmatch(page["PARAMETERS"], -1) {
		_, err := parseConfig([]nbdkit.Param{{Key: m[1], Value: "\x01"}}, "/")
		if !slices.Contains(keys, m[1]) || err != nil && strings.Contains(err.Error(), "does not know this parameter") {
			t.Errorf("there is no parameter %s", m[1])
		}
	}
}

func TestEveryKindIsExplained(t *testing.T) {
	page, _ := readManual(t)
	help, _ := readAbout(t)
	for _, group := range groupNames() {
		row := regexp.MustCompile(`(?m)^ ` + group + ` +((?:.*\n)(?: {4,}.*\n)*)`).FindStringSubmatch(page["Kinds of images"])
		if row == nil {
			t.Errorf("the manual has no group %s", group)
			continue
		}
		if got, want := strings.Fields(row[1]), kindsOf(group); !sameNames(got, want) {
			t.Errorf("the manual has %q in the group %s, and the program has %q", got, group, want)
		}
	}
	for _, name := range slices.Concat(kindNames(), groupNames(), []string{diskGroup}) {
		if !hasWord(help, name) {
			t.Errorf("--help does not have the kind or group %s", name)
		}
	}
	for _, c := range safetyChecks {
		item := regexp.MustCompile(`(?m)^=item .*\b` + c.kind + `\b`)
		if !item.MatchString(page["Dangerous images"]) {
			t.Errorf("the manual does not say what is dangerous about %s", c.kind)
		}
	}
}

func sameNames(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

func TestEveryDigestIsExplained(t *testing.T) {
	page, _ := readManual(t)
	help, _ := readAbout(t)
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range algorithms {
		if !hasWord(page["DIGESTS"], a.name) || !hasWord(help, a.name) || !hasWord(string(readme), a.name) {
			t.Errorf("%s is missing in the manual, --help or README", a.name)
		}
	}
	for _, f := range families {
		name := f.name + "[/HASH[/SIZE]]"
		if !strings.Contains(page["DIGESTS"], "\n "+name) || !strings.Contains(help, f.name+"[/") || !strings.Contains(string(readme), "`"+name+"`") {
			t.Errorf("%s is missing in the manual, --help or README", name)
		}
		row := regexp.MustCompile(`\n ` + f.name + ` +(.*)`).FindStringSubmatch(page["DIGESTS"])
		want := fmt.Sprintf("%s %s %s..%s", strings.Join(f.hashes, " "),
			strings.ToLower(formatSize(f.size)), strings.ToLower(formatSize(f.least)), formatSize(f.most))
		if row == nil || !strings.EqualFold(strings.Join(strings.Fields(row[1]), " "), want) {
			t.Errorf("of %s the manual has %q, and the program has %q", f.name, row, want)
		}
	}
}

func TestEveryStateIsExplained(t *testing.T) {
	page, _ := readManual(t)
	for _, s := range []state{pending, complete, incomplete, changing, mismatch, failed} {
		if !strings.Contains(page["JSON"], "=item C<"+string(s)+">") {
			t.Errorf("the manual does not explain the state %s", s)
		}
		if !strings.Contains(readQueries(t), "\n| `"+string(s)+"` |") {
			t.Errorf("docs/query.md does not explain the state %s", s)
		}
	}
}

func readQueries(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("docs/query.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestEveryFieldIsExplained(t *testing.T) {
	var names func(of reflect.Type)
	names = func(of reflect.Type) {
		for of.Kind() == reflect.Slice || of.Kind() == reflect.Pointer {
			of = of.Elem()
		}
		for i := 0; of.Kind() == reflect.Struct && i < of.NumField(); i++ {
			f := of.Field(i)
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" {
				if !regexp.MustCompile("(?m)^\\| .*[`.]" + name + "[`.[].* \\| ").MatchString(readQueries(t)) {
					t.Errorf("docs/query.md does not explain the field %s", name)
				}
				names(f.Type)
			}
		}
	}
	names(reflect.TypeFor[document]())
}
