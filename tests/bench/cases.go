package main

import (
	"fmt"
	"path/filepath"
	"strings"
)

// A copyCase is a copy of the image by a client, with and without the filter.
type copyCase struct {
	name   string
	digest string // the filter's parameter of that name

	// client is the command that copies what is served on a Unix socket.
	// It may leave its copy in dir.
	client func(uri, dir string) []string

	goals []goal
}

// copies are the cases in the order in which they run.
var copies = []copyCase{
	{name: "nbdcopy, blake3", digest: "blake3", client: nbdcopy,
		goals: []goal{ratio(1.7), memory(64)}},
	{name: "nbdcopy, sha256", digest: "sha256", client: nbdcopy,
		goals: []goal{openssl(85), memory(64)}},
	{name: "nbdcopy, both", digest: "blake3,sha256", client: nbdcopy,
		goals: []goal{memory(64)}},
	{name: "nbdcopy, blkhash", digest: "blkhash/sha256/64k", client: nbdcopy, goals: []goal{memory(64)}},
	{name: "nbdcopy, merkle", digest: "merkle/sha256/64k", client: nbdcopy, goals: []goal{memory(64)}},
	{name: "nbdcopy, fsverity", digest: "fsverity/sha256/4k", client: nbdcopy, goals: []goal{memory(64)}},
	{name: "nbdcopy, dmverity", digest: "dmverity/sha256/4k", client: nbdcopy, goals: []goal{memory(64)}},
	{name: "qemu-img, blake3", digest: "blake3", client: qemuImg,
		goals: []goal{ratio(1.7), memory(64)}},
	{name: "qemu-img, sha256", digest: "sha256", client: qemuImg,
		goals: []goal{memory(64)}},
	{name: "qemu-img, both", digest: "blake3,sha256", client: qemuImg,
		goals: []goal{memory(64)}},
}

// references are the tools whose word counts, by algorithm. They print the
// digest of the file that is their last argument.
var references = map[string][]string{
	"blake3":             {"b3sum", "--no-names"},
	"sha256":             {"sha256sum"},
	"fsverity/sha256/4k": {"fsverity", "digest", "--compact"},
	"dmverity/sha256/4k": {"sh", "-c", `tree=$(mktemp /dev/shm/tree.XXXXXX)
		veritysetup format --no-superblock --salt=- "$0" "$tree" | sed -n 's/^Root hash:[[:blank:]]*//p'
		rm "$tree"`},
	"blkhash/sha256/64k": {"/usr/bin/python3", "-c", blocks + `
outer = hashlib.sha256(b"".join(H(b) for b in blocks()))
outer.update(size.to_bytes(8, "little"))
print(outer.hexdigest())`},
	"merkle/sha256/64k": {"/usr/bin/python3", "-c", blocks + `
def mth(d):
    if len(d) == 1: return d[0]
    k = 1 << (len(d) - 1).bit_length() - 1
    return H(b"\1" + mth(d[:k]) + mth(d[k:]))
print(mth([H(b"\0" + b) for b in blocks()]).hex())`},
}

// blocks is what no tool of the distribution computes, by its definition.
const blocks = `
import hashlib, os, sys
f = open(sys.argv[1], "rb")
size = os.fstat(f.fileno()).st_size
H = lambda b: hashlib.sha256(b).digest()
def blocks():
    while b := f.read(65536): yield b
`

func nbdcopy(uri, dir string) []string {
	return []string{"nbdcopy", uri, "null:"}
}

func qemuImg(uri, dir string) []string {
	return []string{"qemu-img", "convert", "-f", "raw", "-O", "raw", uri,
		filepath.Join(dir, "copy.img")}
}

// besideOpenssl says whether "openssl dgst -sha256" runs along with each pair.
func (c copyCase) besideOpenssl() bool { return strings.Contains(c.digest, "sha256") }

// A goal is what a case must reach.
type goal struct {
	text string
	met  func(result) bool
}

// ratio bounds the wall time in times that of the same copy without the filter.
func ratio(most float64) goal {
	return goal{
		fmt.Sprintf("ratio <= %.2f", most),
		func(r result) bool { return median(r.ratios()) <= most },
	}
}

// openssl bounds the rate from below, in percent of openssl's on one core.
func openssl(least float64) goal {
	return goal{
		fmt.Sprintf("openssl >= %.0f%%", least),
		func(r result) bool { return median(r.percentOfOpenssl()) >= least },
	}
}

// memory bounds nbdkit's peak above that of the same copy without the filter.
func memory(most float64) goal {
	return goal{
		fmt.Sprintf("memory <= %.0f", most),
		func(r result) bool { return median(r.extraMemory()) <= most },
	}
}
