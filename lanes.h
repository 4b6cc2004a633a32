/* SPDX-License-Identifier: BSD-3-Clause */

/* Hash functions that work on several leaves of a tree side by side.
 *
 * One message at a time leaves most of a processor idle: each step of a hash
 * waits for the one before it.  The leaves of a tree are independent, so 2
 * of them share the unit of the SHA instructions, and 16 of them the lanes
 * of AVX-512, or 8 those of AVX2.  lanes.go says which of these are there;
 * where they are not, leaves are hashed in Go, one by one.
 */

#ifndef DIGEST_LANES_H
#define DIGEST_LANES_H

#include <stddef.h>
#include <stdint.h>

/* Those of AVX-512: SHA-256 has no others. */
#define LANES 16

/* What the processor has, and the system lets programs use. */
extern int lanes_have_avx512 (void);
extern int lanes_have_avx2 (void);
extern int lanes_have_sha (void);

/* What all leaves begin with: the state of SHA-256 after its whole blocks,
 * and the bytes behind them.  It is computed with the SHA instructions, or
 * with AVX-512.
 */
struct sha256_prefix {
  uint32_t state[8];
  uint8_t rest[64];
  uint64_t length;              /* bytes, of all of it */
};

extern void sha256_set_prefix (struct sha256_prefix *prefix,
                               const uint8_t *data, size_t length,
                               int have_sha);

/* Hash COUNT leaves of SIZE bytes, which lie one behind the other, each
 * behind the prefix, and put their digests of 32 bytes to OUT.  SIZE is at
 * least 64.  COUNT is a multiple of LANES for sha256_lanes, and even for
 * sha256_pairs.
 */
extern void sha256_lanes (const struct sha256_prefix *prefix,
                          const uint8_t *data, size_t size, size_t count,
                          uint8_t *out);
extern void sha256_pairs (const struct sha256_prefix *prefix,
                          const uint8_t *data, size_t size, size_t count,
                          uint8_t *out);

/* BLAKE3 in WIDTH lanes: 16, with AVX-512, or 8, with AVX2. */

/* The most chunks that blake3_node takes. */
#define BLAKE3_NODE 256

/* Put the chaining value of the node over COUNT whole chunks, a power of
 * two, to OUT; FIRST is the index of its first chunk.
 */
extern void blake3_node (int width, const uint8_t *data, size_t count,
                         uint64_t first, uint8_t *out);

/* The same for chunks of zeros. */
extern void blake3_zero_node (int width, size_t count, uint64_t first,
                              uint8_t *out);

/* Put the chaining values of COUNT whole chunks, which lie one behind the
 * other in DATA, to OUT; INDEX has the index of each.
 */
extern void blake3_chunks (int width, const uint8_t *data, size_t count,
                           const uint64_t *index, uint8_t *out);

/* Put the chaining values of COUNT parents in place of those of their
 * children.
 */
extern void blake3_parents (int width, uint8_t *cvs, size_t count);

#ifdef __x86_64__

/* The same for one width: blake3_lanes.h. */
#define DIGEST_WIDE(width) \
extern void blake3_node_##width (const uint8_t *data, size_t count, \
                                 uint64_t first, uint8_t *out); \
extern void blake3_zero_node_##width (size_t count, uint64_t first, \
                                      uint8_t *out); \
extern void blake3_chunks_##width (const uint8_t *data, size_t count, \
                                   const uint64_t *index, uint8_t *out); \
extern void blake3_parents_##width (uint8_t *cvs, size_t count);
DIGEST_WIDE (16)
DIGEST_WIDE (8)
#undef DIGEST_WIDE

#endif

#endif
