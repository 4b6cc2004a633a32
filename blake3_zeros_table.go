// SPDX-License-Identifier: BSD-3-Clause

package main

// A zeroRegion is a part of an image with a table entry every step bytes. It
// begins where the one before ends, at a multiple of its step.
type zeroRegion struct{ end, step int64 }

// zeroTable says what blake3_zeros.bin holds: 152576 chaining values, 4.7 MiB.
// On disks of up to 128 GiB, most of all, the hole at a file's end should cost
// less than a millisecond. A larger ext4 has metadata every 2 GiB: of the zeros
// between, not more than a hundredth is hashed up to 1 TiB, and a sixteenth behind that.
var zeroTable = []zeroRegion{
	{end: 128 << 30, step: 4 << 20},
	{end: 1 << 40, step: 16 << 20},
	{end: 8832 << 30, step: 128 << 20},
}
