// SPDX-License-Identifier: BSD-3-Clause

// Bench measures what the filter costs: each copy is made with and without it,
// in turn, in one run, on one random image in RAM. Ratios are medians over such
// pairs, so that they mean the same on a busy machine and on an idle one.
//
//	go run ./tests/bench [-n PAIRS] [-size SIZE] [-run REGEXP] [-keep DIR]
//
// It runs from the top of the source tree, after make. Every digest is checked
// against the one of the reference tool: a fast wrong digest is no result.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
)

// A bench is what all cases of a run share.
type bench struct {
	ctx    context.Context
	filter string // path of the filter
	dir    string // in RAM, removed at the end
	image  string // path of the random image, made when first needed
	// destination is a file of the same size, where copies go. It stays: a
	// virtual machine that frees memory gives it back to its host, and is
	// three times as slow to fill it anew.
	destination string
	size        size
	pairs       int
	want        map[string]string // reference digest of the image by algorithm
	missed      int               // goals
	out         io.Writer
	table       bytes.Buffer // what was printed
	bars        []bar
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

func run() (err error) {
	b := &bench{size: 2 << 30, out: os.Stdout}
	flag.IntVar(&b.pairs, "n", 5, "number of `pairs` of runs for each case")
	flag.Var(&b.size, "size", "`size` of the image, such as 512M or 2G")
	only := flag.String("run", "", "run only the cases whose name matches `regexp`")
	keep := flag.String("keep", "", "write the table and a plot to this `directory`, as speed.txt and speed.svg")
	flag.Parse()
	switch {
	case flag.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	case b.pairs < 1:
		return fmt.Errorf("-n should be at least 1, not %d", b.pairs)
	}
	chosen, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}

	if b.filter, err = filepath.Abs("nbdkit-digest-filter.so"); err != nil {
		return err
	}
	if _, err = os.Stat(b.filter); err != nil {
		return fmt.Errorf("%w: run 'make' first", err)
	}
	if b.dir, err = workspace(b.size); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()

	var stop context.CancelFunc
	b.ctx, stop = signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	if err := b.printMachine(); err != nil {
		return err
	}
	for _, part := range []struct {
		name    string
		measure func() error
	}{
		{loading, b.load},
		{holes, b.holes},
		{scattered, b.scatter},
		{growing, b.grow},
		{requests, b.requests},
		{importing, b.imports},
	} {
		if !chosen.MatchString(part.name) {
			continue
		}
		if err := part.measure(); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	heading := true
	for _, c := range copies {
		if !chosen.MatchString(c.name) {
			continue
		}
		if heading {
			b.printHeading()
			heading = false
		}
		r, err := b.measure(c)
		if err != nil {
			return fmt.Errorf("%v: %w", c, err)
		}
		b.report(r)
		if err := b.compare(r); err != nil {
			return fmt.Errorf("%v: %w", c, err)
		}
	}
	b.printf("\n%d goals missed\n", b.missed)
	if *keep != "" {
		return b.keep(*keep)
	}
	return nil
}
