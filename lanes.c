/* SPDX-License-Identifier: BSD-3-Clause */

/* What the processor has, and the functions for it: lanes.h has the design. */

#include "lanes.h"

#ifdef __x86_64__

#include <cpuid.h>

int
lanes_have_avx512 (void)
{
  return __builtin_cpu_supports ("avx512f") &&
    __builtin_cpu_supports ("avx512bw");
}

int
lanes_have_avx2 (void)
{
  return __builtin_cpu_supports ("avx2");
}

int
lanes_have_sha (void)
{
  unsigned a, b, c, d;

  return __builtin_cpu_supports ("sse4.1") &&
    __get_cpuid_count (7, 0, &a, &b, &c, &d) && (b & bit_SHA);
}

/* Call the function F for lanes of this width. */
#define WITH_LANES(f, ...) \
  (width == 16 ? f##_16 (__VA_ARGS__) : f##_8 (__VA_ARGS__))

#else /* !__x86_64__ */

int
lanes_have_avx512 (void)
{
  return 0;
}

int
lanes_have_avx2 (void)
{
  return 0;
}

int
lanes_have_sha (void)
{
  return 0;
}

/* Not called without lanes. */
#define WITH_LANES(f, ...) __builtin_trap ()

#endif

void
blake3_node (int width, const uint8_t *data, size_t count, uint64_t first,
             uint8_t *out)
{
  WITH_LANES (blake3_node, data, count, first, out);
}

void
blake3_zero_node (int width, size_t count, uint64_t first, uint8_t *out)
{
  WITH_LANES (blake3_zero_node, count, first, out);
}

void
blake3_chunks (int width, const uint8_t *data, size_t count,
               const uint64_t *index, uint8_t *out)
{
  WITH_LANES (blake3_chunks, data, count, index, out);
}

void
blake3_parents (int width, uint8_t *cvs, size_t count)
{
  WITH_LANES (blake3_parents, cvs, count);
}
