/* SPDX-License-Identifier: BSD-3-Clause */

/* SHA-256 of 16 leaves, or of 2, side by side: FIPS 180-4, section 6.2. */

#include <string.h>

#include "lanes.h"

#ifdef __x86_64__

#include "lanes_avx512.h"

#define SHA __attribute__ ((target ("sha,sse4.1")))

#define BLOCK 64
#define DIGEST 32

static const uint32_t k[64] __attribute__ ((aligned (16))) = {
  0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5,
  0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
  0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3,
  0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
  0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc,
  0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
  0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7,
  0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
  0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13,
  0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
  0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
  0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
  0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5,
  0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
  0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
  0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

/* The order of bytes in a word, reversed. */
#define SWAP_BYTES _mm_set_epi64x (0x0c0d0e0f08090a0b, 0x0405060700010203)

/* With the SHA instructions, the state is in two registers, of the words
 * FEBA and HGDC, from the lowest.
 */
struct pair {
  __m128i abef[2], cdgh[2];
};

SHA static void
set_state (struct pair *p, const uint32_t state[8])
{
  __m128i badc = _mm_shuffle_epi32 (_mm_loadu_si128 ((void *) state), 0xb1);
  __m128i hgfe = _mm_shuffle_epi32 (_mm_loadu_si128 ((void *) (state+4)), 0x1b);

  p->abef[0] = p->abef[1] = _mm_alignr_epi8 (badc, hgfe, 8);
  p->cdgh[0] = p->cdgh[1] = _mm_blend_epi16 (hgfe, badc, 0xf0);
}

SHA static void
get_state (const struct pair *p, int i, uint32_t state[8])
{
  __m128i feba = _mm_shuffle_epi32 (p->abef[i], 0x1b);
  __m128i dchg = _mm_shuffle_epi32 (p->cdgh[i], 0xb1);

  _mm_storeu_si128 ((void *) state, _mm_blend_epi16 (feba, dchg, 0xf0));
  _mm_storeu_si128 ((void *) (state+4), _mm_alignr_epi8 (dchg, feba, 8));
}

/* Hash N blocks of each of two messages.  One alone would wait for the
 * result of each instruction before the next.
 */
SHA static void
hash_pair (struct pair *state, const uint8_t *p0, const uint8_t *p1, size_t n)
{
  const uint8_t *p[2] = { p0, p1 };
  struct pair s = *state;

#define BOTH UNROLL (2) for (int i = 0; i < 2; ++i)
  while (n-- > 0) {
    struct pair old = s;
    __m128i m[2][4];

    UNROLL (16)
    for (int j = 0; j < 16; ++j) {
      const __m128i kj = _mm_load_si128 ((void *) (k + 4*j));
      __m128i w[2];

      BOTH {
        if (j < 4)
          m[i][j] =
            _mm_shuffle_epi8 (_mm_loadu_si128 ((void *) (p[i] + 16*j)),
                              SWAP_BYTES);
        else {
          __m128i t = _mm_sha256msg1_epu32 (m[i][j%4], m[i][(j+1)%4]);
          t = _mm_add_epi32 (t, _mm_alignr_epi8 (m[i][(j+3)%4],
                                                 m[i][(j+2)%4], 4));
          m[i][j%4] = _mm_sha256msg2_epu32 (t, m[i][(j+3)%4]);
        }
        w[i] = _mm_add_epi32 (m[i][j%4], kj);
      }
      BOTH s.cdgh[i] = _mm_sha256rnds2_epu32 (s.cdgh[i], s.abef[i], w[i]);
      BOTH s.abef[i] =
        _mm_sha256rnds2_epu32 (s.abef[i], s.cdgh[i],
                               _mm_shuffle_epi32 (w[i], 0x0e));
    }
    BOTH {
      s.abef[i] = _mm_add_epi32 (s.abef[i], old.abef[i]);
      s.cdgh[i] = _mm_add_epi32 (s.cdgh[i], old.cdgh[i]);
      p[i] += BLOCK;
    }
  }
  *state = s;
}

#define XOR3(a, b, c) _mm512_ternarylogic_epi32 (a, b, c, 0x96)
#define CH(a, b, c) _mm512_ternarylogic_epi32 (a, b, c, 0xca)
#define MAJ(a, b, c) _mm512_ternarylogic_epi32 (a, b, c, 0xe8)
#define SIGMA0(a) XOR3 (ROR (a, 2), ROR (a, 13), ROR (a, 22))
#define SIGMA1(a) XOR3 (ROR (a, 6), ROR (a, 11), ROR (a, 25))
#define SCHED0(a) XOR3 (ROR (a, 7), ROR (a, 18), _mm512_srli_epi32 (a, 3))
#define SCHED1(a) XOR3 (ROR (a, 17), ROR (a, 19), _mm512_srli_epi32 (a, 10))

/* Hash N blocks of each of LANES messages at a distance of STRIDE bytes. */
LANE static void
hash_lanes (words state[8], const uint8_t *p, size_t stride, size_t n)
{
  const words swap = _mm512_broadcast_i32x4 (SWAP_BYTES);
  words s[8];

  memcpy (s, state, sizeof s);
  while (n-- > 0) {
    words m[16];
    words a = s[0], b = s[1], c = s[2], d = s[3];
    words e = s[4], f = s[5], g = s[6], h = s[7];

    UNROLL (16)
    for (int i = 0; i < LANES; ++i)
      m[i] = _mm512_shuffle_epi8 (_mm512_loadu_si512 (p + i*stride), swap);
    transpose (m);
    UNROLL (64)
    for (int i = 0; i < 64; ++i) {
      words t, t1, ch, s1;

      if (i >= 16)
        m[i%16] = ADD (ADD (m[i%16], m[(i+9)%16]),
                       ADD (SCHED0 (m[(i+1)%16]), SCHED1 (m[(i+14)%16])));
      /* The next round waits for E most: so what is D + T1 is summed up on
       * its own, and of all its operands, SIGMA1 is ready last.
       */
      t = ADD (h, ADD (m[i%16], _mm512_set1_epi32 (k[i])));
      ch = CH (e, f, g);
      s1 = SIGMA1 (e);
      t1 = ADD (ADD (t, ch), s1);
      h = g;
      g = f;
      f = e;
      e = ADD (ADD (ADD (d, t), ch), s1);
      d = c;
      t = ADD (ADD (t1, MAJ (a, b, c)), SIGMA0 (a));
      c = b;
      b = a;
      a = t;
    }
    s[0] = ADD (s[0], a);
    s[1] = ADD (s[1], b);
    s[2] = ADD (s[2], c);
    s[3] = ADD (s[3], d);
    s[4] = ADD (s[4], e);
    s[5] = ADD (s[5], f);
    s[6] = ADD (s[6], g);
    s[7] = ADD (s[7], h);
    p += BLOCK;
  }
  memcpy (state, s, sizeof s);
}

/* The prefix's whole blocks: by what there is, with all messages the same. */

SHA static void
advance_pair (uint32_t state[8], const uint8_t *data, size_t n)
{
  struct pair pair;

  set_state (&pair, state);
  hash_pair (&pair, data, data, n);
  get_state (&pair, 0, state);
}

LANE static void
advance_lanes (uint32_t state[8], const uint8_t *data, size_t n)
{
  words lanes[8];

  for (int i = 0; i < 8; ++i)
    lanes[i] = _mm512_set1_epi32 (state[i]);
  hash_lanes (lanes, data, 0, n);
  for (int i = 0; i < 8; ++i)
    memcpy (&state[i], &lanes[i], sizeof state[i]);
}

void
sha256_set_prefix (struct sha256_prefix *prefix,
                   const uint8_t *data, size_t length, int have_sha)
{
  size_t n = length / BLOCK;

  prefix->length = length;
  memcpy (prefix->state, iv, sizeof iv);
  if (have_sha)
    advance_pair (prefix->state, data, n);
  else
    advance_lanes (prefix->state, data, n);
  if (length % BLOCK > 0)
    memcpy (prefix->rest, data + n*BLOCK, length % BLOCK);
}

static void
put_digest (uint8_t *out, const uint32_t state[8])
{
  for (int i = 0; i < 8; ++i) {
    uint32_t w = __builtin_bswap32 (state[i]);
    memcpy (out + 4*i, &w, sizeof w);
  }
}

/* A message is the prefix's rest and the beginning of the leaf, the whole
 * blocks of the leaf that follow, and its tail with the padding.
 */
struct layout {
  size_t rest, first;           /* of the first block, if there is a rest */
  size_t blocks;                /* whole ones behind it */
  size_t tail;                  /* bytes behind those */
  size_t tail_blocks;           /* with the padding */
};

static struct layout
get_layout (const struct sha256_prefix *prefix, size_t size)
{
  struct layout l = { .rest = prefix->length % BLOCK };

  if (l.rest > 0)
    l.first = BLOCK - l.rest;
  l.blocks = (size - l.first) / BLOCK;
  l.tail = (size - l.first) % BLOCK;
  l.tail_blocks = l.tail + 1 + 8 <= BLOCK ? 1 : 2;
  return l;
}

static void
put_first (uint8_t block[BLOCK], const struct layout *l,
           const struct sha256_prefix *prefix, const uint8_t *leaf)
{
  memcpy (block, prefix->rest, l->rest);
  memcpy (block + l->rest, leaf, l->first);
}

static void
put_tail (uint8_t blocks[2*BLOCK], const struct layout *l,
          const struct sha256_prefix *prefix, const uint8_t *leaf, size_t size)
{
  uint64_t bits = __builtin_bswap64 ((prefix->length + size) * 8);
  size_t end = l->tail_blocks * BLOCK;

  memcpy (blocks, leaf + size - l->tail, l->tail);
  memset (blocks + l->tail, 0, end - l->tail);
  blocks[l->tail] = 0x80;
  memcpy (blocks + end - sizeof bits, &bits, sizeof bits);
}

SHA void
sha256_pairs (const struct sha256_prefix *prefix,
              const uint8_t *data, size_t size, size_t count, uint8_t *out)
{
  const struct layout l = get_layout (prefix, size);
  uint8_t edge[2][2*BLOCK];
  uint32_t state[8];
  struct pair pair;

  for (; count > 0; count -= 2, data += 2*size, out += 2*DIGEST) {
    set_state (&pair, prefix->state);
    if (l.rest > 0) {
      for (int i = 0; i < 2; ++i)
        put_first (edge[i], &l, prefix, data + i*size);
      hash_pair (&pair, edge[0], edge[1], 1);
    }
    hash_pair (&pair, data + l.first, data + size + l.first, l.blocks);
    for (int i = 0; i < 2; ++i)
      put_tail (edge[i], &l, prefix, data + i*size, size);
    hash_pair (&pair, edge[0], edge[1], l.tail_blocks);
    for (int i = 0; i < 2; ++i) {
      get_state (&pair, i, state);
      put_digest (out + i*DIGEST, state);
    }
  }
}

LANE void
sha256_lanes (const struct sha256_prefix *prefix,
              const uint8_t *data, size_t size, size_t count, uint8_t *out)
{
  const struct layout l = get_layout (prefix, size);
  uint8_t edge[LANES][2*BLOCK];
  uint32_t columns[8][LANES];
  words state[8];

  for (; count > 0; count -= LANES, data += LANES*size, out += LANES*DIGEST) {
    for (int i = 0; i < 8; ++i)
      state[i] = _mm512_set1_epi32 (prefix->state[i]);
    if (l.rest > 0) {
      for (int i = 0; i < LANES; ++i)
        put_first (edge[i], &l, prefix, data + i*size);
      hash_lanes (state, edge[0], sizeof edge[0], 1);
    }
    hash_lanes (state, data + l.first, size, l.blocks);
    for (int i = 0; i < LANES; ++i)
      put_tail (edge[i], &l, prefix, data + i*size, size);
    hash_lanes (state, edge[0], sizeof edge[0], l.tail_blocks);
    memcpy (columns, state, sizeof columns);
    for (int i = 0; i < LANES; ++i) {
      uint32_t digest[8];

      for (int j = 0; j < 8; ++j)
        digest[j] = columns[j][i];
      put_digest (out + i*DIGEST, digest);
    }
  }
}

#else /* !__x86_64__ */

/* Not called without the instructions that they need. */

void
sha256_set_prefix (struct sha256_prefix *prefix,
                   const uint8_t *data, size_t length, int have_sha)
{
  __builtin_trap ();
}

void
sha256_lanes (const struct sha256_prefix *prefix,
              const uint8_t *data, size_t size, size_t count, uint8_t *out)
{
  __builtin_trap ();
}

void
sha256_pairs (const struct sha256_prefix *prefix,
              const uint8_t *data, size_t size, size_t count, uint8_t *out)
{
  __builtin_trap ();
}

#endif
