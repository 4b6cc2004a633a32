// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"crypto/sha3"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"
)

// A vector is an input of testdata/digests.json with what the reference
// tools (coreutils, b3sum, fsverity, veritysetup, nbdcopy) say of it. An
// input is zeros, but for its data segments, which are SHAKE128 of a seed.
type vector struct {
	Name string
	Size int64
	Data []struct {
		Offset, Length int64
		Seed           string
	}
	Digests map[string]string
}

func vectors(t testing.TB) []vector {
	t.Helper()
	text, err := os.ReadFile("testdata/digests.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Inputs []vector }
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Inputs) == 0 {
		t.Fatal("testdata/digests.json has no inputs")
	}
	return file.Inputs
}

func (v vector) bytes() []byte {
	image := make([]byte, v.Size)
	for _, d := range v.Data {
		h := sha3.NewSHAKE128()
		h.Write([]byte(d.Seed))
		h.Read(image[d.Offset:][:d.Length])
	}
	return image
}

// vectorSalt is the salt of the digests that have one.
func vectorSalt(t testing.TB) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/digests.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Salt string }
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	salt, err := hex.DecodeString(file.Salt)
	if err != nil || len(salt) == 0 {
		t.Fatalf("testdata/digests.json has salt %q", file.Salt)
	}
	return salt
}
