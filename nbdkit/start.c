/* SPDX-License-Identifier: BSD-3-Clause */

/* The deferred start of Go's runtime.
 *
 * nbdkit loads its filters first and forks later, both to become a
 * daemon and for --run.  A Go runtime does not survive a fork: its
 * threads are not copied, and the first call hangs.  So the linker
 * script init.ld takes Go's initialiser out of .init_array, where
 * dlopen would run it, and filter_start_go calls it when the process
 * is the one that serves.
 *
 * As an .init_array function the initialiser takes argc, argv and envp,
 * and then walks past envp to the auxiliary vector that the kernel put
 * there.  What main was given is out of reach here, so an equal block
 * is built: argv, NULL, the environment, NULL, the auxiliary vector.
 * Go keeps pointers into it, so it is never freed.
 */

#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "filter.h"

typedef void go_init (int argc, char **argv, char **envp);

/* Weak, so that test binaries of Go, which need no deferred start, link. */
extern go_init *nbdkit_go_init_start[] __attribute__ ((weak, visibility ("hidden")));
extern go_init *nbdkit_go_init_end[] __attribute__ ((weak, visibility ("hidden")));

extern char **environ;

static const unsigned long auxv_types[] = {
  AT_PAGESZ, AT_RANDOM, AT_HWCAP, AT_HWCAP2, AT_SECURE, AT_SYSINFO_EHDR,
};
#define NR_AUXV (sizeof auxv_types / sizeof auxv_types[0])

/* Go's monitor looks at every processor each 20 us, and preempts what has
 * kept one for 10 ms.  A thread of nbdkit keeps one between callbacks, so
 * that is done to callbacks that have just begun, and costs six switches of
 * threads each time.  A monitor that may oversleep by as many nanoseconds
 * finds little to do: a copy takes 15% less CPU time.
 */
#define GO_TIMER_SLACK 4000000

/* Each thread that calls malloc reserves 64 to 128 MiB of addresses, as long as
 * there are any.  With a limit on them, the first of Go's own threads could
 * take all, and when its heap, which begins anywhere in 64 MiB, came to their
 * end, Go ended the process.  So threads share one reserve then.
 */
static void
save_addresses (void)
{
#ifdef M_ARENA_MAX
  struct rlimit limit;

  if (getrlimit (RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
    mallopt (M_ARENA_MAX, 1);
#endif
}

int
filter_start_go (void)
{
  size_t nr_env = 0, i;
  char **block, **p, **envp;
  go_init **init;
  int slack;

  if (&nbdkit_go_init_start[0] == &nbdkit_go_init_end[0]) {
    nbdkit_error ("%s: the filter was linked without nbdkit/init.ld: "
                  "build it with make", filter_about.name);
    return -1;
  }

  while (environ[nr_env])
    nr_env++;

  /* argv, NULL, environment, NULL, pairs, AT_NULL pair */
  block = calloc (2 + nr_env + 1 + 2 * (NR_AUXV + 1), sizeof *block);
  if (block == NULL) {
    nbdkit_error ("calloc: %m");
    return -1;
  }
  p = block;
  *p++ = (char *) "nbdkit";
  *p++ = NULL;
  envp = p;
  for (i = 0; i < nr_env; ++i) {
    /* The runtime parses what it finds here later, too. */
    *p = strdup (environ[i]);
    if (*p++ == NULL) {
      nbdkit_error ("strdup: %m");
      return -1;
    }
  }
  *p++ = NULL;
  for (i = 0; i < NR_AUXV; ++i) {
    *p++ = (char *) auxv_types[i];
    *p++ = (char *) getauxval (auxv_types[i]);
  }
  *p++ = (char *) AT_NULL;
  *p++ = NULL;

  save_addresses ();
  /* Threads inherit their timer slack from the one that starts them. */
  slack = prctl (PR_GET_TIMERSLACK, 0, 0, 0, 0);
  if (slack != -1)
    prctl (PR_SET_TIMERSLACK, GO_TIMER_SLACK, 0, 0, 0);
  for (init = nbdkit_go_init_start; init < nbdkit_go_init_end; ++init)
    (*init) (1, block, envp);
  if (slack != -1)
    prctl (PR_SET_TIMERSLACK, slack, 0, 0, 0);
  return 0;
}
