// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"testing"
)

// FuzzNodes is TestTreesEqualTheirDefinitions with steps that a fuzzer makes
// up: four bytes for each, which say what, where, how much and of what. After
// each step, whatever was not read since it was last forgotten must be
// unknown, and a digest must be that of the bytes that are there.
func FuzzNodes(f *testing.F) {
	f.Add(byte(0), uint16(9000), []byte{0, 0, 255, 1, 3, 10, 20, 7, 1, 30, 40, 0, 5, 50, 9, 0})
	f.Add(byte(1|1<<3), uint16(65535), []byte{2, 0, 255, 0, 3, 0, 100, 9, 4, 50, 30, 0})
	f.Add(byte(2|2<<3), uint16(30000), []byte{3, 5, 250, 3, 0, 0, 255, 0, 5, 128, 1, 0})
	f.Add(byte(3|1<<5), uint16(40001), []byte{0, 128, 255, 0, 0, 0, 128, 0, 4, 7, 60, 0})
	f.Add(byte(0), uint16(32768), []byte{6, 0, 255, 3, 6, 7, 90, 9, 3, 40, 2, 1, 6, 0, 255, 0})
	f.Add(byte(1), uint16(40000), []byte{6, 3, 255, 2, 5, 100, 2, 0, 6, 99, 9, 0})
	f.Add(byte(4|1<<6), uint16(65535), []byte{3, 0, 255, 77, 5, 3, 3, 0, 2, 0, 255, 0, 1, 200, 9, 0})
	f.Add(byte(0|1<<7), uint16(65535), []byte{6, 0, 200, 8, 6, 90, 90, 9, 2, 40, 2, 1, 6, 100, 255, 10, 1, 3, 99, 0})
	f.Add(byte(3|1<<7), uint16(65535), []byte{6, 0, 255, 11, 3, 90, 3, 9, 6, 70, 90, 8, 4, 100, 2, 0, 6, 0, 255, 8})
	f.Fuzz(func(t *testing.T, how byte, units uint16, steps []byte) {
		d := definitions[int(how&7)%len(definitions)]
		a, err := parseAlgorithm(d.name)
		if err != nil {
			t.Fatal(err)
		}
		size := 1 + 2*int64(units)<<(how>>7*2)
		if a.multiple > 0 {
			size += (a.multiple - size%a.multiple) % a.multiple
		}
		limit := []int64{64 * mib, 0, 2000, 20000}[how>>3&3]
		tr := newTree(a.tree(d.salt), size, &budget{limit: []int64{mib, 0}[how>>5&1]}, limit)
		if how>>6&1 == 1 {
			tr.setWritable()
		}
		image := make([]byte, size)
		given := make(extentModel, size)
		for ; len(steps) >= 4; steps = steps[4:] {
			lo := int64(steps[1]) * size / 256
			hi := min(size, lo+(int64(steps[2])+1)*size/256)
			switch steps[0] % 7 {
			case 0, 1:
				tr.add(lo, image[lo:hi], steps[0]%7 == 0)
				given.set(lo, hi, true)
			case 6: // small requests, and a failed write among them
				unit := tr.spec.leafSize
				if steps[3]&8 != 0 {
					unit = max(unit, cellSize)
				}
				lo -= lo % unit
				for at := lo; at < hi; at += unit {
					if tr.stage(at, image[at:min(size, at+unit)]) {
						given.set(at, min(size, at+unit), true)
					}
				}
				hi = min(size, lo+unit*int64(steps[3]%8))
				tr.forget(lo, hi)
				given.set(lo, hi, false)
			case 2:
				lo, hi = zerosIn(image, lo)
				tr.addZero(lo, hi, true)
				given.set(lo, hi, true)
			case 3: // a write
				tr.forget(lo, hi)
				for i := lo; i < hi; i++ {
					image[i] = steps[3] * byte(i>>8^i)
				}
				tr.add(lo, image[lo:hi], false)
				given.set(lo, hi, true)
			case 4: // a zero
				tr.forget(lo, hi)
				clear(image[lo:hi])
				tr.addZero(lo, hi, true)
				given.set(lo, hi, true)
			case 5: // a failed write
				tr.forget(lo, hi)
				given.set(lo, hi, false)
			}
			checkUnknown(t, tr, given)
		}
		completed(tr, image)
		if got, want := tr.sum(), d.sum(image); !bytes.Equal(got, want) {
			t.Fatalf("%s of %d bytes: %x, want %x", d.name, size, got, want)
		}
	})
}

// checkUnknown fails the test if the tree takes for known what it was not
// given.
func checkUnknown(t *testing.T, tr *tree, given extentModel) {
	t.Helper()
	size := int64(len(given))
	at := int64(0)
	for {
		lo, hi := tr.unknown(at, size)
		if a, b := given.missing(at, lo); a < b {
			t.Fatalf("[%d, %d) of %d bytes was not read and is known", a, b, size)
		}
		if lo == hi {
			return
		}
		at = hi
	}
}
