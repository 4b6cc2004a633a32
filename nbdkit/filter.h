/* SPDX-License-Identifier: BSD-3-Clause */

/* What the C side of the binding and the program that uses it share. */

#ifndef NBDKIT_GO_FILTER_H
#define NBDKIT_GO_FILTER_H

#include <stddef.h>
#include <stdint.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-filter.h>

/* struct nbdkit_filter may change whenever its API version does.  Within
 * one, nbdkit 1.32, 1.42 and 1.48 are those that "make check-matrix" tries.
 */
#if NBDKIT_VERSION_MAJOR != 1
#error "these headers are of another nbdkit than 1.x: the filter fits nbdkit 1.32 to 1.48, and newer ones of filter API 6"
#elif NBDKIT_VERSION_MINOR < 32
#error "these headers are of an nbdkit older than 1.32: the filter fits nbdkit 1.32 to 1.48, and newer ones of filter API 6; install nbdkit-plugin-dev (Debian) or nbdkit-devel (Fedora)"
#elif NBDKIT_FILTER_API_VERSION != 6
#error "these headers are of another filter API than 6: the filter fits nbdkit 1.32 to 1.48, and newer ones of filter API 6"
#endif

/* The program describes its filter in C, because nbdkit asks for this
 * before it forks, when Go must not run yet (start.c says why).
 */
struct filter_about {
  const char *name;             /* as in --filter=NAME */
  const char *longname;
  const char *description;
  const char *version;
  const char *config_help;
  const char *const *keys;      /* parameters of the filter, then NULL */
};
extern const struct filter_about filter_about;

struct filter_params {
  struct filter_param {
    const char *key, *value;
  } *list;
  size_t nr;
};

/* The parameters of the command line in their order, or what the check of them
 * has handed on, and the directory that relative paths in them start from.
 */
extern struct filter_params filter_params;
extern char *filter_directory;

/* Those that are for the layers below. */
extern struct filter_params filter_others;

/* What a client asks for. */
enum filter_op {
  FILTER_READ, FILTER_WRITE, FILTER_ZERO, FILTER_TRIM, FILTER_EXTENTS
};

/* How many signals came that end nbdkit: SIGINT, SIGQUIT, SIGTERM, SIGHUP. */
extern volatile int filter_signals;

/* A copy of standard output, which nbdkit closes before it serves, or -1 if
 * there is none that can be written to, or no use for it.
 */
extern int filter_stdout;

/* The parameters make the filter write to it. */
extern int filter_uses_stdout;

/* Makes a foreground nbdkit end with status 1 after a clean shutdown. */
extern int filter_failed;

/* Whether a filter of that name is in front of this one. */
extern int filter_is_behind (const char *name);

/* Whether this filter is in front of one of that name. */
extern int filter_is_in_front_of (const char *name);

/* start.c */
extern int filter_start_go (void);

#endif /* NBDKIT_GO_FILTER_H */
