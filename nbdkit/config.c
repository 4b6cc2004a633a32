/* SPDX-License-Identifier: BSD-3-Clause */

/* What runs before nbdkit forks: C alone, as Go must not run yet.  A child
 * process lets Go check the parameters, and hands on those that the process
 * that serves gets.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "config.h"
#include "_cgo_export.h"

struct filter_params filter_params, filter_others;
char *filter_directory;
int filter_stdout = -1;
int filter_uses_stdout;

void
filter_load (void)
{
  static int loads;

  if (++loads > 1 || filter_count_copies () > 1) {
    nbdkit_error ("%s: --filter=%s is on the command line more than once: "
                  "use it once", filter_about.name, filter_about.name);
    exit (EXIT_FAILURE);
  }
}

static int
add_param (struct filter_params *params, const char *key, const char *value)
{
  struct filter_param *list, param;

  list = realloc (params->list, (params->nr + 1) * sizeof *list);
  if (list == NULL) {
    nbdkit_error ("realloc: %m");
    return -1;
  }
  params->list = list;
  param.key = strdup (key);
  param.value = strdup (value);
  if (param.key == NULL || param.value == NULL) {
    nbdkit_error ("strdup: %m");
    return -1;
  }
  list[params->nr++] = param;
  return 0;
}

static void
free_params (struct filter_params *params)
{
  size_t i;

  for (i = 0; i < params->nr; ++i) {
    free ((char *) params->list[i].key);
    free ((char *) params->list[i].value);
  }
  free (params->list);
  params->list = NULL;
  params->nr = 0;
}

/* nbdkit's --dump-plugin knows nothing of filters.  It unloads all
 * layers when it is done, so what is printed here follows its fields.
 */
void
filter_unload (void)
{
  const char *name = filter_about.name;
  size_t i;

  if (filter_count_option ("--dump-p") > 0) {
    printf ("%s_longname=%s\n", name, filter_about.longname);
    printf ("%s_description=%s\n", name, filter_about.description);
    printf ("%s_version=%s\n", name, filter_about.version);
    printf ("%s_parameters=", name);
    for (i = 0; filter_about.keys[i]; ++i)
      printf ("%s%s", i ? "," : "", filter_about.keys[i]);
    printf ("\n");
  }

  free_params (&filter_params);
  free_params (&filter_others);
  free (filter_directory);
}

int
filter_config (nbdkit_next_config *next, nbdkit_backend *nxdata,
               const char *key, const char *value)
{
  size_t i;

  for (i = 0; filter_about.keys[i]; ++i)
    if (strcmp (key, filter_about.keys[i]) == 0)
      break;
  if (filter_about.keys[i])
    return add_param (&filter_params, key, value);
  if (add_param (&filter_others, key, value) == -1)
    return -1;
  return next (nxdata, key, value);
}

/* How the child ends that has found the parameters to be right, if the filter
 * needs standard output, too.  When Go's runtime gives up, it ends with 2.
 */
#define EXIT_USES_STDOUT 77

/* Puts what the child hands on in place of the parameters: they can be more
 * than a pipe holds, so all is read before the child is waited for.  What
 * comes from a child that dies is of no use, but its status tells.  An empty
 * key is the end of a list that is WHOLE.
 */
static int
take_params (int fd, int *whole)
{
  FILE *fp = fdopen (fd, "r");
  char *key = NULL, *value = NULL;
  size_t key_len = 0, value_len = 0;
  int r = 0;

  if (fp == NULL) {
    nbdkit_error ("fdopen: %m");
    close (fd);
    return -1;
  }
  free_params (&filter_params);
  *whole = 0;
  while (r == 0 && getdelim (&key, &key_len, '\0', fp) != -1 &&
         !(*whole = key[0] == '\0') &&
         getdelim (&value, &value_len, '\0', fp) != -1)
    r = add_param (&filter_params, key, value);
  if (r == 0 && ferror (fp)) {
    nbdkit_error ("reading the parameters: %m");
    r = -1;
  }
  free (key);
  free (value);
  fclose (fp);
  return r;
}

/* Runs goCheck in a child process and returns how that has ended. */
static int
check_parameters (int *status, int *whole)
{
  struct sigaction sa = { .sa_handler = SIG_DFL }, old;
  int fds[2], taken;
  pid_t nbdkit = getpid (), pid, r = -1;

  if (pipe2 (fds, O_CLOEXEC) == -1) {
    nbdkit_error ("pipe2: %m");
    return -1;
  }
  /* If SIGCHLD was ignored by whoever started nbdkit, it still is: then the
   * child is gone before it can be waited for.
   */
  sigaction (SIGCHLD, &sa, &old);
  pid = fork ();
  if (pid == 0) {
    /* Whoever ends nbdkit need not know of a child that waits for a file. */
    prctl (PR_SET_PDEATHSIG, SIGKILL);
    if (getppid () != nbdkit)
      _exit (EXIT_FAILURE);
    close (fds[0]);
    /* _exit: what nbdkit registered with atexit is not for the child. */
    if (filter_start_go () == -1 || goCheck (fds[1]) == -1)
      _exit (EXIT_FAILURE);
    _exit (filter_uses_stdout ? EXIT_USES_STDOUT : EXIT_SUCCESS);
  }
  if (pid == -1)
    nbdkit_error ("fork: %m");
  close (fds[1]);
  taken = take_params (fds[0], whole);
  if (pid != -1) {
    while ((r = waitpid (pid, status, 0)) == -1 && errno == EINTR)
      ;
    if (r == -1)
      nbdkit_error ("waitpid: %m");
  }
  sigaction (SIGCHLD, &old, NULL);
  return r == -1 ? -1 : taken;
}

static void
copy_stdout (void)
{
  filter_stdout = fcntl (STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
  if (filter_stdout == -1)
    nbdkit_debug ("standard output: %m");
}

/* Whoever reads what a daemon prints waits until nobody has it open. */
static void
close_stdout (void)
{
  if (filter_stdout != -1)
    close (filter_stdout);
  filter_stdout = -1;
}

int
filter_config_complete (nbdkit_next_config_complete *next,
                        nbdkit_backend *nxdata)
{
  int status, whole;

  filter_directory = get_current_dir_name ();
  if (filter_directory == NULL) {
    nbdkit_error ("getcwd: %m");
    return -1;
  }

  if (nbdkit_stdio_safe () == 1)
    copy_stdout ();
  if (check_parameters (&status, &whole) == -1)
    return -1;
  if (WIFSIGNALED (status)) {
    nbdkit_error ("%s: checking the parameters was ended by signal %d",
                  filter_about.name, WTERMSIG (status));
    return -1;
  }
  if (WEXITSTATUS (status) == EXIT_SUCCESS)
    close_stdout ();
  else if (WEXITSTATUS (status) != EXIT_USES_STDOUT)
    return -1;                  /* the child has said why */
  if (!whole) {
    nbdkit_error ("%s: checking the parameters was cut off",
                  filter_about.name);
    return -1;
  }

  return next (nxdata);
}
