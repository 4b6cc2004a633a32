/* SPDX-License-Identifier: BSD-3-Clause */

/* What nbdkit tells about the filter without starting it. */

#include "nbdkit/filter.h"
#include "about.h"

/* nbdkit -D digest.profile=1 sets this. */
NBDKIT_DLL_PUBLIC int digest_debug_profile;

static const char *const keys[] = {
  "digest",
  "digest-expect",
  "digest-file",
  "digest-format",
  "digest-memory",
  "digest-name",
  "digest-query",
  "digest-salt",
  "digest-unread",
  "digest-verify",
  "signature",
  "signature-unsafe",
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
    "                             sha512, blake3, and these with HASH and SIZE:\n"
    "                             blkhash[/HASH[/SIZE]], merkle[/...],\n"
    "                             fsverity[/...], dmverity[/...]\n"
    "                             (default: blake3).\n"
    "digest-expect=<ALG>:<HEX>    Digest that the image must have; or @FILE\n"
    "                             or ALG:@FILE with a checksum file.\n"
    "digest-file=<FILE>           Write the digests to this file\n"
    "                             (default: lines on stderr).\n"
    "digest-format=text|gnu|json  Format of the file (default: json if its\n"
    "                             name ends in .json, else text).\n"
    "digest-name=<NAME>           Name printed beside a digest\n"
    "                             (default: the export name, or -).\n"
    "digest-salt=<HEX>            Salt of fsverity and dmverity.\n"
    "digest-unread=early|late|skip\n"
    "                             When to read what no client asks for\n"
    "                             (default: early with a linear digest\n"
    "                             or digest-expect, else late).\n"
    "digest-memory=<SIZE>         Memory for data that comes out of order\n"
    "                             (default: 64M).\n"
    "digest-query=true|false      Answer queries over NBD (default: true, but\n"
    "                             for some filters in front).\n"
    "digest-verify=during|before  When to compare with what is expected\n"
    "                             (default: during).\n"
    "signature=sane|known|any|<KIND>[,<KIND>...]\n"
    "                             What the image must be (default: sane):\n"
    "                             gpt, mbr, iso9660, udf, vfat, exfat, ntfs,\n"
    "                             xfs, squashfs, ext, btrfs, f2fs, erofs,\n"
    "                             hfsplus, apfs, swap, luks, bitlocker, lvm,\n"
    "                             mdraid, qcow2, qcow, qed, vmdk, vdi, vhdx,\n"
    "                             vhd, parallels, dmg, xz, gzip, bzip2, zstd,\n"
    "                             lz4, lzip, lzma, tar, cpio, zip, 7z, rar,\n"
    "                             html, xml, json, text, blank, unknown; or a\n"
    "                             group: partition-table, filesystem, volume,\n"
    "                             disk (these three), container, compressed,\n"
    "                             archive.\n"
    "signature-unsafe=refuse|allow\n"
    "                             Images that name other files\n"
    "                             (default: refuse).",
  .keys = keys,
};
