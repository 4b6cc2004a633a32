// SPDX-License-Identifier: BSD-3-Clause

// Package deploy tests what deploy/ has: the wrapper with a real nbdkit, and
// the manifests against the API types of Kubernetes.
//
// It is a module of its own: go test ./... in this directory.
package deploy

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var (
	wrapper = absolute("../../deploy/nbdkit-digest")
	filter  = absolute("../../nbdkit-digest-filter.so")
)

func absolute(path string) string {
	path, err := filepath.Abs(path)
	if err != nil {
		panic(err)
	}
	return path
}

// A program is the wrapper, installed as docs/cdi.md says.
type program struct {
	t    *testing.T
	path string
	env  []string
}

// install puts the wrapper into a directory of its own, and that before the
// directory real in PATH.
func install(t *testing.T, real string, env ...string) *program {
	t.Helper()
	dir := t.TempDir()
	text, err := os.ReadFile(wrapper)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "nbdkit")
	if err := os.WriteFile(path, text, 0o755); err != nil {
		t.Fatal(err)
	}
	return &program{t, path, append([]string{"PATH=" + dir + ":" + real + ":/usr/bin:/bin", "LC_ALL=C"}, env...)}
}

func (p *program) command(args ...string) *exec.Cmd {
	cmd := exec.Command(p.path, args...)
	cmd.Env = p.env
	return cmd
}

// run returns what the program prints, and its exit status.
func (p *program) run(args ...string) (stdout, stderr string, status int) {
	p.t.Helper()
	var out, err bytes.Buffer
	cmd := p.command(args...)
	cmd.Stdout, cmd.Stderr = &out, &err
	if e := cmd.Run(); e != nil && !errors.As(e, new(*exec.ExitError)) {
		p.t.Fatal(e)
	}
	return out.String(), err.String(), cmd.ProcessState.ExitCode()
}

