/* SPDX-License-Identifier: BSD-3-Clause */

#ifndef DIGEST_ABOUT_H
#define DIGEST_ABOUT_H

#define DIGEST_VERSION "0.1.0"

extern int digest_debug_profile;

#endif /* DIGEST_ABOUT_H */
