/* The C side of the binding: nbdkit's callbacks.
 *
 * C does the I/O of a client's request and hands the result to Go.  A
 * callback that is not set here passes through nbdkit untouched, as do
 * all arguments and results of those that are.
 *
 * .load, .config and .config_complete run before nbdkit forks, so they
 * are C alone; a child process lets Go check the parameters.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "exports.h"
#include "_cgo_export.h"

struct filter_param *filter_params;
size_t filter_nr_params;
char *filter_directory;
volatile int filter_interrupted;
volatile int filter_signals;
int filter_stdout = -1;
int filter_failed;

static struct nbdkit_filter filter;

/* Two copies of one filter would be two Go runtimes in a process; the
 * same file twice is one set of variables for two places in the stack.
 * Neither can work.  A copy is known by this symbol, whatever its file's
 * name.
 */
NBDKIT_DLL_PUBLIC const struct filter_about *
nbdkit_go_filter_about (void)
{
  return &filter_about;
}

static int
count_copies (struct dl_phdr_info *info, size_t size, void *opaque)
{
  int *copies = opaque;
  const struct filter_about *(*about) (void);
  void *dl;

  if (info->dlpi_name[0] == '\0')
    return 0;                   /* nbdkit itself */
  dl = dlopen (info->dlpi_name, RTLD_LAZY | RTLD_NOLOAD);
  if (dl == NULL)
    return 0;
  about = (const struct filter_about *(*) (void))
    dlsym (dl, "nbdkit_go_filter_about");
  if (about && strcmp (about ()->name, filter_about.name) == 0)
    ++*copies;
  dlclose (dl);
  return 0;
}

static void
filter_load (void)
{
  static int loads;
  int copies = 0;

  dl_iterate_phdr (count_copies, &copies);
  if (++loads > 1 || copies > 1) {
    nbdkit_error ("%s: --filter=%s is on the command line more than once: "
                  "use it once", filter_about.name, filter_about.name);
    exit (EXIT_FAILURE);
  }
}

static int
is_dump_plugin (void)
{
  FILE *fp = fopen ("/proc/self/cmdline", "re");
  char *arg = NULL;
  size_t len = 0;
  int found = 0;

  if (fp == NULL)
    return 0;
  while (!found && getdelim (&arg, &len, '\0', fp) != -1)
    found = strcmp (arg, "--dump-plugin") == 0;
  free (arg);
  fclose (fp);
  return found;
}

/* nbdkit's --dump-plugin knows nothing of filters.  It unloads all
 * layers when it is done, so what is printed here follows its fields.
 */
static void
filter_unload (void)
{
  const char *name = filter_about.name;
  size_t i;

  if (is_dump_plugin ()) {
    printf ("%s_longname=%s\n", name, filter_about.longname);
    printf ("%s_description=%s\n", name, filter_about.description);
    printf ("%s_version=%s\n", name, filter_about.version);
    printf ("%s_parameters=", name);
    for (i = 0; filter_about.keys[i]; ++i)
      printf ("%s%s", i ? "," : "", filter_about.keys[i]);
    printf ("\n");
  }

  for (i = 0; i < filter_nr_params; ++i) {
    free ((char *) filter_params[i].key);
    free ((char *) filter_params[i].value);
  }
  free (filter_params);
  free (filter_directory);
}

static int
filter_config (nbdkit_next_config *next, nbdkit_backend *nxdata,
               const char *key, const char *value)
{
  struct filter_param *params, param;
  size_t i;

  for (i = 0; filter_about.keys[i]; ++i)
    if (strcmp (key, filter_about.keys[i]) == 0)
      break;
  if (filter_about.keys[i] == NULL)
    return next (nxdata, key, value);

  params = realloc (filter_params,
                    (filter_nr_params + 1) * sizeof *filter_params);
  if (params == NULL) {
    nbdkit_error ("realloc: %m");
    return -1;
  }
  filter_params = params;
  param.key = strdup (key);
  param.value = strdup (value);
  if (param.key == NULL || param.value == NULL) {
    nbdkit_error ("strdup: %m");
    return -1;
  }
  filter_params[filter_nr_params++] = param;
  return 0;
}

