/* SPDX-License-Identifier: BSD-3-Clause */

/* The callbacks that nbdkit makes before it forks. */

#ifndef NBDKIT_GO_CONFIG_H
#define NBDKIT_GO_CONFIG_H

#include "filter.h"

/* How many times nbdkit's command line has an option that begins so. */
extern int filter_count_option (const char *option);

/* How many files with this filter are loaded. */
extern int filter_count_copies (void);

extern void filter_load (void);
extern void filter_unload (void);
extern int filter_config (nbdkit_next_config *next, nbdkit_backend *nxdata,
                          const char *key, const char *value);
extern int filter_config_complete (nbdkit_next_config_complete *next,
                                   nbdkit_backend *nxdata);

#endif /* NBDKIT_GO_CONFIG_H */
