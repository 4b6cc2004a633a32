/* SPDX-License-Identifier: BSD-3-Clause */

/* Exports of the filter's own, beside those of the layer below.
 *
 * Their .open does not call next, so no other callback may: each answers
 * for an own export by itself, and else passes on what nbdkit would without
 * it.  As can_write is false for own exports, nbdkit does not ask can_trim,
 * can_zero, can_fast_zero and can_fua, which therefore stay unset; nor do
 * requests come in that can_extents and can_cache deny.
 */

#include <stdlib.h>

#include "enter.h"
#include "exports.h"
#include "_cgo_export.h"

nbdkit_backend *filter_backend;

int
filter_list_exports (nbdkit_next_list_exports *next, nbdkit_backend *nxdata,
                     int readonly, int is_tls, struct nbdkit_exports *exports)
{
  struct nbdkit_exports *below = nbdkit_exports_new ();
  int r;

  if (below == NULL)
    return -1;
  r = next (nxdata, readonly, below);
  if (r != -1) {
    enter_go ();
    r = goListExports (below, exports);
  }
  nbdkit_exports_free (below);
  return r;
}

/* nbdkit asks for this when a client wants "", and then opens what it is told. */
const char *
filter_default_export (nbdkit_next_default_export *next, nbdkit_backend *nxdata,
                       int readonly, int is_tls)
{
  const char *name = next (nxdata, readonly);

  if (name && *name) {
    enter_go ();
    goDefaultExport ((char *) name);
  }
  return name;
}

void *
filter_open (nbdkit_next_open *next, nbdkit_context *context,
             int readonly, const char *exportname, int is_tls)
{
  int own = 0;
  uintptr_t handle;

  enter_go ();
  handle = goOpenOwn ((char *) exportname, is_tls, &own);
  if (own)
    return handle ? (void *) (handle << 1 | 1) : NULL;

  if (next (context, readonly, exportname) == -1)
    return NULL;
  return (void *) (goOpen ((char *) exportname, is_tls) << 1);
}

const char *
filter_export_description (nbdkit_next *next, void *handle)
{
  const char *below = is_own (handle) ? NULL : next->export_description (next);
  char *s = goDescribe (go_handle (handle), (char *) below);
  const char *r;

  if (s == NULL)
    return below;
  r = nbdkit_strdup_intern (s);
  free (s);
  return r;
}

int64_t
filter_get_size (nbdkit_next *next, void *handle)
{
  if (is_own (handle))
    return goOwnSize (go_handle (handle));
  return next->get_size (next);
}

int
filter_block_size (nbdkit_next *next, void *handle, uint32_t *minimum,
                   uint32_t *preferred, uint32_t *maximum)
{
  if (is_own (handle)) {
    *minimum = *preferred = *maximum = 0; /* nothing to say */
    return 0;
  }
  return next->block_size (next, minimum, preferred, maximum);
}

int
filter_can_write (nbdkit_next *next, void *handle)
{
  return is_own (handle) ? 0 : next->can_write (next);
}

/* Nothing is to be flushed, but nbdkit's multi-conn filter in front of this
 * one opens no export that cannot be.
 */
int
filter_can_flush (nbdkit_next *next, void *handle)
{
  return is_own (handle) ? 1 : next->can_flush (next);
}

int
filter_is_rotational (nbdkit_next *next, void *handle)
{
  return is_own (handle) ? 0 : next->is_rotational (next);
}

int
filter_can_extents (nbdkit_next *next, void *handle)
{
  return is_own (handle) ? 0 : next->can_extents (next);
}

/* Two connections to an own export need not see the same content. */
int
filter_can_multi_conn (nbdkit_next *next, void *handle)
{
  return is_own (handle) ? 0 : next->can_multi_conn (next);
}

int
filter_can_cache (nbdkit_next *next, void *handle)
{
  return is_own (handle) ? NBDKIT_CACHE_NONE : next->can_cache (next);
}
