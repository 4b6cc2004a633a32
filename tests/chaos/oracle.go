// SPDX-License-Identifier: BSD-3-Clause

package chaos

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"hash"

	"lukechampine.com/blake3"
)

// What digests are, written down as plainly as can be: nothing here is shared
// with the filter.

// algorithms are those that a round chooses from.
var algorithms = []string{
	"sha256", "sha512", "blake3", "blkhash/sha256/64k", "blkhash/sha256/4k", "merkle/sha256/1k", "merkle/sha512/64k",
	"fsverity/sha256/4k", "dmverity/sha256/512", "dmverity/sha256/4k",
}

// blockOf is what the size of an image must be a multiple of.
func blockOf(algorithm string) int64 {
	switch algorithm {
	case "dmverity/sha256/512":
		return 512
	case "dmverity/sha256/4k":
		return 4096
	}
	return 1
}

func digest(algorithm string, image []byte) string {
	var sum []byte
	switch algorithm {
	case "sha256":
		sum = sha(sha256.New, image)
	case "sha512":
		sum = sha(sha512.New, image)
	case "blake3":
		h := blake3.Sum256(image)
		sum = h[:]
	case "blkhash/sha256/64k":
		sum = blkhash(image, 64<<10)
	case "blkhash/sha256/4k":
		sum = blkhash(image, 4<<10)
	case "merkle/sha256/1k":
		sum = rfc9162(sha256.New, blocks(image, 1<<10))
	case "merkle/sha512/64k":
		sum = rfc9162(sha512.New, blocks(image, 64<<10))
	case "fsverity/sha256/4k":
		d := append([]byte{1, 1, 12, 0, 0, 0, 0, 0}, binary.LittleEndian.AppendUint64(nil, uint64(len(image)))...)
		sum = sha(sha256.New, pad(append(d, verity(image, 4096)...), 256))
	case "dmverity/sha256/512":
		sum = verity(image, 512)
	case "dmverity/sha256/4k":
		sum = verity(image, 4096)
	default:
		panic(algorithm)
	}
	return hex.EncodeToString(sum)
}

func sha(h func() hash.Hash, parts ...[]byte) []byte {
	s := h()
	for _, p := range parts {
		s.Write(p)
	}
	return s.Sum(nil)
}

func blocks(image []byte, size int) (list [][]byte) {
	for len(image) > size {
		list, image = append(list, image[:size]), image[size:]
	}
	return append(list, image)
}

func pad(p []byte, size int) []byte { return append(bytes.Clone(p), make([]byte, size-len(p))...) }

func blkhash(image []byte, size int) []byte {
	var outer []byte
	for _, b := range blocks(image, size) {
		outer = append(outer, sha(sha256.New, b)...)
	}
	return sha(sha256.New, outer, binary.LittleEndian.AppendUint64(nil, uint64(len(image))))
}

// rfc9162 is MTH of the RFC.
func rfc9162(h func() hash.Hash, d [][]byte) []byte {
	if len(d) == 1 {
		return sha(h, []byte{0}, d[0])
	}
	k := 1
	for 2*k < len(d) {
		k *= 2
	}
	return sha(h, []byte{1}, rfc9162(h, d[:k]), rfc9162(h, d[k:]))
}

// verity hashes blocks level by level until one digest is left.
func verity(image []byte, size int) []byte {
	level := blocks(image, size)
	for {
		var digests []byte
		for _, b := range level {
			digests = append(digests, sha(sha256.New, pad(b, size))...)
		}
		if len(digests) == sha256.Size {
			return digests
		}
		level = blocks(digests, size)
	}
}