// recorder makes a directory with an nbdkit that prints its arguments.
func recorder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	script := "#!/bin/sh\nfor word do printf '%s\\0' \"$word\"; done\n"
	if err := os.WriteFile(filepath.Join(dir, "nbdkit"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// recorded are the arguments that the real nbdkit gets.
func (p *program) recorded(args ...string) []string {
	p.t.Helper()
	out, stderr, status := p.run(args...)
	if status != 0 || stderr != "" {
		p.t.Fatalf("exit status %d\n%s", status, stderr)
	}
	if out == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(out, "\x00"), "\x00")
}

const added = "--filter=digest"

func TestFilterIsPutInItsPlace(t *testing.T) {
	p := install(t, recorder(t), "DIGEST_FILE=f")
	for _, c := range []struct{ what, args, want string }{
		{"no filters", "null", "+ null f"},
		{"options on all sides", "-f null 1M -r --run CMD", "+ -f null 1M -r --run CMD f"},
		{"CDI", "--foreground --readonly --exit-with-parent -U S --pidfile P --filter=readahead --filter=retry -r curl url=U",
			"+ --foreground --readonly --exit-with-parent -U S --pidfile P --filter=readahead --filter=retry -r curl url=U f"},
		{"CDI with xz", "--filter=readahead --filter=xz --filter=retry -r curl url=U", "--filter=readahead --filter=xz + --filter=retry -r curl url=U f"},
		{"filter in two words", "--filter gzip --filter retry curl", "--filter gzip + --filter retry curl f"},
		{"abbreviated", "--filt gzip --fil=tar curl", "--filt gzip --fil=tar + curl f"},
		{"two that decode", "--filter=tar --filter=retry --filter=xz curl", "--filter=tar --filter=retry --filter=xz + curl f"},
		{"filter's file", "--filter=/usr/lib/nbdkit/filters/nbdkit-xz-filter.so curl", "--filter=/usr/lib/nbdkit/filters/nbdkit-xz-filter.so + curl f"},
		{"filter's file in two words", "--filter x/nbdkit-tar-filter.so --filter ./nbdkit-retry-filter.so curl",
			"--filter x/nbdkit-tar-filter.so + --filter ./nbdkit-retry-filter.so curl f"},
		{"swab", "--filter=swab --filter=retry curl", "--filter=swab + --filter=retry curl f"},
		{"filter behind the plugin", "curl url=U --filter=xz", "curl url=U --filter=xz + f"},
		{"end of the options", "-r -- null 1M", "+ -r -- null 1M f"},
		{"words that look like options behind their end", "-- null --filter=xz --version", "+ -- null --filter=xz --version f"},
		{"value that looks like a filter", "--run --filter=xz null", "+ --run --filter=xz null f"},
		{"value that looks like a question", "-U --version null", "+ -U --version null f"},
		{"value that has a V", "-UV -PV null", "+ -UV -PV null f"},
		{"cluster with a value", "-fU V null", "+ -fU V null f"},
		{"value that looks like the end of the options", "--run -- --filter=xz null", "--run -- --filter=xz + null f"},
		{"parameter that looks like a filter", "null xz --filter=retry", "+ null xz --filter=retry f"},
		{"plugin called -", "- x", "+ - x f"},

		{"plugin's description", "--dump-plugin vddk libdir=L", "--dump-plugin vddk libdir=L"},
		{"plugin's description, last", "curl --dump-plugin", "curl --dump-plugin"},
		{"abbreviated description", "curl --dump-p", "curl --dump-p"},
		{"configuration", "--dump-config", "--dump-config"},
		{"version", "--version", "--version"},
		{"short version", "-V", "-V"},
		{"version among others", "-frV null", "-frV null"},
		{"help", "--help", "--help"},
		{"help for a plugin", "null --help", "null --help"},
		{"nothing", "", ""},
		{"no plugin", "-f --filter=xz", "-f --filter=xz"},
		{"no plugin but values", "-U S --run CMD", "-U S --run CMD"},
		{"filter by hand", "--filter=xz --filter=digest curl", "--filter=xz --filter=digest curl"},
		{"filter by hand, then xz", "--filter digest --filter=xz curl", "--filter digest --filter=xz curl"},
		{"filter's file by hand", "--filter=/x/nbdkit-digest-filter.so curl", "--filter=/x/nbdkit-digest-filter.so curl"},
	} {
		want := strings.Fields(c.want)
		for i, word := range want {
			want[i] = map[string]string{"+": added, "f": "digest-file=f"}[word]
			if want[i] == "" {
				want[i] = word
			}
		}
		if got := p.recorded(strings.Fields(c.args)...); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", c.what, got, want)
		}
	}
}

