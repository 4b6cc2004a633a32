/* SPDX-License-Identifier: BSD-3-Clause */

/* BLAKE3 of 16 chunks, or of 16 parents, side by side: section 2 of the paper
 * "BLAKE3: one function, fast everywhere".
 */

#include "lanes.h"

#ifdef __x86_64__

#include "lanes_amd64.h"

enum { CHUNK_START = 1, CHUNK_END = 2, PARENT = 4 };

#define BLOCK 64
#define CHUNK 1024
#define CV 32

/* Which words of the block a round takes. */
static const uint8_t schedule[7][16] = {
  { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 },
  { 2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8 },
  { 3, 4, 10, 12, 13, 2, 7, 14, 6, 5, 9, 0, 11, 15, 8, 1 },
  { 10, 7, 12, 9, 14, 3, 13, 15, 4, 0, 11, 2, 5, 8, 1, 6 },
  { 12, 13, 9, 11, 15, 10, 14, 8, 7, 2, 5, 3, 0, 1, 6, 4 },
  { 9, 14, 11, 5, 8, 12, 15, 1, 13, 3, 0, 10, 2, 6, 4, 7 },
  { 11, 15, 5, 0, 1, 9, 8, 6, 14, 10, 2, 12, 3, 4, 7, 13 },
};

#define XOR _mm512_xor_si512

/* The compression function of a block in each lane.  The columns of a round
 * are mixed step by step, not one after the other, as they are independent.
 */
AVX512 static inline __attribute__ ((always_inline)) void
compress (words h[8], words m[16], words counter_lo, words counter_hi,
          uint32_t flags)
{
  words v[16];

  UNROLL (8)
  for (int i = 0; i < 8; ++i)
    v[i] = h[i];
  UNROLL (4)
  for (int i = 0; i < 4; ++i)
    v[8+i] = _mm512_set1_epi32 (iv[i]);
  v[12] = counter_lo;
  v[13] = counter_hi;
  v[14] = _mm512_set1_epi32 (BLOCK);
  v[15] = _mm512_set1_epi32 (flags);

#define COLUMNS UNROLL (4) for (int i = 0; i < 4; ++i)
#define A v[i]
#define B v[4 + (i+diagonal) % 4]
#define C v[8 + (i+2*diagonal) % 4]
#define D v[12 + (i+3*diagonal) % 4]
#define M(k) m[schedule[round][8*diagonal + 2*i + k]]
  UNROLL (7)
  for (int round = 0; round < 7; ++round) {
    UNROLL (2)
    for (int diagonal = 0; diagonal < 2; ++diagonal) {
      COLUMNS A = ADD (A, M (0));
      COLUMNS A = ADD (A, B);
      COLUMNS D = ROR (XOR (D, A), 16);
      COLUMNS C = ADD (C, D);
      COLUMNS B = ROR (XOR (B, C), 12);
      COLUMNS A = ADD (A, M (1));
      COLUMNS A = ADD (A, B);
      COLUMNS D = ROR (XOR (D, A), 8);
      COLUMNS C = ADD (C, D);
      COLUMNS B = ROR (XOR (B, C), 7);
    }
  }

  UNROLL (8)
  for (int i = 0; i < 8; ++i)
    h[i] = XOR (v[i], v[8+i]);
}

/* What each lane's message is: the index of a chunk, or nothing for a parent. */
struct counters {
  words lo, hi;
};

