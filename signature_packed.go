// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"math/bits"
	"strconv"
)

// What magic bytes alone do not tell of compressed data and archives.

func isBzip2(v *view, _ int64) bool {
	level := v.u8(3)
	return level >= '1' && level <= '9' && (v.has(4, "\x31\x41\x59\x26\x53\x59") || v.has(4, "\x17\x72\x45\x38\x50\x90")) // of a block, or of the end
}

// isLZMA checks the header of the older format of xz, which has no real
// magic: properties, dictionary size, size of the content or -1. The first
// byte that an LZMA encoder puts out is always 0.
func isLZMA(v *view, _ int64) bool {
	dictionary, size := v.le32(1), v.le64(5)
	ones := bits.OnesCount32(dictionary)
	adjacent := ones == 2 && dictionary&(dictionary>>1) != 0 // 2^n + 2^(n-1)
	return len(v.at(0, 14)) == 14 && (ones == 1 || adjacent) &&
		(size == 1<<64-1 || size < 1<<48) && v.u8(13) == 0
}

// isTar checks the sum of the header, which old programs took of signed
// bytes.
func isTar(v *view, _ int64) bool {
	header := v.at(0, 512)
	if header == nil {
		return false
	}
	want, err := strconv.ParseInt(string(bytes.Trim(header[148:156], " \x00")), 8, 32)
	if err != nil {
		return false
	}
	var sum, signed int64
	for i, b := range header {
		if i >= 148 && i < 156 {
			b = ' '
		}
		sum += int64(b)
		signed += int64(int8(b))
	}
	return sum == want || signed == want
}

// isCpio wants the numbers of the header behind the magic: octal ones in the
// old format, hexadecimal ones in the new.
func isCpio(v *view, _ int64) bool {
	length, digits := int64(110), "0123456789abcdefABCDEF"
	sizeAt, sizeEnd, base := 94, 102, 16 // of the name
	if v.u8(5) == '7' {
		length, digits = 76, "01234567"
		sizeAt, sizeEnd, base = 59, 65, 8
	}
	header := v.at(0, length)
	if header == nil || len(bytes.Trim(header[6:], digits)) != 0 {
		return false
	}
	// A list of checksums may begin so, too. The name is behind the header, with
	// a zero at its end.
	name, _ := strconv.ParseInt(string(header[sizeAt:sizeEnd]), base, 64)
	return name > 0 && name <= maxCpioName && v.has(length+name-1, "\x00")
}

// maxCpioName is PATH_MAX of Linux, with the zero.
const maxCpioName = 4096

// isZstd wants a frame behind those that are to be skipped, of which pzstd puts one
// first: RFC 8878, section 3.1.2.
func isZstd(v *view, _ int64) bool {
	at := int64(0)
	for range 4 {
		if v.le32(at)>>4 != 0x184d2a5 {
			break
		}
		at += 8 + int64(v.le32(at+4))
	}
	return v.has(at, "\x28\xb5\x2f\xfd")
}
