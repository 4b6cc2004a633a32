/* What nbdkit tells about the filter without starting it. */

#include "nbdkit/filter.h"
#include "about.h"

static const char *const keys[] = {
  "digest",
  "digest-file",
  "digest-format",
  "digest-memory",
  "digest-name",
  "digest-query",
  "digest-unread",
  NULL,
};

const struct filter_about filter_about = {
  .name = "digest",
  .longname = "nbdkit digest filter",
  .description =
    "Compute digests of an image while clients copy it",
  .version = DIGEST_VERSION,
  .config_help =
    "digest=<ALG>[,<ALG>...]      Digests: md5, sha1, sha224, sha256, sha384,\n"
    "                             sha512, blake3 (default: blake3).\n"
    "digest-file=<FILE>           Write the digests to this file\n"
    "                             (default: lines on stderr).\n"
    "digest-format=text|gnu|json  Format of the file (default: json if its\n"
    "                             name ends in .json, else text).\n"
    "digest-name=<NAME>           Name printed beside a digest\n"
    "                             (default: the export name, or -).\n"
    "digest-unread=early|late|skip\n"
    "                             When to read what no client asks for\n"
    "                             (default: early with a linear digest,\n"
    "                             else late).\n"
    "digest-memory=<SIZE>         Memory for data that comes out of order\n"
    "                             (default: 64M).\n"
    "digest-query=true|false      Answer queries over NBD (default: true).",
  .keys = keys,
};
