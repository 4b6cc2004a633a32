// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const requests = "random requests of 4 KiB"

// requests measures small random reads, 64 in flight on each of 4
// connections: when the image is new to the filter, and when it is known; and
// when the filter reads as much besides, as it does by default for sha256.
func (b *bench) requests() error {
	if err := b.prepareImage(); err != nil {
		return err
	}
	b.printf("\n")
	for _, c := range []struct {
		digest, unread string
		known          bool
	}{{"blake3", "skip", true}, {"blake3", "skip", false}, {"sha256", "skip", false}, {"sha256", "early", false}} {
		var ratios []float64
		for range b.pairs {
			plain, err := b.requestsPerSecond(c.known)
			if err != nil {
				return err
			}
			filtered, err := b.requestsPerSecond(c.known, "digest="+c.digest, "digest-unread="+c.unread)
			if err != nil {
				return err
			}
			ratios = append(ratios, plain/filtered)
		}
		image := "an image that is read the first time"
		if c.known {
			image = "an image that is known"
		}
		b.printf("%s, %s, %s: ratio %s", requests, image, c.digest, spread(ratios))
		if c.unread == "skip" {
			b.printf(", want <= 1.1: %s\n", b.verdict(median(ratios) <= 1.1))
		} else {
			b.printf(" with the filter's own reads\n")
		}
	}
	return nil
}

// requestsPerSecond reads for 2 seconds, with the filter if it has parameters.
func (b *bench) requestsPerSecond(known bool, parameters ...string) (float64, error) {
	args := []string{"-r", "file", b.image}
	if parameters != nil {
		args = append([]string{"--filter=" + b.filter}, args...)
		args = append(args, parameters...)
		args = append(args, "digest-file="+filepath.Join(b.dir, "requests.sum"))
	}
	dir := filepath.Join(b.dir, "requests")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	s, err := b.serve(dir, args...)
	if err != nil {
		return 0, err
	}
	defer s.stop()
	uri := "nbd+unix:///?socket=" + s.socket
	if known {
		if _, err := b.command("nbdcopy", uri, "null:"); err != nil {
			return 0, err
		}
	}
	used, err := b.command("fio", "--name=requests", "--ioengine=nbd", "--uri="+uri,
		"--rw=randread", "--bs=4k", "--iodepth=64", "--numjobs=4", "--thread", "--group_reporting",
		"--time_based", "--runtime=2", fmt.Sprintf("--size=%d", b.size), "--norandommap", "--output-format=json")
	if err != nil {
		return 0, err
	}
	var report struct {
		Jobs []struct{ Read struct{ IOPS float64 } }
	}
	// fio may warn first.
	text := used.stdout[max(0, strings.IndexByte(used.stdout, '{')):]
	if err := json.Unmarshal([]byte(text), &report); err != nil || len(report.Jobs) != 1 || report.Jobs[0].Read.IOPS == 0 {
		return 0, fmt.Errorf("fio did not tell its requests per second: %v\n%s", err, used.stdout)
	}
	return report.Jobs[0].Read.IOPS, nil
}
