/* SPDX-License-Identifier: BSD-3-Clause */

/* BLAKE3 of WIDTH chunks, or of as many parents, side by side: section 2 of
 * the paper "BLAKE3: one function, fast everywhere".  It is included once for
 * each kind of lanes.
 */

#include "lanes.h"

/* The functions of lanes.h for lanes of this width. */
#define WIDE(f) PASTE (f, WIDTH)
#define PASTE(f, width) PASTE_ (f, width)
#define PASTE_(f, width) f##_##width

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

/* The compression function of a block in each lane.  The columns of a round
 * are independent, so TOGETHER of them are mixed step by step.
 */
LANE static inline __attribute__ ((always_inline)) void
compress (words h[8], words m[16], words counter_lo, words counter_hi,
          uint32_t flags)
{
  words v[16];

  UNROLL (8)
  for (int i = 0; i < 8; ++i)
    v[i] = h[i];
  UNROLL (4)
  for (int i = 0; i < 4; ++i)
    v[8+i] = SPREAD (iv[i]);
  v[12] = counter_lo;
  v[13] = counter_hi;
  v[14] = SPREAD (BLOCK);
  v[15] = SPREAD (flags);

#define COLUMNS UNROLL (4) for (int i = from; i < from+TOGETHER; ++i)
#define A v[i]
#define B v[4 + (i+diagonal) % 4]
#define C v[8 + (i+2*diagonal) % 4]
#define D v[12 + (i+3*diagonal) % 4]
#define M(k) m[schedule[round][8*diagonal + 2*i + k]]
  UNROLL (7)
  for (int round = 0; round < 7; ++round) {
    UNROLL (2)
    for (int diagonal = 0; diagonal < 2; ++diagonal) {
      UNROLL (4)
      for (int from = 0; from < 4; from += TOGETHER) {
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
  }
#undef COLUMNS
#undef A
#undef B
#undef C
#undef D
#undef M

  UNROLL (8)
  for (int i = 0; i < 8; ++i)
    h[i] = XOR (v[i], v[8+i]);
}

/* What each lane's message is: the index of a chunk, or 0 for a parent. */
struct counters {
  uint32_t lo[WIDTH], hi[WIDTH];
};

static inline struct counters
consecutive (uint64_t first)
{
  struct counters c;

  for (size_t i = 0; i < WIDTH; ++i) {
    c.lo[i] = (uint32_t) (first + i);
    c.hi[i] = (first + i) >> 32;
  }
  return c;
}

static inline struct counters
each (const uint64_t *index, size_t count)
{
  struct counters c = { { 0 }, { 0 } };

  for (size_t i = 0; i < WIDTH && i < count; ++i) {
    c.lo[i] = (uint32_t) index[i];
    c.hi[i] = index[i] >> 32;
  }
  return c;
}

/* Hash WIDTH messages, or COUNT of them if that is less.  They lie at a
 * distance of STRIDE bytes, which is also their length.
 * OUT may be at DATA, or before it: all is read before any is written.
 * Without DATA, the messages are zeros, and what is done with them in each
 * round falls away.  What lies AHEAD bytes behind the messages is asked for
 * meanwhile, if that is not 0: so many streams are too many for the processor
 * to see where they lead.  Nothing need be there.
 */
LANE static inline __attribute__ ((always_inline)) void
hash (const uint8_t *data, size_t stride, size_t count, size_t ahead,
      struct counters counters, int is_parent, uint8_t *out)
{
  const size_t last = (count < WIDTH ? count : WIDTH) - 1;
  const words counter_lo = LOAD (counters.lo), counter_hi = LOAD (counters.hi);
  words h[8];

  UNROLL (8)
  for (int i = 0; i < 8; ++i)
    h[i] = SPREAD (iv[i]);
  for (size_t at = 0; at < stride; at += BLOCK) {
    uint32_t flags = PARENT;
    words m[16];

    if (!is_parent)
      flags = (at == 0 ? CHUNK_START : 0) |
        (at + BLOCK == stride ? CHUNK_END : 0);
    if (data) {
      const uint8_t *block[WIDTH];

      /* A lane without a message repeats one: it takes no time. */
      UNROLL (16)
      for (int i = 0; i < WIDTH; ++i)
        block[i] = data + (i < last ? i : last) * stride + at;
      load_block (m, block);
    }
    else {
      UNROLL (16)
      for (int i = 0; i < 16; ++i)
        m[i] = SPREAD (0);
    }
    if (ahead > 0) {
      UNROLL (16)
      for (int i = 0; i < WIDTH; ++i)
        _mm_prefetch (data + ahead + i * stride + at, _MM_HINT_T0);
    }
    compress (h, m, counter_lo, counter_hi, flags);
  }
  store_lanes (h, last + 1, out);
}

LANE static void
hash_chunks (const uint8_t *data, size_t count, struct counters counters,
             uint8_t *out)
{
  hash (data, CHUNK, count, WIDTH*CHUNK, counters, 0, out);
}

LANE static void
hash_parents (const uint8_t *cvs, size_t count, uint8_t *out)
{
  const struct counters none = { { 0 }, { 0 } };

  hash (cvs, 2*CV, count, 0, none, 1, out);
}

LANE static void
hash_zeros (size_t count, uint64_t first, uint8_t *out)
{
  hash (NULL, CHUNK, count, 0, consecutive (first), 0, out);
}

LANE void
WIDE (blake3_chunks) (const uint8_t *data, size_t count,
                      const uint64_t *index, uint8_t *out)
{
  for (size_t i = 0; i < count; i += WIDTH)
    hash_chunks (data + i*CHUNK, count - i, each (index + i, count - i),
                 out + i*CV);
}

LANE void
WIDE (blake3_parents) (uint8_t *cvs, size_t count)
{
  for (size_t i = 0; i < count; i += WIDTH)
    hash_parents (cvs + i*2*CV, count - i, cvs + i*CV);
}

/* OUT is the node above COUNT nodes of CVS, which are overwritten. */
LANE static void
merge (uint8_t *cvs, size_t count, uint8_t *out)
{
  while (count > 1) {
    count /= 2;
    WIDE (blake3_parents) (cvs, count);
  }
  for (size_t i = 0; i < CV; ++i)
    out[i] = cvs[i];
}

LANE void
WIDE (blake3_node) (const uint8_t *data, size_t count, uint64_t first,
                    uint8_t *out)
{
  uint8_t cvs[BLAKE3_NODE * CV];

  for (size_t i = 0; i < count; i += WIDTH)
    hash_chunks (data + i*CHUNK, count - i, consecutive (first + i),
                 cvs + i*CV);
  merge (cvs, count, out);
}

LANE void
WIDE (blake3_zero_node) (size_t count, uint64_t first, uint8_t *out)
{
  uint8_t cvs[BLAKE3_NODE * CV];

  for (size_t i = 0; i < count; i += WIDTH)
    hash_zeros (count - i, first + i, cvs + i*CV);
  merge (cvs, count, out);
}
