// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"fmt"
	"strings"
)

// A copyCase is a copy of an image, with and without the filter.
type copyCase struct {
	name   string
	digest string // the filter's parameter of that name

	// client is the command that copies from or to a Unix socket.
	client func(b *bench, uri string) []string

	// server is what nbdkit runs below the filter; without it, the random
	// image, read-only.
	server func(b *bench, dir string) (args []string, err error)

	// pairs, if not 0, is how many pairs are enough for it.
	pairs int

	// times, if not 0, is how many times as many pairs it takes to tell
	// anything, as the copies are short and differ.
	times int

	// unchecked says that there is no reference for the image.
	unchecked bool

	goals []goal
}

// copies are the cases in the order in which they run.
var copies = []copyCase{
	{name: "nbdcopy, blake3", digest: "blake3", client: nbdcopy, goals: []goal{ratio(1.4), memory(64)}},
	{name: "nbdcopy, sha256", digest: "sha256", client: nbdcopy, goals: []goal{openssl(95), memory(64)}},
	{name: "nbdcopy, blkhash", digest: "blkhash/sha256/64k", client: nbdcopy, goals: []goal{ratio(2), memory(64)}},
	{name: "nbdcopy, merkle", digest: "merkle/sha256/64k", client: nbdcopy, goals: []goal{memory(64)}},
	{name: "nbdcopy, fsverity", digest: "fsverity/sha256/4k", client: nbdcopy, goals: []goal{memory(64)}},
	{name: "nbdcopy, dmverity", digest: "dmverity/sha256/4k", client: nbdcopy, goals: []goal{memory(64)}},
	{name: "nbdcopy, three", digest: "blake3,sha256,blkhash/sha256/64k", client: nbdcopy,
		goals: []goal{perfect(1.1), memory(64)}},
	{name: "qemu-img, blake3", digest: "blake3", client: qemuImg, goals: []goal{ratio(1.2), memory(64)}},
	{name: "qemu-img, sha256", digest: "sha256", client: qemuImg, goals: []goal{memory(64)}},
	{name: "writes, blake3", digest: "blake3", client: nbdcopyTo, server: target, goals: []goal{ratio(1.4), memory(64)}},
	{name: "writes, sha256", digest: "sha256", client: nbdcopyTo, server: target, goals: []goal{memory(64)}},
	{name: "1 GiB/s, blake3", digest: "blake3", client: nbdcopy, server: limited("8G"), pairs: 3, goals: []goal{ratio(1.02)}},
	{name: "1 GiB/s, sha256", digest: "sha256", client: nbdcopy, server: limited("8G"), pairs: 3, goals: []goal{ratio(1.02)}},
	{name: "1 GiB/s, dmverity", digest: "dmverity/sha256/4k", client: nbdcopy, server: limited("8G"), pairs: 3, goals: []goal{ratio(1.02)}},
	{name: "125 MiB/s, blake3", digest: "blake3", client: nbdcopy, server: limited("1000M"), pairs: 1, goals: []goal{ratio(1.02)}},
	{name: "125 MiB/s, sha256", digest: "sha256", client: nbdcopy, server: limited("1000M"), pairs: 1, goals: []goal{ratio(1.02)}},
	{name: "100 GiB, blake3", digest: "blake3", client: nbdcopy, server: sparse, times: 3, unchecked: true, goals: []goal{ratio(1.5), memory(68)}},
	{name: "100 GiB, merkle", digest: "merkle", client: nbdcopy, server: sparse, times: 3, unchecked: true, goals: []goal{ratio(1.5), memory(68)}},
	{name: "100 GiB, fsverity", digest: "fsverity", client: nbdcopy, server: sparse, times: 3, unchecked: true, goals: []goal{ratio(1.5), memory(68)}},
}

func nbdcopy(b *bench, uri string) []string { return []string{"nbdcopy", uri, "null:"} }

func nbdcopyTo(b *bench, uri string) []string { return []string{"nbdcopy", b.image, uri} }

func qemuImg(b *bench, uri string) []string {
	return []string{"qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", uri, b.destination}
}

// target is a file in RAM that can be written.
func target(b *bench, dir string) ([]string, error) { return []string{"file", b.destination}, nil }

// limited is the random image at so many bits in a second.
func limited(rate string) func(*bench, string) ([]string, error) {
	return func(b *bench, dir string) ([]string, error) {
		// By default, what is read in the first 2 seconds is free: all of it.
		return []string{"-r", "--filter=rate", "file", b.image, "rate=" + rate, "burstiness=0.5"}, nil
	}
}

// sparse is an image of 100 GiB with 2 GiB of data.
func sparse(b *bench, dir string) ([]string, error) {
	return []string{"-r", "sparse-random", "100G", "percent=2"}, nil
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

// onOneCore are tools that hash a file with one thread.
var onOneCore = map[string][]string{
	"sha256": {"openssl", "dgst", "-sha256"},
	"blake3": {"b3sum", "--num-threads", "1"},
}

// tools returns those of onOneCore that run along with each pair.
func (c copyCase) tools() (names []string) {
	if c.server != nil {
		return nil
	}
	for _, name := range []string{"sha256", "blake3"} {
		if strings.Contains(c.digest, name) {
			names = append(names, name)
		}
	}
	return names
}

// hashCPU returns how long the tools would compute the digests of a case, in
// seconds of processor time.
func (c copyCase) hashCPU(tools map[string]float64) (sum float64) {
	for digest := range strings.SplitSeq(c.digest, ",") {
		for name, seconds := range tools {
			if strings.Contains(digest, name) {
				sum += seconds
			}
		}
	}
	return sum
}

// peer is the command that a user without the filter runs after the copy, to
// say what the copy's digest is.
func (c copyCase) peer() string {
	switch c.digest {
	case "sha256":
		return "sha256sum"
	case "blake3":
		return "b3sum"
	}
	return ""
}

func (c copyCase) String() string { return fmt.Sprintf("%s (%s)", c.name, c.digest) }
