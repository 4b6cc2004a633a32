/* SPDX-License-Identifier: BSD-3-Clause */

/* The C side of the binding: nbdkit's callbacks.
 *
 * C does the I/O of a client's request and hands the result to Go.  A
 * callback that is not set here passes through nbdkit untouched.  Through
 * others goes what the client sent, but for a read of which Go has answered
 * the beginning, and an error of Go's takes the place of a success.
 */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "config.h"
#include "enter.h"
#include "exports.h"
#include "_cgo_export.h"

volatile int filter_signals;
int filter_failed;

static int final_thread_model;

static int
filter_get_ready (int thread_model)
{
  final_thread_model = thread_model;
  return 0;
}

/* nbdkit has no way for a layer to fail at shutdown.  This runs when its
 * main has returned, after the cleanup of all layers: Go makes the filter
 * stay loaded until then.
 */
static void
exit_with_failure (void)
{
  if (filter_failed) {
    fflush (NULL);
    _exit (EXIT_FAILURE);
  }
}

/* The signals that end nbdkit after it has cleaned up. */
static const int quit_signals[] = { SIGINT, SIGQUIT, SIGTERM, SIGHUP };
#define NR_QUIT (sizeof quit_signals / sizeof quit_signals[0])

/* nbdkit tells a filter that works on behalf of a client nothing of its
 * end, so its handlers of signals are listened to.
 */
static struct sigaction nbdkit_quit[NR_QUIT];

static void
stop (int sig)
{
  size_t i = 0;

  while (quit_signals[i] != sig)
    ++i;
  filter_signals++;
  nbdkit_quit[i].sa_handler (sig);
}

static void
listen_to (int sig, struct sigaction *old)
{
  struct sigaction sa;

  if (sigaction (sig, NULL, old) == -1 || (old->sa_flags & SA_SIGINFO) ||
      old->sa_handler == SIG_DFL || old->sa_handler == SIG_IGN)
    return;
  sa = *old;
  sa.sa_handler = stop;
  sigaction (sig, &sa, NULL);
}

static void
do_nothing (int sig)
{
}

/* With a limit on the size of files, a result that does not fit is an
 * error, not the end of nbdkit.  SIG_IGN would be inherited by the scripts
 * of plugins.
 */
static void
ignore_size_limit (void)
{
  struct sigaction sa;

  if (sigaction (SIGXFSZ, NULL, &sa) == 0 && sa.sa_handler == SIG_DFL) {
    sa.sa_handler = do_nothing;
    sa.sa_flags = SA_RESTART | SA_ONSTACK;
    sigaction (SIGXFSZ, &sa, NULL);
  }
}

/* Go takes as many open files as it may have; a plugin's scripts would inherit
 * that.
 */
static int
start_go (void)
{
  struct rlimit files;
  int r, limited = getrlimit (RLIMIT_NOFILE, &files) == 0;

  if (filter_start_go () == -1)
    return -1;
  r = goStart (final_thread_model == NBDKIT_THREAD_MODEL_PARALLEL);
  if (limited)
    setrlimit (RLIMIT_NOFILE, &files);
  return r;
}

static int
start (nbdkit_backend *backend)
{
  size_t i;

  ignore_size_limit ();
  for (i = 0; i < NR_QUIT; ++i)
    listen_to (quit_signals[i], &nbdkit_quit[i]);
  if (atexit (exit_with_failure) != 0) {
    nbdkit_error ("atexit failed");
    return -1;
  }
  filter_backend = backend;
  return start_go ();
}

/* With --run, another process of nbdkit's waits for the command and has the
 * socket open, too: if this one ended, a client would wait for ever.  So
 * clients are turned away, which ends the command, and with it nbdkit.  So they
 * are where nobody can tell.
 */
static int start_failed;

static int
filter_after_fork (nbdkit_backend *backend)
{
  if (start (backend) == 0)
    return 0;
  if (filter_count_option ("--ru") == 0) /* it may be shortened to that */
    return -1;
  start_failed = 1;
  return 0;
}

static int
filter_preconnect (nbdkit_next_preconnect *next, nbdkit_backend *nxdata,
                   int readonly)
{
  if (start_failed) {
    nbdkit_error ("%s: the filter could not be started: no client is served",
                  filter_about.name);
    return -1;
  }
  return next (nxdata, readonly);
}

static void
count_signal (int sig)
{
  filter_signals++;
}

/* nbdkit is on its way out, mostly because of a signal, and has no use for
 * another one.
 */
static void
filter_cleanup (nbdkit_backend *backend)
{
  /* Any thread may take the signal, and those of Go have small stacks. */
  struct sigaction sa = {
    .sa_handler = count_signal,
    .sa_flags = SA_RESTART | SA_ONSTACK,
  };
  struct sigaction old[NR_QUIT];
  size_t i;

  if (start_failed)
    return;
  for (i = 0; i < NR_QUIT; ++i)
    sigaction (quit_signals[i], &sa, &old[i]);
  goFinish (backend);
  for (i = 0; i < NR_QUIT; ++i)
    sigaction (quit_signals[i], &old[i], NULL);
}

