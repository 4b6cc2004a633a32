// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"nbdkit-digest-filter/nbdkit"
)

// unreadWhen says when the filter reads what no client asks for.
type unreadWhen string

const (
	early unreadWhen = "early"
	late  unreadWhen = "late"
	skip  unreadWhen = "skip"
)

const (
	defaultMemory = 64 << 20
	minMemory     = 1 << 20
	maxMemory     = 1 << 40
)

// config is the filter's parameters, checked and with their defaults.
type config struct {
	digests []algorithm
	file    string // an absolute path, or "" for stderr
	stdout  int    // a descriptor of standard output, if that is the file
	format  format
	name    string
	unread  unreadWhen
	memory  int64 // bytes
	query   bool
	salt    []byte

	queryGiven bool // digest-query is on the command line

	expect []expectation
	verify verifyWhen

	signature    signaturePolicy
	refuseUnsafe bool

	mu    sync.Mutex           // guards specs
	specs map[string]*treeSpec // by the digest's name: all images share them
}

// spec returns how a tree is computed.
func (c *config) spec(a algorithm) *treeSpec {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.specs == nil {
		c.specs = make(map[string]*treeSpec)
	}
	if c.specs[a.name] == nil {
		c.specs[a.name] = a.tree(c.salt)
	}
	return c.specs[a.name]
}

// verifyWhen says when a digest is compared with the expected one.
type verifyWhen string

const (
	during verifyWhen = "during" // while clients read
	before verifyWhen = "before" // before the first client is served
)

// checkConfig is parseConfig before nbdkit serves, when the files are there that
// the parameters name.
func checkConfig(params, others []nbdkit.Param, directory string) (*config, error) {
	c, err := parseConfig(params, directory)
	if err != nil {
		return nil, err
	}
	if err := c.spareFile(params, others, directory); err != nil {
		return nil, fmt.Errorf("digest-file=%s: %w", printable(c.file), err)
	}
	return c, nil
}

// resolve returns the parameters with digests in place of checksum files: one of
// each kind, however many lines the files have.
func (c *config) resolve(params []nbdkit.Param) (resolved []nbdkit.Param) {
	for _, p := range params {
		if p.Key != "digest-expect" {
			resolved = append(resolved, p)
		}
	}
	for _, e := range c.expect {
		resolved = append(resolved, nbdkit.Param{Key: "digest-expect", Value: fmt.Sprintf("%s:%x", e.algorithm.name, e.sum)})
	}
	return resolved
}

// parseConfig checks the parameters of the command line. Relative paths start
// from directory.
func parseConfig(params []nbdkit.Param, directory string) (*config, error) {
	c := &config{memory: defaultMemory, query: true, verify: during, refuseUnsafe: true, signature: signaturePolicy{value: "sane", sane: true}}
	formatName := ""
	var expect []string
	seen := make(map[string]bool)
	for _, p := range params {
		if seen[p.Key] && p.Key != "digest" && p.Key != "digest-expect" {
			return nil, fmt.Errorf("%s is given more than once", p.Key)
		}
		seen[p.Key] = true
		if p.Value == "" {
			return nil, fmt.Errorf("%s= has no value", p.Key)
		}
		var err error
		switch p.Key {
		case "digest":
			err = c.addDigests(p.Value)
		case "digest-file":
			err = c.setFile(p.Value, directory)
		case "digest-format":
			formatName = p.Value
			if formats[formatName] == nil {
				err = errors.New("use text, gnu or json")
			}
		case "digest-name":
			c.name = p.Value
		case "digest-unread":
			switch c.unread = unreadWhen(p.Value); c.unread {
			case early, late, skip:
			default:
				err = errors.New("use early, late or skip")
			}
		case "digest-memory":
			c.memory, err = parseSize(p.Value, minMemory, maxMemory)
		case "digest-query":
			c.query, err = parseBool(p.Value)
			c.queryGiven = true
		case "digest-expect":
			expect = append(expect, p.Value) // when digest-name is known
		case "digest-verify":
			switch c.verify = verifyWhen(p.Value); c.verify {
			case during, before:
			default:
				err = errors.New("use during or before")
			}
		case "signature":
			c.signature, err = parseSignaturePolicy(p.Value)
		case "signature-unsafe":
			c.refuseUnsafe = p.Value == "refuse"
			if p.Value != "refuse" && p.Value != "allow" {
				err = errors.New("use refuse or allow")
			}
		case "digest-salt":
			c.salt, err = parseSalt(p.Value)
		default:
			err = errors.New("the filter does not know this parameter")
		}
		if err != nil {
			return nil, fmt.Errorf("%s=%s: %w", p.Key, printable(p.Value), err)
		}
	}

	if err := c.addExpectations(expect, directory); err != nil {
		return nil, err
	}
	if c.verify == before && len(c.expect) == 0 {
		return nil, errors.New("digest-verify=before needs a digest to compare with: use digest-expect=")
	}
	if len(c.digests) == 0 {
		if err := c.addDigests("blake3"); err != nil {
			return nil, err
		}
	}
	if formatName == "" {
		formatName = "text"
		if strings.HasSuffix(c.file, ".json") {
			formatName = "json"
		}
	}
	c.format = formats[formatName]
	if formatName == "gnu" && len(c.digests) > 1 {
		return nil, fmt.Errorf("digest-format=gnu takes exactly one digest, not %d: use text or json", len(c.digests))
	}
	if err := c.checkSalt(); err != nil {
		return nil, err
	}
	if c.unread == "" {
		c.unread = late
		if len(c.expect) > 0 {
			c.unread = early
		}
		for _, a := range c.digests {
			if a.new != nil {
				c.unread = early
			}
		}
	}
	return c, nil
}

