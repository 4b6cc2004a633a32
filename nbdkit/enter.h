/* SPDX-License-Identifier: BSD-3-Clause */

/* How threads of nbdkit come into Go: enter.c says why. */

#ifndef NBDKIT_GO_ENTER_H
#define NBDKIT_GO_ENTER_H

extern __thread int filter_entered
  __attribute__ ((tls_model ("initial-exec")));

extern void filter_first_call (void);

/* To be called before Go is, where a thread may be new. */
static inline void
enter_go (void)
{
  if (!filter_entered)
    filter_first_call ();
}

#endif /* NBDKIT_GO_ENTER_H */
