/* SPDX-License-Identifier: BSD-3-Clause */

/* What nbdkit does not tell a filter: which others are beside it, and the
 * command line.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"

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

struct objects {
  char **files;
  size_t nr;
};

static int
note_object (struct dl_phdr_info *info, size_t size, void *opaque)
{
  struct objects *objects = opaque;
  char **files;

  if (info->dlpi_name[0] == '\0')
    return 0;                   /* nbdkit itself */
  files = realloc (objects->files, (objects->nr + 1) * sizeof *files);
  if (files == NULL)
    return -1;
  objects->files = files;
  files[objects->nr] = strdup (info->dlpi_name);
  return files[objects->nr++] ? 0 : -1;
}

/* Calls visit for what is loaded, until it returns something else than 0, and
 * returns that.  The dynamic linker holds a lock while it lists objects, which
 * dlopen takes behind another one: a thread of a plugin's that loads something
 * would wait for this one, and this one for it.
 */
static int
visit_objects (int (*visit) (void *dl, void *opaque), void *opaque)
{
  struct objects objects = { NULL, 0 };
  size_t i;
  int r = 0;

  dl_iterate_phdr (note_object, &objects);
  for (i = 0; i < objects.nr; ++i) {
    const char *file = objects.files[i];
    void *dl = file && !r ? dlopen (file, RTLD_LAZY | RTLD_NOLOAD) : NULL;

    if (dl) {
      r = visit (dl, opaque);
      dlclose (dl);
    }
    free (objects.files[i]);
  }
  free (objects.files);
  return r;
}

static int
count_copy (void *dl, void *opaque)
{
  int *copies = opaque;
  const struct filter_about *(*about) (void) =
    (const struct filter_about *(*) (void))
    dlsym (dl, "nbdkit_go_filter_about");

  if (about && strcmp (about ()->name, filter_about.name) == 0)
    ++*copies;
  return 0;
}

int
filter_count_copies (void)
{
  int copies = 0;

  visit_objects (count_copy, &copies);
  return copies;
}

struct search {
  const char *name;             /* of a filter */
  int below;                    /* it is looked for below this one */
  int past;                     /* this one has been seen */
};

static int
is_filter (void *dl, void *opaque)
{
  struct search *search = opaque;
  const struct nbdkit_filter *(*init) (void) =
    (const struct nbdkit_filter *(*) (void)) dlsym (dl, "filter_init");

  if (dlsym (dl, "nbdkit_go_filter_about") == (void *) nbdkit_go_filter_about)
    search->past = 1;
  else if (search->past != search->below && init)
    return strcmp (init ()->name, search->name) == 0;
  return 0;
}

/* nbdkit loads its layers from the plugin on, and the one that is closest to
 * the client last.  That is better than its command line, where filters may be
 * files and options may be shortened.
 */
static int
find_filter (const char *name, int below)
{
  struct search search = { .name = name, .below = below };

  return visit_objects (is_filter, &search);
}

/* Returns how many words of nbdkit's command line are what is looked for, or -1 if
 * it cannot be read: nbdkit does not tell a filter its options.  PREVIOUS is "" for
 * the first word.
 */
static int
count_words (int (*is) (const char *word, const char *previous,
                        const char *what),
             const char *what)
{
  FILE *fp = fopen ("/proc/self/cmdline", "re");
  char *word = NULL, *previous = NULL, *last;
  size_t len = 0, previous_len = 0, last_len;
  int words = 0;

  if (fp == NULL)
    return -1;
  while (getdelim (&word, &len, '\0', fp) != -1) {
    words += is (word, previous ? previous : "", what);
    last = previous; last_len = previous_len;
    previous = word; previous_len = len;
    word = last; len = last_len;
  }
  free (word);
  free (previous);
  fclose (fp);
  return words;
}

static int
begins (const char *word, const char *start)
{
  return strncmp (word, start, strlen (start)) == 0;
}

/* Tells whether a word names a filter, by itself or as a file: as the value of
 * --filter, which may be shortened to --fi, and not as that of a parameter.
 */
static int
names_filter (const char *word, const char *previous, const char *name)
{
  const char *value = strchr (word, '='), *file;
  size_t len = strlen (name);

  if (begins (word, "--fi") && value)
    value++;
  else if (begins (previous, "--fi") && !strchr (previous, '='))
    value = word;
  else
    return 0;
  file = strrchr (value, '/');
  file = file ? file + 1 : value;
  if (strcmp (file, name) == 0)
    return 1;
  return strncmp (file, "nbdkit-", 7) == 0 &&
    strncmp (file + 7, name, len) == 0 &&
    strcmp (file + 7 + len, "-filter.so") == 0;
}

/* One that stands in two places is loaded once, where it is closest to the
 * plugin.
 */
int
filter_is_behind (const char *name)
{
  return find_filter (name, 0) ||
    (find_filter (name, 1) && count_words (names_filter, name) > 1);
}

int
filter_is_in_front_of (const char *name)
{
  return find_filter (name, 1);
}

static int
is_option (const char *word, const char *previous, const char *option)
{
  return begins (word, option);
}

int
filter_count_option (const char *option)
{
  return count_words (is_option, option);
}
