/* SPDX-License-Identifier: BSD-3-Clause */

/* The lanes of AVX-512 on a processor that has only AVX2 and the SHA
 * instructions: SIMDe does what each intrinsic is defined to do.
 *
 *   node COUNT FIRST | zeros COUNT FIRST | chunks INDEX... | parents COUNT |
 *   sha256 PREFIX-LENGTH SIZE COUNT
 *
 * Data comes from the standard input, behind the prefix if there is one.  The
 * result is printed in hexadecimal.
 */

#include <immintrin.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Only AVX-512 is emulated. */
#define target(instructions) unused
#include "blake3_avx512.c"
#undef BLOCK
#include "sha256_lanes.c"

static uint8_t data[4 << 20], out[64 << 10];

int
main (int argc, char *argv[])
{
  const char *what = argc > 1 ? argv[1] : "";
  uint64_t n[64];
  size_t count = 0, length;

  for (; count < 64 && (int) count + 2 < argc; ++count)
    n[count] = strtoull (argv[count + 2], NULL, 10);
  (void) !fread (data, 1, sizeof data, stdin);

  length = 32;
  if (strcmp (what, "node") == 0)
    blake3_node_16 (data, n[0], n[1], out);
  else if (strcmp (what, "zeros") == 0)
    blake3_zero_node_16 (n[0], n[1], out);
  else if (strcmp (what, "chunks") == 0) {
    length *= count;
    blake3_chunks_16 (data, count, n, out);
  }
  else if (strcmp (what, "parents") == 0) {
    length *= n[0];
    blake3_parents_16 (data, n[0]);
    memcpy (out, data, length);
  }
  else if (strcmp (what, "sha256") == 0) {
    struct sha256_prefix prefix;

    length *= n[2];
    sha256_set_prefix (&prefix, data, n[0], 0);
    sha256_lanes (&prefix, data + n[0], n[1], n[2], out);
  }
  else
    return 2;
  for (size_t i = 0; i < length; ++i)
    printf ("%02x", out[i]);
  return 0;
}