func TestArgumentsStayWhole(t *testing.T) {
	p := install(t, recorder(t), "DIGEST=sha256,md5", "DIGEST_EXPECT=@a file; $(false)", "DIGEST_FILE=a 'file'\n*", "DIGEST_NAME=* ?")
	args := []string{"-f", "--filter", "xz", "curl", "header=User-Agent: cdi", "", " ", "*", "$HOME", "a\nb", `\`, `"'`, "--run", `nbdcopy "$uri" null:`, "ü\xff"}
	want := slices.Concat(args[:3], []string{added}, args[3:],
		[]string{"digest=sha256,md5", "digest-expect=@a file; $(false)", "digest-file=a 'file'\n*", "digest-name=* ?"})
	if got := p.recorded(args...); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestParametersFromTheEnvironment(t *testing.T) {
	tmp := t.TempDir()
	log := filepath.Join(t.TempDir(), "termination-log")
	nowhere := "/nonexistent"
	for _, c := range []struct {
		env  string
		want string
	}{
		{"TMPDIR=" + tmp, "digest-file=" + tmp + "/digest.json"},
		{"", "digest-file=/tmp/digest.json"},
		{"TERMINATION_LOG=" + log + " TMPDIR=" + tmp, "digest-file=" + filepath.Dir(log) + "/digest.json"},
		{"TERMINATION_LOG=/dev/termination-log TMPDIR=" + tmp, "digest-file=" + tmp + "/digest.json"},
		{"TMPDIR=" + nowhere, ""},
		{"TMPDIR=" + nowhere + " IMPORTER_CHECKSUM=sha256:ab", "digest-expect=sha256:ab"},
		{"TMPDIR=" + nowhere + " IMPORTER_CHECKSUM=sha256:ab DIGEST_EXPECT=md5:cd", "digest-expect=md5:cd"},
		{"TMPDIR=" + nowhere + " IMPORTER_CHECKSUM=", ""},
		{"DIGEST_FILE=- DIGEST=blake3 DIGEST_EXPECT=@SUMS DIGEST_FORMAT=json DIGEST_NAME=n DIGEST_VERIFY=before DIGEST_UNREAD=late " +
			"DIGEST_MEMORY=1M DIGEST_QUERY=false DIGEST_SALT=00 SIGNATURE=known SIGNATURE_UNSAFE=allow",
			"digest=blake3 digest-expect=@SUMS digest-file=- digest-format=json digest-name=n digest-verify=before digest-unread=late " +
				"digest-memory=1M digest-query=false digest-salt=00 signature=known signature-unsafe=allow"},
	} {
		p := install(t, recorder(t), strings.Fields(c.env)...)
		want := append([]string{added, "null"}, strings.Fields(c.want)...)
		if got := p.recorded("null"); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", c.env, got, want)
		}
	}
	p := install(t, recorder(t), "DIGEST_FILTER=/x/nbdkit-digest-filter.so", "DIGEST_FILE=-")
	if got := p.recorded("null")[0]; got != "--filter=/x/nbdkit-digest-filter.so" {
		t.Errorf("DIGEST_FILTER: got %q", got)
	}
}

func TestRealNbdkitIsFound(t *testing.T) {
	real := recorder(t)
	nbdkit := filepath.Join(real, "nbdkit")

	p := install(t, "/nonexistent", "NBDKIT_REAL="+nbdkit, "DIGEST_FILE=-")
	if got := p.recorded("null"); len(got) != 3 {
		t.Errorf("NBDKIT_REAL: got %q", got)
	}

	// The wrapper's directory twice, the wrapper under another name, a
	// directory of that name, a file that cannot be run, an empty entry, and
	// one that as a pattern would be another directory.
	p = install(t, "", "DIGEST_FILE=-")
	link, directory, dead := t.TempDir(), t.TempDir(), t.TempDir()
	odd := filepath.Join(t.TempDir(), "a b*[c]")
	other := strings.Replace(odd, "*[c]", "c", 1)
	err := errors.Join(
		os.Mkdir(other, 0o755),
		os.WriteFile(filepath.Join(other, "nbdkit"), []byte("#!/bin/sh\necho wrong"), 0o755),
		os.Symlink(p.path, filepath.Join(link, "nbdkit")),
		os.Mkdir(filepath.Join(directory, "nbdkit"), 0o755),
		os.WriteFile(filepath.Join(dead, "nbdkit"), nil, 0o644),
		os.Symlink(real, odd))
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Dir(p.path)
	p.env[0] = "PATH=" + strings.Join([]string{own, own + "/", link, "", directory, dead, odd, "/usr/bin", "/bin"}, ":")
	for _, path := range []string{p.path, filepath.Join(link, "nbdkit")} {
		p.path = path
		if got := p.recorded("null"); len(got) != 3 {
			t.Errorf("%s: got %q", path, got)
		}
	}

	p.env[0] = "PATH=" + own + ":" + link
	_, stderr, status := p.run("null")
	if status != 127 || !strings.Contains(stderr, "set NBDKIT_REAL") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("no nbdkit: exit status %d and %q", status, stderr)
	}
}

// From here on it is the real nbdkit and the real filter.

func realInstall(t *testing.T, env ...string) *program {
	t.Helper()
	if _, err := os.Stat(filter); err != nil {
		t.Fatal("build the filter first, with make: ", err)
	}
	return install(t, "/usr/sbin", append(env, "DIGEST_FILTER="+filter)...)
}

func sumOf(content []byte) string { return fmt.Sprintf("%x", sha256.Sum256(content)) }

