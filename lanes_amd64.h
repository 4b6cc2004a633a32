/* SPDX-License-Identifier: BSD-3-Clause */

/* What the functions for AVX-512 share. */

#ifndef DIGEST_LANES_AMD64_H
#define DIGEST_LANES_AMD64_H

/* The order of sums below has the operand last that is ready last.  GCC
 * would choose another one, and hash 10 to 20% slower.
 */
#pragma GCC optimize ("no-tree-reassoc")

#include <immintrin.h>
#include <stdint.h>

#define AVX512 __attribute__ ((target ("avx512f,avx512bw")))

/* A word of each lane. */
typedef __m512i words;

#define ADD _mm512_add_epi32
#define ROR _mm512_ror_epi32

/* What both hashes begin with: BLAKE3 has taken it from SHA-256. */
static const uint32_t iv[8] = {
  0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
  0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

#define UNROLL(n) _Pragma (DIGEST_STRING (GCC unroll n))
#define DIGEST_STRING(x) #x

/* Turn 16 rows of 16 words into columns. */
AVX512 static inline __attribute__ ((always_inline)) void
transpose (words m[16])
{
  words t[16], u[16];

  UNROLL (8)
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32 (m[i], m[i+1]);
    t[i+1] = _mm512_unpackhi_epi32 (m[i], m[i+1]);
  }
  UNROLL (4)
  for (int i = 0; i < 16; i += 4) {
    u[i] = _mm512_unpacklo_epi64 (t[i], t[i+2]);
    u[i+1] = _mm512_unpackhi_epi64 (t[i], t[i+2]);
    u[i+2] = _mm512_unpacklo_epi64 (t[i+1], t[i+3]);
    u[i+3] = _mm512_unpackhi_epi64 (t[i+1], t[i+3]);
  }
  /* Column c of a quarter of the rows is now in lane c/4 of u[c%4]. */
  UNROLL (4)
  for (int i = 0; i < 4; ++i) {
    words a = _mm512_shuffle_i32x4 (u[i], u[i+4], 0x88);
    words b = _mm512_shuffle_i32x4 (u[i], u[i+4], 0xdd);
    words c = _mm512_shuffle_i32x4 (u[i+8], u[i+12], 0x88);
    words d = _mm512_shuffle_i32x4 (u[i+8], u[i+12], 0xdd);

    m[i] = _mm512_shuffle_i32x4 (a, c, 0x88);
    m[i+4] = _mm512_shuffle_i32x4 (b, d, 0x88);
    m[i+8] = _mm512_shuffle_i32x4 (a, c, 0xdd);
    m[i+12] = _mm512_shuffle_i32x4 (b, d, 0xdd);
  }
}

#endif
