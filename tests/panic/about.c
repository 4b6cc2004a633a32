/* SPDX-License-Identifier: BSD-3-Clause */

/* A filter of the tests, which panics when it is told to. */

#include "../../nbdkit/filter.h"

static const char *const keys[] = { "panic", NULL };

const struct filter_about filter_about = {
  .name = "panic",
  .longname = "nbdkit panic filter",
  .description = "Panic when a request begins at a certain offset",
  .version = "0",
  .config_help = "panic=<METHOD>      Begin, End, Prepare, Finalize, Open, Close,\n"
                 "                    Finish, Start, Check, Configure or Panicked.",
  .keys = keys,
};
