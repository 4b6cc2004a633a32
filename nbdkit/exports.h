/* SPDX-License-Identifier: BSD-3-Clause */

/* Exports of the layer below and of the filter itself. */

#ifndef NBDKIT_GO_EXPORTS_H
#define NBDKIT_GO_EXPORTS_H

#include "filter.h"

/* nbdkit's handle is Go's, with a bit that tells a connection to an export
 * of the filter's own: for such a handle the layer below is not open, and
 * "next" is NULL.
 */
static inline int
is_own (void *handle)
{
  return (uintptr_t) handle & 1;
}

static inline uintptr_t
go_handle (void *handle)
{
  return (uintptr_t) handle >> 1;
}

/* Go cannot take a const struct that C returns. */
static inline void
get_export (struct nbdkit_exports *exports, size_t i,
            char **name, char **description)
{
  const struct nbdkit_export e = nbdkit_get_export (exports, i);

  *name = e.name;
  *description = e.description;
}

/* The layer below, from .after_fork to .cleanup. */
extern nbdkit_backend *filter_backend;

extern int filter_list_exports (nbdkit_next_list_exports *next,
                                nbdkit_backend *nxdata,
                                int readonly, int is_tls,
                                struct nbdkit_exports *exports);
extern const char *filter_default_export (nbdkit_next_default_export *next,
                                          nbdkit_backend *nxdata,
                                          int readonly, int is_tls);
extern void *filter_open (nbdkit_next_open *next, nbdkit_context *context,
                          int readonly, const char *exportname, int is_tls);
extern const char *filter_export_description (nbdkit_next *next, void *handle);
extern int64_t filter_get_size (nbdkit_next *next, void *handle);
extern int filter_block_size (nbdkit_next *next, void *handle,
                              uint32_t *minimum, uint32_t *preferred,
                              uint32_t *maximum);
extern int filter_can_write (nbdkit_next *next, void *handle);
extern int filter_can_flush (nbdkit_next *next, void *handle);
extern int filter_is_rotational (nbdkit_next *next, void *handle);
extern int filter_can_extents (nbdkit_next *next, void *handle);
extern int filter_can_multi_conn (nbdkit_next *next, void *handle);
extern int filter_can_cache (nbdkit_next *next, void *handle);

#endif /* NBDKIT_GO_EXPORTS_H */