AVX512 static inline __attribute__ ((always_inline)) struct counters
consecutive (uint64_t first)
{
  const words lane =
    _mm512_set_epi32 (15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const words low = _mm512_set1_epi32 ((uint32_t) first);
  const words high = _mm512_set1_epi32 (first >> 32);
  const words lo = ADD (low, lane);

  return (struct counters) {
    lo, _mm512_mask_add_epi32 (high, _mm512_cmplt_epu32_mask (lo, low),
                               high, _mm512_set1_epi32 (1))
  };
}

AVX512 static inline __attribute__ ((always_inline)) struct counters
each (const uint64_t *index, size_t count)
{
  uint32_t lo[LANES] = { 0 }, hi[LANES] = { 0 };

  for (size_t i = 0; i < LANES && i < count; ++i) {
    lo[i] = (uint32_t) index[i];
    hi[i] = index[i] >> 32;
  }
  return (struct counters) {
    _mm512_loadu_si512 (lo), _mm512_loadu_si512 (hi)
  };
}

AVX512 static inline __attribute__ ((always_inline)) struct counters
none (void)
{
  return (struct counters) { _mm512_setzero_si512 (), _mm512_setzero_si512 () };
}

/* Hash LANES messages, or COUNT of them if that is less.  They lie at a
 * distance of STRIDE bytes, which is also their length.
 * OUT may be at DATA, or before it: all is read before any is written.
 * Without DATA, the messages are zeros, and what is done with them in each
 * round falls away.  What lies AHEAD bytes behind the messages is asked for
 * meanwhile, if that is not 0: 16 streams are too many for the processor to
 * see where they lead.  Nothing need be there.
 */
AVX512 static inline __attribute__ ((always_inline)) void
hash (const uint8_t *data, size_t stride, size_t count, size_t ahead,
      struct counters counters, int is_parent, uint8_t *out)
{
  const size_t last = (count < LANES ? count : LANES) - 1;
  words h[16];

  UNROLL (8)
  for (int i = 0; i < 8; ++i)
    h[i] = _mm512_set1_epi32 (iv[i]);
  for (size_t at = 0; at < stride; at += BLOCK) {
    uint32_t flags = PARENT;
    words m[16];

    if (!is_parent)
      flags = (at == 0 ? CHUNK_START : 0) |
        (at + BLOCK == stride ? CHUNK_END : 0);
    /* A lane without a message repeats one: it takes no time. */
    UNROLL (16)
    for (int i = 0; i < LANES; ++i)
      m[i] = data ?
        _mm512_loadu_si512 (data + (i < last ? i : last) * stride + at) :
        _mm512_setzero_si512 ();
    if (ahead > 0) {
      UNROLL (16)
      for (int i = 0; i < LANES; ++i)
        _mm_prefetch (data + ahead + i * stride + at, _MM_HINT_T0);
    }
    if (data)
      transpose (m);
    compress (h, m, counters.lo, counters.hi, flags);
  }

  UNROLL (8)
  for (int i = 0; i < 8; ++i)
    h[8+i] = h[i];
  transpose (h);
  for (size_t i = 0; i <= last; ++i)
    _mm256_storeu_si256 ((void *) (out + CV*i), _mm512_castsi512_si256 (h[i]));
}

AVX512 static void
hash_chunks (const uint8_t *data, size_t count, struct counters counters,
             uint8_t *out)
{
  hash (data, CHUNK, count, LANES*CHUNK, counters, 0, out);
}

AVX512 static void
hash_parents (const uint8_t *cvs, size_t count, uint8_t *out)
{
  hash (cvs, 2*CV, count, 0, none (), 1, out);
}

AVX512 static void
hash_zeros (size_t count, uint64_t first, uint8_t *out)
{
  hash (NULL, CHUNK, count, 0, consecutive (first), 0, out);
}

AVX512 void
blake3_chunks (const uint8_t *data, size_t count, const uint64_t *index,
               uint8_t *out)
{
  for (size_t i = 0; i < count; i += LANES)
    hash_chunks (data + i*CHUNK, count - i, each (index + i, count - i),
                 out + i*CV);
}

AVX512 void
blake3_parents (uint8_t *cvs, size_t count)
{
  for (size_t i = 0; i < count; i += LANES)
    hash_parents (cvs + i*2*CV, count - i, cvs + i*CV);
}

/* OUT is the node above COUNT nodes of CVS, which are overwritten. */
AVX512 static void
merge (uint8_t *cvs, size_t count, uint8_t *out)
{
  while (count > 1) {
    count /= 2;
    blake3_parents (cvs, count);
  }
  for (size_t i = 0; i < CV; ++i)
    out[i] = cvs[i];
}

AVX512 void
blake3_node (const uint8_t *data, size_t count, uint64_t first, uint8_t *out)
{
  uint8_t cvs[BLAKE3_NODE * CV];

  for (size_t i = 0; i < count; i += LANES)
    hash_chunks (data + i*CHUNK, count - i, consecutive (first + i),
                 cvs + i*CV);
  merge (cvs, count, out);
}

AVX512 void
blake3_zero_node (size_t count, uint64_t first, uint8_t *out)
{
  uint8_t cvs[BLAKE3_NODE * CV];

  for (size_t i = 0; i < count; i += LANES)
    hash_zeros (count - i, first + i, cvs + i*CV);
  merge (cvs, count, out);
}

#else /* !__x86_64__ */

void
blake3_chunks (const uint8_t *data, size_t count, const uint64_t *index,
               uint8_t *out)
{
  __builtin_trap ();            /* not without lanes_have_avx512 */
}

void
blake3_parents (uint8_t *cvs, size_t count)
{
  __builtin_trap ();
}

void
blake3_node (const uint8_t *data, size_t count, uint64_t first, uint8_t *out)
{
  __builtin_trap ();
}

void
blake3_zero_node (size_t count, uint64_t first, uint8_t *out)
{
  __builtin_trap ();
}

#endif
