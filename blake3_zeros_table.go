// SPDX-License-Identifier: BSD-3-Clause

package main

// A zeroRegion is a part of an image with a table entry every step bytes. It
// begins where the one before ends, at a multiple of its step.
type zeroRegion struct{ end, step int64 }

// zeroTable says what blake3_zeros.bin holds: 45056 chaining values, 1.4 MiB.
// On disks of up to 128 GiB, most of all, the hole at a file's end should cost
// less than a millisecond; behind that a table of this size has to be
// coarse.
var zeroTable = []zeroRegion{
	{end: 128 << 30, step: 4 << 20},
	{end: 640 << 30, step: 128 << 20},
	{end: 8832 << 30, step: 1 << 30},
}
