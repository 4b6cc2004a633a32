/* SPDX-License-Identifier: BSD-3-Clause */

/* Sixteen lanes, of AVX-512. */

#ifndef DIGEST_LANES_AVX512_H
#define DIGEST_LANES_AVX512_H

#include "lanes_amd64.h"

#define WIDTH 16
#define LANE __attribute__ ((target ("avx512f,avx512bw")))

/* Columns of BLAKE3: there are registers for all. */
#define TOGETHER 4

/* A word of each lane. */
typedef __m512i words;

#define ADD _mm512_add_epi32
#define XOR _mm512_xor_si512
#define ROR _mm512_ror_epi32
#define SPREAD _mm512_set1_epi32
#define LOAD(p) _mm512_loadu_si512 (p)

/* Turn 16 rows of 16 words into columns. */
LANE static inline __attribute__ ((always_inline)) void
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

/* Put word j of 64 bytes of each lane to m[j]. */
LANE static inline __attribute__ ((always_inline)) void
load_block (words m[16], const uint8_t *const at[WIDTH])
{
  UNROLL (16)
  for (int i = 0; i < 16; ++i)
    m[i] = LOAD (at[i]);
  transpose (m);
}

/* Put 8 words of each lane to OUT, lane by lane, for COUNT lanes. */
LANE static inline __attribute__ ((always_inline)) void
store_lanes (const words h[8], size_t count, uint8_t *out)
{
  words m[16];

  UNROLL (16)
  for (int i = 0; i < 16; ++i)
    m[i] = h[i % 8];
  transpose (m);
  for (size_t i = 0; i < count; ++i)
    _mm256_storeu_si256 ((void *) (out + 32*i), _mm512_castsi512_si256 (m[i]));
}

#endif
