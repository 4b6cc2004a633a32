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
		goals: []goal{ratio(1.7), memory(128)}},
	{name: "nbdcopy, sha256", digest: "sha256", client: nbdcopy,
		goals: []goal{openssl(85), memory(128)}},
	{name: "nbdcopy, both", digest: "blake3,sha256", client: nbdcopy,
		goals: []goal{memory(128)}},
	{name: "qemu-img, blake3", digest: "blake3", client: qemuImg,
		goals: []goal{ratio(1.7), memory(128)}},
	{name: "qemu-img, sha256", digest: "sha256", client: qemuImg,
		goals: []goal{memory(128)}},
	{name: "qemu-img, both", digest: "blake3,sha256", client: qemuImg,
		goals: []goal{memory(128)}},
}

// references are the tools whose word counts, by algorithm.
var references = map[string][]string{
	"blake3": {"b3sum", "--no-names"},
	"sha256": {"sha256sum"},
}

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
