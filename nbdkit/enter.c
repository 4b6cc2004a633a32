/* SPDX-License-Identifier: BSD-3-Clause */

/* How threads of nbdkit come into Go for the first time.
 *
 * Such a thread takes one of Go's own to stand for it, and keeps it until it
 * ends.  The last one that is taken is replaced, a moment later; a thread that
 * finds none looks again every 60 us.  Of a thousand that do, the one that is
 * to make more is seldom on a processor: 100 clients with 16 requests each took
 * 30 s instead of 4.  One by one, each finds what its predecessor has left, and
 * the others sleep.
 */

#include <pthread.h>

#include "enter.h"
#include "_cgo_export.h"

__thread int filter_entered;

static pthread_mutex_t door = PTHREAD_MUTEX_INITIALIZER;

void
filter_first_call (void)
{
  pthread_mutex_lock (&door);
  goEnter ();
  pthread_mutex_unlock (&door);
  filter_entered = 1;
}