// addExpectations takes the values of digest-expect. Their digests are
// computed, whether they were asked for or not.
func (c *config) addExpectations(values []string, directory string) error {
	for _, value := range values {
		list, err := parseExpectation(value, c.name, directory)
		if err != nil {
			return fmt.Errorf("digest-expect=%s: %w", printable(value), err)
		}
		for _, e := range list {
			if err := c.addExpectation(e); err != nil {
				return fmt.Errorf("digest-expect=%s: %w", printable(value), err)
			}
		}
	}
	return nil
}

func (c *config) addExpectation(e expectation) error {
	for _, other := range c.expect {
		if other.algorithm.name != e.algorithm.name {
			continue
		}
		if !other.matches(e.sum) {
			return fmt.Errorf("another digest-expect= has %x for %s: only one of them can be right", other.sum, e.algorithm.name)
		}
		return nil
	}
	c.expect = append(c.expect, e)
	return c.addDigests(e.algorithm.name)
}

// fewBlocks is how many blocks digest-memory should be at least, about half of which
// find room: four connections, of which each is in a block, are usual.
const fewBlocks = 8

// warnings are about what is no error, and yet hardly wanted.
func (c *config) warnings() (lines []string) {
	for _, a := range c.digests {
		if a.new != nil {
			continue
		}
		if least := fewBlocks * c.spec(a).leafSize; c.memory < least {
			lines = append(lines, fmt.Sprintf("warning: digest-memory=%s has no room for several blocks of %s: use digest-memory=%s",
				formatSize(c.memory), a.name, formatSize(least)))
		}
	}
	return lines
}

func parseSalt(value string) ([]byte, error) {
	salt, err := hex.DecodeString(value)
	if err != nil {
		return nil, errors.New("use pairs of hexadecimal digits")
	}
	return salt, nil
}

// checkSalt looks whether the salt is of use to the digests.
func (c *config) checkSalt() error {
	if c.salt == nil {
		return nil
	}
	used := false
	for _, a := range c.digests {
		if n := len(c.salt); n > a.maxSalt && a.maxSalt > 0 {
			return fmt.Errorf("digest-salt: %s takes a salt of at most %d bytes, not %d", a.name, a.maxSalt, n)
		}
		used = used || a.maxSalt > 0
	}
	if !used {
		return errors.New("digest-salt is for fsverity and dmverity: ask for one of them with digest=")
	}
	return nil
}

// looks tells whether it matters what an image is.
func (c *config) looks() bool {
	return c.refuseUnsafe || c.signature.sane || c.signature.wanted != nil
}

// checkSize tells whether all digests of an image of size bytes exist.
func (c *config) checkSize(size int64) error {
	for _, a := range c.digests {
		if err := a.checkSize(size); err != nil {
			return err
		}
	}
	return nil
}

// addDigests takes a list of digests. One that is there already is not added
// again.
func (c *config) addDigests(list string) error {
	for name := range strings.SplitSeq(list, ",") {
		a, err := parseAlgorithm(name)
		if err != nil && name == "" && list != "" {
			return fmt.Errorf("remove a comma: %w", err)
		}
		if err != nil {
			return err
		}
		known := false
		for _, b := range c.digests {
			known = known || a.name == b.name
		}
		if !known {
			c.digests = append(c.digests, a)
		}
	}
	return nil
}

func (c *config) setFile(path, directory string) error {
	if path == "-" {
		return nil
	}
	if strings.HasSuffix(path, "/") {
		return errDirectory
	}
	path = absolute(path, directory)
	c.file = path
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return errors.New("this is a directory: name a file in it")
	}
	info, err := os.Stat(filepath.Dir(path))
	switch {
	case err != nil:
		return fmt.Errorf("its directory cannot be used: %w", errors.Unwrap(err))
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory", printable(filepath.Dir(path)))
	}
	if standardStream(path) == 1 {
		if c.stdout = nbdkit.Stdout(); c.stdout == -1 {
			return errors.New("standard output is the connection to the client: name a file")
		}
	}
	return checkWritable(path)
}

// displayName is what stands beside a digest in place of a file name.
func (c *config) displayName(export string) string {
	switch {
	case c.name != "":
		return c.name
	case export != "":
		return export
	}
	return "-"
}
