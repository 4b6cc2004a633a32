/* SPDX-License-Identifier: BSD-3-Clause */

/* Eight lanes, of AVX2. */

#ifndef DIGEST_LANES_AVX2_H
#define DIGEST_LANES_AVX2_H

#include "lanes_amd64.h"

#define WIDTH 8
#define LANE __attribute__ ((target ("avx2")))

/* Columns of BLAKE3: there are registers for one. */
#define TOGETHER 1

/* A word of each lane. */
typedef __m256i words;

#define ADD _mm256_add_epi32
#define XOR _mm256_xor_si256
#define SPREAD _mm256_set1_epi32
#define LOAD(p) _mm256_loadu_si256 ((const void *) (p))

/* Rotate to the right.  By whole bytes, a shuffle is the cheapest. */
LANE static inline __attribute__ ((always_inline)) words
ROR (words x, int n)
{
  const words by8 =
    _mm256_set_epi8 (12, 15, 14, 13, 8, 11, 10, 9, 4, 7, 6, 5, 0, 3, 2, 1,
                     12, 15, 14, 13, 8, 11, 10, 9, 4, 7, 6, 5, 0, 3, 2, 1);
  const words by16 =
    _mm256_set_epi8 (13, 12, 15, 14, 9, 8, 11, 10, 5, 4, 7, 6, 1, 0, 3, 2,
                     13, 12, 15, 14, 9, 8, 11, 10, 5, 4, 7, 6, 1, 0, 3, 2);

  switch (n) {
  case 8: return _mm256_shuffle_epi8 (x, by8);
  case 16: return _mm256_shuffle_epi8 (x, by16);
  }
  return _mm256_or_si256 (_mm256_srli_epi32 (x, n),
                          _mm256_slli_epi32 (x, 32 - n));
}

/* Turn 8 rows of 8 words into columns. */
LANE static inline __attribute__ ((always_inline)) void
transpose (words m[8])
{
  words t[8], u[8];

  UNROLL (4)
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_epi32 (m[i], m[i+1]);
    t[i+1] = _mm256_unpackhi_epi32 (m[i], m[i+1]);
  }
  UNROLL (2)
  for (int i = 0; i < 8; i += 4) {
    u[i] = _mm256_unpacklo_epi64 (t[i], t[i+2]);
    u[i+1] = _mm256_unpackhi_epi64 (t[i], t[i+2]);
    u[i+2] = _mm256_unpacklo_epi64 (t[i+1], t[i+3]);
    u[i+3] = _mm256_unpackhi_epi64 (t[i+1], t[i+3]);
  }
  /* Column c of a half of the rows is now in lane c/4 of u[c%4]. */
  UNROLL (4)
  for (int i = 0; i < 4; ++i) {
    m[i] = _mm256_permute2x128_si256 (u[i], u[i+4], 0x20);
    m[i+4] = _mm256_permute2x128_si256 (u[i], u[i+4], 0x31);
  }
}

/* Put word j of 64 bytes of each lane to m[j]. */
LANE static inline __attribute__ ((always_inline)) void
load_block (words m[16], const uint8_t *const at[WIDTH])
{
  UNROLL (2)
  for (int half = 0; half < 16; half += 8) {
    UNROLL (8)
    for (int i = 0; i < 8; ++i)
      m[half+i] = LOAD (at[i] + 4*half);
    transpose (m + half);
  }
}

/* Put 8 words of each lane to OUT, lane by lane, for COUNT lanes. */
LANE static inline __attribute__ ((always_inline)) void
store_lanes (const words h[8], size_t count, uint8_t *out)
{
  words m[8];

  UNROLL (8)
  for (int i = 0; i < 8; ++i)
    m[i] = h[i];
  transpose (m);
  for (size_t i = 0; i < count; ++i)
    _mm256_storeu_si256 ((void *) (out + 32*i), m[i]);
}

#endif