func contents(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestQuestionsAreAnsweredByNbdkit(t *testing.T) {
	p := realInstall(t, "DIGEST=nonsense")
	for _, args := range [][]string{{"--version"}, {"-V"}, {"--help"}, {"--dump-config"}, {"--dump-plugin", "null"}, {"null", "--dump-plugin"}, {}} {
		got, gotErr, gotStatus := p.run(args...)
		bare := &program{t, "/usr/bin/nbdkit", p.env}
		want, wantErr, wantStatus := bare.run(args...)
		if got != want || gotErr != wantErr || gotStatus != wantStatus {
			t.Errorf("%v: exit status %d and\n%s%swhere nbdkit says %d and\n%s%s", args, gotStatus, got, gotErr, wantStatus, want, wantErr)
		}
	}
}

func TestDigestIsThatOfTheSource(t *testing.T) {
	content := make([]byte, 3<<20+5)
	rand.NewChaCha8([32]byte{1}).Read(content)
	dir := t.TempDir()
	plain := filepath.Join(dir, "disk.img")
	if err := os.WriteFile(plain, content, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("xz", "-0", "--keep", "--block-size=1MiB", plain).CombinedOutput(); err != nil {
		t.Fatalf("xz: %v\n%s", err, out)
	}
	packed := []byte(contents(t, plain+".xz"))

	for _, c := range []struct {
		what string
		args []string
		want string
	}{
		{"a file", []string{"--filter=readahead", "--filter=retry", "file", plain}, sumOf(content)},
		{"a packed file", []string{"--filter=readahead", "--filter=xz", "--filter=retry", "file", plain + ".xz"}, sumOf(packed)},
		{"zeros", []string{"memory", "1M"}, sumOf(make([]byte, 1<<20))},
	} {
		sidecar := filepath.Join(t.TempDir(), "disk.sum")
		p := realInstall(t, "DIGEST=sha256", "DIGEST_FILE="+sidecar)
		_, stderr, status := p.run(append(c.args, "-r", "-U", "-", "--run", `nbdcopy --connections=1 "$uri" null: && exit 7`)...)
		if status != 7 {
			t.Errorf("%s: exit status %d, where the command's is 7\n%s", c.what, status, stderr)
		}
		if got, want := contents(t, sidecar), "SHA256 (-) = "+c.want+"\n"; got != want {
			t.Errorf("%s: the sidecar has\n%swhere it should have\n%s", c.what, got, want)
		}
	}
}

// The wrapper puts the filter behind tar, which must not cost nbdkit when a client
// asks for digests.
func TestClientThatAsksBehindTar(t *testing.T) {
	dir := t.TempDir()
	content := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{2}).Read(content)
	if err := os.WriteFile(filepath.Join(dir, "disk.img"), content, 0o644); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(dir, "disk.tar")
	if out, err := exec.Command("tar", "-C", dir, "-cf", archive, "disk.img").CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	p := realInstall(t, "DIGEST=sha256", "DIGEST_FILE="+dir+"/disk.sum")
	_, stderr, status := p.run("-r", "-U", "-", "--filter=tar", "file", archive, "tar-entry=disk.img", "--run", `
		nbdcopy "$uri" null:
		timeout 20 nbdcopy "nbd+unix:///.digest?socket=$unixsocket" null: && exit 5
		timeout 20 nbdcopy "$uri" null: && exit 7`)
	if status != 7 || !strings.Contains(stderr, "behind the tar filter") {
		t.Errorf("exit status %d\n%s", status, stderr)
	}
	if got, want := contents(t, dir+"/disk.sum"), "SHA256 (-) = "+sumOf([]byte(contents(t, archive)))+"\n"; got != want {
		t.Errorf("the sidecar has\n%swhere it should have\n%s", got, want)
	}
}

func TestBadParameterIsReported(t *testing.T) {
	p := realInstall(t, "DIGEST=crc32")
	_, stderr, status := p.run("-U", "-", "null", "1M", "--run", "true")
	if status != 1 || !strings.Contains(stderr, "digest=crc32: unknown digest") {
		t.Errorf("exit status %d\n%s", status, stderr)
	}
}
