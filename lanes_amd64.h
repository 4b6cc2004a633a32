/* SPDX-License-Identifier: BSD-3-Clause */

/* What the functions for the lanes of AVX-512 and of AVX2 share. */

#ifndef DIGEST_LANES_AMD64_H
#define DIGEST_LANES_AMD64_H

/* The order of sums has the operand last that is ready last.  GCC would
 * choose another one, and hash 10 to 20% slower.
 */
#pragma GCC optimize ("no-tree-reassoc")

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

/* What both hashes begin with: BLAKE3 has taken it from SHA-256. */
static const uint32_t iv[8] = {
  0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
  0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

#define UNROLL(n) _Pragma (DIGEST_STRING (GCC unroll n))
#define DIGEST_STRING(x) #x

#endif