static int
filter_config_complete (nbdkit_next_config_complete *next,
                        nbdkit_backend *nxdata)
{
  pid_t pid;
  int status;

  filter_directory = get_current_dir_name ();
  if (filter_directory == NULL) {
    nbdkit_error ("getcwd: %m");
    return -1;
  }

  if (nbdkit_stdio_safe () == 1) {
    filter_stdout = fcntl (STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    if (filter_stdout == -1)
      nbdkit_debug ("standard output: %m");
  }

  pid = fork ();
  if (pid == -1) {
    nbdkit_error ("fork: %m");
    return -1;
  }
  if (pid == 0) {
    /* _exit: what nbdkit registered with atexit is not for the child. */
    if (filter_start_go () == -1 || goConfigure () == -1)
      _exit (EXIT_FAILURE);
    _exit (EXIT_SUCCESS);
  }
  while (waitpid (pid, &status, 0) == -1) {
    if (errno != EINTR) {
      nbdkit_error ("waitpid: %m");
      return -1;
    }
  }
  if (WIFSIGNALED (status)) {
    nbdkit_error ("%s: checking the parameters was ended by signal %d",
                  filter_about.name, WTERMSIG (status));
    return -1;
  }
  if (WEXITSTATUS (status) != 0)
    return -1;                  /* the child has said why */

  return next (nxdata);
}

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

/* nbdkit tells a filter that works on behalf of a client nothing of its
 * end, so its handlers of signals are listened to.
 */
static struct sigaction nbdkit_int, nbdkit_term;

static void
stop (int sig)
{
  const struct sigaction *sa = sig == SIGINT ? &nbdkit_int : &nbdkit_term;

  filter_signals++;
  sa->sa_handler (sig);
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

/* With a limit on the size of files, a result that does not fit is an
 * error, not the end of nbdkit.
 */
static void
ignore_size_limit (void)
{
  struct sigaction sa;

  if (sigaction (SIGXFSZ, NULL, &sa) == 0 && sa.sa_handler == SIG_DFL) {
    sa.sa_handler = SIG_IGN;
    sigaction (SIGXFSZ, &sa, NULL);
  }
}

static int
filter_after_fork (nbdkit_backend *backend)
{
  ignore_size_limit ();
  listen_to (SIGINT, &nbdkit_int);
  listen_to (SIGTERM, &nbdkit_term);
  if (atexit (exit_with_failure) != 0) {
    nbdkit_error ("atexit failed");
    return -1;
  }
  filter_backend = backend;
  if (filter_start_go () == -1)
    return -1;
  return goStart (final_thread_model == NBDKIT_THREAD_MODEL_PARALLEL);
}

static void
interrupt (int sig)
{
  filter_interrupted++;
}

/* nbdkit is on its way out, mostly because of a signal.  A second one
 * asks to end at once whatever Go still does here.
 */
static void
filter_cleanup (nbdkit_backend *backend)
{
  struct sigaction sa = { .sa_handler = interrupt, .sa_flags = SA_RESTART };
  struct sigaction old_int, old_term;

  sigaction (SIGINT, &sa, &old_int);
  sigaction (SIGTERM, &sa, &old_term);
  goFinish (backend);
  sigaction (SIGINT, &old_int, NULL);
  sigaction (SIGTERM, &old_term, NULL);
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
  int r = goBegin (go_handle (handle), op, buf, count, offset,          \
                   &ticket, &answered, err);                            \
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
  if (is_own (handle))
    return goOwnRead (go_handle (handle), buf, count, offset, err);
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
  if (next->flush (next, flags, err) == -1)
    return -1;
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
  .list_exports      = filter_list_exports,
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
