// SPDX-License-Identifier: BSD-3-Clause

package docs

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// patience is how long a block may take.
const patience = 3 * time.Minute

// bash runs a script in the world, and returns what it prints and its exit
// status. The output goes to a file, so that a server that stays is not
// waited for.
func (w *world) bash(script string) (output string, status int) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := os.CreateTemp(w.t.TempDir(), "output")
	if err != nil {
		w.t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Dir, cmd.Env = w.dir, w.environment()
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	text, _ := os.ReadFile(out.Name())
	if ctx.Err() != nil {
		w.t.Fatalf("the block hangs: %s\n%s", script, text)
	}
	if cmd.ProcessState == nil {
		w.t.Fatal(err)
	}
	return w.unreal(string(text)), cmd.ProcessState.ExitCode()
}

// commands runs a block that has commands only. All of them must succeed.
func (w *world) commands(b block) {
	w.t.Helper()
	output, status := w.bash("set -eo pipefail\n" + w.real(b.text))
	if status != 0 {
		w.t.Fatalf("%v: exit status %d\n%s\n%s", b, status, b.text, output)
	}
	w.t.Logf("%v\n%s", b, output)
}

// A step of a transcript is a command, and what it prints.
type step struct{ command, output string }

// steps takes a transcript apart. A command goes on for as long as the shell
// would read on.
func steps(text string) (list []step) {
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		command, isCommand := strings.CutPrefix(line, "$ ")
		last := len(list) - 1
		switch {
		case isCommand:
			list = append(list, step{command: command})
		case list[last].output == "" && (strings.HasSuffix(list[last].command, `\`) || incomplete(list[last].command)):
			list[last].command += "\n" + line
		default:
			list[last].output += line + "\n"
		}
	}
	return list
}

func incomplete(command string) bool { return exec.Command("bash", "-n", "-c", command).Run() != nil }

// transcript runs the commands of a transcript in one shell, and compares what
// each prints. One that prints nothing must succeed.
func (w *world) transcript(b block) {
	w.t.Helper()
	list := steps(b.text)
	var script strings.Builder
	for _, s := range list {
		fmt.Fprintf(&script, "(exit $status)\n%s\nstatus=$?; printf '\\1%%d\\2' $status\n", w.real(s.command))
	}
	output, _ := w.bash("status=0\n" + script.String())
	parts := strings.Split(output, "\x02")
	if len(parts) != len(list)+1 {
		w.t.Fatalf("%v: the shell ends early\n%s", b, output)
	}
	var want, got strings.Builder
	for i, s := range list {
		printed, status, _ := strings.Cut(parts[i], "\x01")
		if s.output == "" && status != "0" {
			w.t.Errorf("%v: exit status %s of %s\n%s", b, status, s.command, printed)
		}
		fmt.Fprintf(&want, "$ %s\n%s", s.command, s.output)
		fmt.Fprintf(&got, "$ %s\n%s", s.command, printed)
	}
	if !sameOutput(want.String(), got.String()) {
		w.t.Errorf("%v: the document has\n%s\nbut this comes:\n%s", b, want.String(), got.String())
	}
}

// What differs from run to run, or from one image to another.
var (
	hexDigits   = regexp.MustCompile(`\b[0-9a-f]{8,128}(\.\.\.)?|\b0{8,}(\.\.\.)?`)
	abbreviated = regexp.MustCompile(`(\bsha256:)[0-9a-f]{8}\.\.\.`)
	instants    = regexp.MustCompile(`\d{4}-\d\d-\d\dT[\d:]+Z`)
	numbers     = regexp.MustCompile(`\b\d{5,}\b|\b\d+(\.\d+)?%|\b\d+ [KMGT]iB\b`)
	elapsed     = regexp.MustCompile(`\b\d+\.\d+s\b`)
	// nbdkit names the thread that prints, if it is one of its own: a mismatch
	// is found by one of those or by the one that hashes.
	threads = regexp.MustCompile(`(?m)^(nbdkit: )[\w.]+(\[\d+\])?: (error:)`)
)

// mask puts the same sign for the same digest, whether it is abbreviated or
// not.
func mask(text string) string {
	text = instants.ReplaceAllString(text, "<time>")
	seen := make(map[string]int)
	text = hexDigits.ReplaceAllStringFunc(text, func(hex string) string {
		if strings.Trim(hex, "0123456789") == "" {
			return hex // a number, most likely
		}
		key := hex[:8]
		if _, ok := seen[key]; !ok {
			seen[key] = len(seen) + 1
		}
		return fmt.Sprintf("<digest %d>", seen[key])
	})
	text = numbers.ReplaceAllString(text, "<number>")
	text = elapsed.ReplaceAllString(text, "<seconds>")
	text = threads.ReplaceAllString(text, "$1$3")
	var lines []string
	for line := range strings.Lines(text) {
		lines = append(lines, strings.TrimRight(line, " \n"))
	}
	// How many requests of a client fail, and say so, is by chance.
	lines = slices.Compact(lines)
	return strings.TrimRight(strings.Join(lines, "\n"), "\n")
}

func sameOutput(want, got string) bool { return mask(want) == mask(got) }

// prints runs a command, which may fail, and looks for a block in what it
// prints, as a whole or line by line. As a whole it may be broken into lines
// anywhere.
func (w *world) prints(b block, command string) {
	w.t.Helper()
	output, _ := w.bash(w.real(command))
	w.endServers()
	flat := func(text string) string { return strings.Join(strings.Fields(mask(text)), " ") }
	var printed []string
	for line := range strings.Lines(output) {
		printed = append(printed, flat(line))
	}
	missing := ""
	for line := range strings.Lines(b.text) {
		want := flat(line)
		if !slices.ContainsFunc(printed, func(l string) bool { return strings.Contains(l, want) }) {
			missing = line
		}
	}
	if missing != "" && !strings.Contains(flat(output), flat(b.text)) &&
		!slices.ContainsFunc(printed, func(l string) bool { return strings.Contains(l, flat(b.text)) }) {
		w.t.Errorf("%v: the document has\n%s\nbut this comes of %s:\n%s", b, b.text, command, output)
	}
}

// useServers copies every export of the servers that a block has started, as
// a client would, and ends them.
func (w *world) useServers(b block) {
	w.t.Helper()
	if len(w.servers()) == 0 {
		return
	}
	uri := func(export string) string { return "nbd+unix:///" + export + "?socket=" + w.path("nbd.sock") }
	out, err := exec.Command("nbdinfo", "--list", "--json", uri("")).CombinedOutput()
	if err != nil {
		w.t.Fatalf("%v: nbdinfo: %v\n%s", b, err, out)
	}
	var list struct {
		Exports []struct {
			Name string `json:"export-name"`
		}
	}
	if err := json.Unmarshal(out, &list); err != nil {
		w.t.Fatal(err)
	}
	for _, e := range list.Exports {
		if strings.HasPrefix(e.Name, ".digest") {
			continue
		}
		if out, err := exec.Command("nbdcopy", uri(e.Name), "null:").CombinedOutput(); err != nil {
			w.t.Errorf("%v: nbdcopy of %q: %v\n%s", b, e.Name, err, out)
		}
	}
	w.endServers()
	os.Remove(w.path("nbd.sock"))
}

var sidecarOf = regexp.MustCompile(`digest-file=(\S+)`)

// checkSidecars looks whether each result that a block asks for is there, and
// has nothing but digests of files, if the block does not show otherwise.
func (w *world) checkSidecars(b block) {
	w.t.Helper()
	for _, m := range sidecarOf.FindAllStringSubmatch(b.text, -1) {
		path := w.real(m[1])
		if !filepath.IsAbs(path) {
			path = w.path(path)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			w.t.Errorf("%v: no result: %v", b, err)
			continue
		}
		if strings.Contains(b.text, "mismatch") {
			continue
		}
		var known []string
		for _, hex := range sha256Sum.FindAllStringSubmatch(string(text), -1) {
			if known == nil {
				known = w.sums()
			}
			if !slices.Contains(known, hex[1]) {
				w.t.Errorf("%v: %s is the SHA-256 of none of the files\n%s", b, hex[1], text)
			}
		}
		for _, word := range []string{"# ", "incomplete", "pending", "mismatch", "failed", "changing"} {
			if strings.Contains(string(text), word) {
				w.t.Errorf("%v: the result is\n%s", b, text)
			}
		}
	}
}

var sha256Sum = regexp.MustCompile(`(?s)(?:SHA256 \([^)]*\) = |"sha256",\s*"hex": ")([0-9a-f]{64})`)

// sums are the SHA-256 of all files that there are.
func (w *world) sums() (sums []string) {
	filepath.WalkDir(w.dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			sums = append(sums, sumOf(w.t, path))
		}
		return nil
	})
	return sums
}

func TestOutputIsCompared(t *testing.T) {
	for _, c := range []struct {
		want, got string
		same      bool
	}{
		{"SHA256 (a) = 0123abcd...", "SHA256 (a) = 0123abcd89abcdef0123abcd89abcdef", true},
		{"a 0123abcd... 0123abcd89", "a 99999abc 99999abc", true},
		{"a 0123abcd... 0123abcd89", "a 99999abc 89999abc", false},
		{"known 52428800 of 37.2%, 2026-11-23T18:00:00Z", "known 99999 of 1%, 2027-01-01T00:00:00Z", true},
		{"disk.img: OK\n", "disk.img: FAILED\n", false},
		{"1\n", "0\n", false},
		{"nbdkit: error: digest: a", "nbdkit: curl[1]: error: digest: a", true},
		{"nbdkit: error: digest: a", "nbdkit: curl.3: error: digest: a", true},
		{"nbdkit: error: digest: a", "nbdkit: curl[1]: error: digest: b", false},
		{"nbdkit: error: digest: a", "nbdkit: curl[1]: debug: digest: a", false},
	} {
		if got := sameOutput(c.want, c.got); got != c.same {
			t.Errorf("%q and %q: %v\n%s\n%s", c.want, c.got, got, mask(c.want), mask(c.got))
		}
	}
	list := steps("$ a \\\n  b\nc\n$ d '\n e'\n$ f\n")
	if fmt.Sprint(list) != fmt.Sprint([]step{{"a \\\n  b", "c\n"}, {"d '\n e'", ""}, {"f", ""}}) {
		t.Errorf("%q", list)
	}
}
