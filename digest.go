// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
	"math/bits"
	"slices"
	"strings"
	"sync"

	"github.com/zeebo/blake3"
)

// An algorithm is a digest that the filter can compute: linear or a tree.
type algorithm struct {
	name string // in full, as in the sidecar
	size int    // bytes of the digest
	new  func() hash.Hash
	tree func(salt []byte) *treeSpec

	maxSalt int // bytes, 0 if it takes no salt
	// multiple is what the image's size must be a multiple of, or 0.
	multiple int64
}

// A hashFunc is a hash function that a tree can be made of.
type hashFunc struct {
	name  string
	size  int // bytes of a digest
	block int // bytes of an input block
	new   func() hash.Hash
	pool  sync.Pool
}

// sum hashes prefix, data and suffix, any of which may be empty, to out.
func (f *hashFunc) sum(out, prefix, data, suffix []byte) {
	if f.name == "blake3" && len(data) >= simdSize && len(suffix) == 0 {
		blake3Sum(out, prefix, data)
		return
	}
	h, ok := f.pool.Get().(hash.Hash)
	if !ok {
		h = f.new()
	}
	h.Reset()
	h.Write(prefix)
	h.Write(data)
	h.Write(suffix)
	h.Sum(out[:0])
	f.pool.Put(h)
}

// many returns what hashes several leaves of size bytes behind a prefix at a
// time, or nil.
func (f *hashFunc) many(prefix []byte, size int64) manyLeaves {
	if f.name != "sha256" {
		return nil
	}
	return sha256Leaves(prefix, size)
}

var hashFuncs = []*hashFunc{
	{name: "md5", size: md5.Size, block: md5.BlockSize, new: md5.New},
	{name: "sha1", size: sha1.Size, block: sha1.BlockSize, new: sha1.New},
	{name: "sha224", size: sha256.Size224, block: sha256.BlockSize, new: sha256.New224},
	{name: "sha256", size: sha256.Size, block: sha256.BlockSize, new: sha256.New},
	{name: "sha384", size: sha512.Size384, block: sha512.BlockSize, new: sha512.New384},
	{name: "sha512", size: sha512.Size, block: sha512.BlockSize, new: sha512.New},
	{name: "blake3", size: 32, block: 64, new: func() hash.Hash { return blake3.New() }},
}

// algorithms are those that have one name. BLAKE3 is not linear.
var algorithms = func() (list []algorithm) {
	for _, h := range hashFuncs {
		a := algorithm{name: h.name, size: h.size, new: h.new}
		if h.name == "blake3" {
			a.new, a.tree = nil, func([]byte) *treeSpec { return &blake3Spec }
		}
		list = append(list, a)
	}
	return list
}()

// A family is a tree format that is completed by a hash and a block size:
// NAME[/HASH[/SIZE]].
type family struct {
	name        string
	hashes      []string // the first one is the default
	size        int64    // bytes of a block by default
	least, most int64
	spec        func(h *hashFunc, size int64, salt []byte) *treeSpec
	maxSalt     int
	whole       bool // the image must be whole blocks, and at least one
}

var families = []family{
	{"blkhash", []string{"sha256", "md5", "sha1", "sha512", "blake3"}, 64 << 10, 4 << 10, 1 << 20, blkhashSpec, 0, false},
	{"merkle", []string{"blake3", "sha224", "sha256", "sha384", "sha512"}, 64 << 10, 1 << 10, 1 << 20, merkleSpec, 0, false},
	{"fsverity", []string{"sha256", "sha512"}, 4 << 10, 1 << 10, 64 << 10, fsveritySpec, 32, false},
	{"dmverity", []string{"sha256", "sha512"}, 4 << 10, 512, 512 << 10, dmveritySpec, 256, true},
}

// parseAlgorithm returns the algorithm that a user names.
func parseAlgorithm(name string) (algorithm, error) {
	parts := strings.Split(strings.ToLower(name), "/")
	var names []string
	for _, a := range algorithms {
		if a.name == strings.ToLower(name) {
			return a, nil
		}
		names = append(names, a.name)
	}
	for _, f := range families {
		if f.name == parts[0] {
			return f.parse(parts[1:])
		}
		names = append(names, f.name+"[/HASH[/SIZE]]")
	}
	return algorithm{}, fmt.Errorf("unknown digest %q: use one of %s", name, strings.Join(names, ", "))
}

// parse completes a family: parts are the hash and the block size.
func (f family) parse(parts []string) (algorithm, error) {
	hash, size := f.hashes[0], f.size
	if len(parts) > 2 {
		return algorithm{}, fmt.Errorf("too many parts in a %s digest: use %s[/HASH[/SIZE]]", f.name, f.name)
	}
	if len(parts) > 0 {
		hash = parts[0]
	}
	h, err := f.named(hash)
	if err != nil {
		return algorithm{}, err
	}
	if len(parts) > 1 {
		if size, err = parseSize(parts[1], f.least, f.most); err != nil || bits.OnesCount64(uint64(size)) != 1 {
			return algorithm{}, fmt.Errorf("block size %q of %s must be a power of two in the range [%s..%s]",
				parts[1], f.name, formatSize(f.least), formatSize(f.most))
		}
	}
	a := algorithm{
		name: fmt.Sprintf("%s/%s/%s", f.name, h.name, strings.ToLower(formatSize(size))),
		size: h.size,
		tree: func(salt []byte) *treeSpec { return f.spec(h, size, salt) },

		maxSalt: f.maxSalt,
	}
	if f.whole {
		a.multiple = size
	}
	return a, nil
}

// checkSize tells whether the digest of an image of size bytes exists.
func (a algorithm) checkSize(size int64) error {
	if a.multiple > 0 && (size == 0 || size%a.multiple != 0) {
		return fmt.Errorf("%s is for images of whole blocks of %d bytes, and this one has %d bytes: use another digest",
			a.name, a.multiple, size)
	}
	return nil
}

func (f family) named(hash string) (*hashFunc, error) {
	i := slices.IndexFunc(hashFuncs, func(h *hashFunc) bool { return h.name == hash })
	if i < 0 || !slices.Contains(f.hashes, hash) {
		return nil, fmt.Errorf("unknown hash %q of %s: use one of %s", hash, f.name, strings.Join(f.hashes, ", "))
	}
	return hashFuncs[i], nil
}

// tag is the name in a line of the form TAG (NAME) = HEX, as BSD's tools and
// GNU's with --tag print it.
func (a algorithm) tag() string {
	return strings.ToUpper(strings.ReplaceAll(a.name, "/", "-"))
}