static void
filter_close (void *handle)
{
  if (is_own (handle))
    goCloseOwn (go_handle (handle));
  else
    goClose (go_handle (handle));
}

static int
filter_prepare (nbdkit_next *next, void *handle, int readonly)
{
  if (is_own (handle))
    return 0;
  return goPrepare (next, go_handle (handle), readonly);
}

static int
filter_finalize (nbdkit_next *next, void *handle)
{
  if (is_own (handle))
    return 0;
  return goFinalize (next, go_handle (handle));
}

/* The data callbacks: tell Go, do it, tell Go how it went.  When the
 * layer below fails, its error is the client's, whatever Go says.
 */

#define BEGIN(op, buf)                                                  \
  uint64_t ticket;                                                      \
  uint32_t answered = 0;                                                \
  int r;                                                                \
  enter_go ();                                                          \
  r = goBegin (go_handle (handle), op, buf, count, offset,              \
               &ticket, &answered, err);                                \
  if (r != 0)                                                           \
    return -1

#define END(op, buf)                                                    \
  if (goEnd (next, go_handle (handle), op, ticket, (void *) buf,        \
             count, offset, r == 0, r == 0 ? err : NULL) == -1)         \
    return -1;                                                          \
  return r

static int
filter_pread (nbdkit_next *next, void *handle,
              void *buf, uint32_t count, uint64_t offset,
              uint32_t flags, int *err)
{
  if (is_own (handle)) {
    enter_go ();
    return goOwnRead (go_handle (handle), buf, count, offset, err);
  }
  BEGIN (FILTER_READ, buf);
  if (answered == count)
    return 0;
  r = next->pread (next, (char *) buf + answered, count - answered,
                   offset + answered, flags, err);
  END (FILTER_READ, buf);
}

static int
filter_pwrite (nbdkit_next *next, void *handle,
               const void *buf, uint32_t count, uint64_t offset,
               uint32_t flags, int *err)
{
  BEGIN (FILTER_WRITE, NULL);
  r = next->pwrite (next, buf, count, offset, flags, err);
  END (FILTER_WRITE, buf);
}

static int
filter_flush (nbdkit_next *next, void *handle, uint32_t flags, int *err)
{
  if (is_own (handle))
    return 0;
  if (next->flush (next, flags, err) == -1)
    return -1;
  enter_go ();
  return goFlushed (next, go_handle (handle), err);
}

static int
filter_trim (nbdkit_next *next, void *handle,
             uint32_t count, uint64_t offset, uint32_t flags, int *err)
{
  BEGIN (FILTER_TRIM, NULL);
  r = next->trim (next, count, offset, flags, err);
  END (FILTER_TRIM, NULL);
}

static int
filter_zero (nbdkit_next *next, void *handle,
             uint32_t count, uint64_t offset, uint32_t flags, int *err)
{
  BEGIN (FILTER_ZERO, NULL);
  r = next->zero (next, count, offset, flags, err);
  END (FILTER_ZERO, NULL);
}

static int
filter_extents (nbdkit_next *next, void *handle,
                uint32_t count, uint64_t offset, uint32_t flags,
                struct nbdkit_extents *extents, int *err)
{
  BEGIN (FILTER_EXTENTS, NULL);
  r = next->extents (next, count, offset, flags, extents, err);
  if (goEndExtents (next, go_handle (handle), ticket, extents,
                    count, offset, r == 0, r == 0 ? err : NULL) == -1)
    return -1;
  return r;
}

static struct nbdkit_filter filter = {
  .load              = filter_load,
  .unload            = filter_unload,
  .config            = filter_config,
  .config_complete   = filter_config_complete,
  .get_ready         = filter_get_ready,
  .after_fork        = filter_after_fork,
  .cleanup           = filter_cleanup,
  .preconnect        = filter_preconnect,
  .list_exports      = filter_list_exports,
  .default_export    = filter_default_export,
  .open              = filter_open,
  .close             = filter_close,
  .prepare           = filter_prepare,
  .finalize          = filter_finalize,
  .get_size          = filter_get_size,
  .export_description = filter_export_description,
  .block_size        = filter_block_size,
  .can_write         = filter_can_write,
  .can_flush         = filter_can_flush,
  .is_rotational     = filter_is_rotational,
  .can_extents       = filter_can_extents,
  .can_multi_conn    = filter_can_multi_conn,
  .can_cache         = filter_can_cache,
  .pread             = filter_pread,
  .pwrite            = filter_pwrite,
  .flush             = filter_flush,
  .trim              = filter_trim,
  .zero              = filter_zero,
  .extents           = filter_extents,
};

/* NBDKIT_REGISTER_FILTER, with the program's own words filled in. */
NBDKIT_DLL_PUBLIC struct nbdkit_filter *
filter_init (void)
{
  filter._api_version = NBDKIT_FILTER_API_VERSION;
  filter._version = NBDKIT_VERSION_STRING;
  filter.name = filter_about.name;
  filter.longname = filter_about.longname;
  filter.description = filter_about.description;
  filter.config_help = filter_about.config_help;
  return &filter;
}
