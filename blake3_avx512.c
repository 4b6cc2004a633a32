/* SPDX-License-Identifier: BSD-3-Clause */

#ifdef __x86_64__

#include "lanes_avx512.h"
#include "blake3_lanes.h"

#endif
