/* SPDX-License-Identifier: BSD-3-Clause */

/* A plugin that has a thread which loads a library and drops it again, as
 * getaddrinfo and iconv do, while the filter starts.
 */

#define NBDKIT_API_VERSION 2
#include <dlfcn.h>
#include <pthread.h>
#include <string.h>
#include <nbdkit-plugin.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

static void *
load (void *library)
{
  int i;

  for (i = 0; i < 10000; ++i) {
    void *dl = dlopen (library, RTLD_NOW);

    if (dl)
      dlclose (dl);
  }
  return NULL;
}

static pthread_t thread;

static int
loading_after_fork (void)
{
  static char library[] = "libanl.so.1"; /* of libc, and nobody else's */

  return pthread_create (&thread, NULL, load, library) ? -1 : 0;
}

static void
loading_cleanup (void)
{
  pthread_join (thread, NULL);
}

static void *
loading_open (int readonly)
{
  return NBDKIT_HANDLE_NOT_NEEDED;
}

static int64_t
loading_get_size (void *handle)
{
  return 1 << 20;
}

static int
loading_pread (void *handle, void *buf, uint32_t count, uint64_t offset,
               uint32_t flags)
{
  memset (buf, 1, count);
  return 0;
}

static struct nbdkit_plugin plugin = {
  .name       = "loading",
  .after_fork = loading_after_fork,
  .cleanup    = loading_cleanup,
  .open       = loading_open,
  .get_size   = loading_get_size,
  .pread      = loading_pread,
};
NBDKIT_REGISTER_PLUGIN (plugin)
