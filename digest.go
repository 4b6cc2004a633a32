package main

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
	"strings"
)

// An algorithm is a digest that the filter can compute: linear or a tree.
type algorithm struct {
	name string // in full, as in the sidecar
	new  func() hash.Hash
	spec *treeSpec
}

var algorithms = []algorithm{
	{name: "md5", new: md5.New},
	{name: "sha1", new: sha1.New},
	{name: "sha224", new: sha256.New224},
	{name: "sha256", new: sha256.New},
	{name: "sha384", new: sha512.New384},
	{name: "sha512", new: sha512.New},
	{name: "blake3", spec: &blake3Spec},
}

// parseAlgorithm returns the algorithm that a user names.
func parseAlgorithm(name string) (algorithm, error) {
	var names []string
	for _, a := range algorithms {
		if a.name == strings.ToLower(name) {
			return a, nil
		}
		names = append(names, a.name)
	}
	return algorithm{}, fmt.Errorf("unknown digest %q: use one of %s", name, strings.Join(names, ", "))
}

// tag is the name in a line of the form TAG (NAME) = HEX, as BSD's tools and
// GNU's with --tag print it.
func (a algorithm) tag() string {
	return strings.ToUpper(strings.ReplaceAll(a.name, "/", "-"))
}
