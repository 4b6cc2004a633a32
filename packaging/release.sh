# shellcheck shell=bash
# Sourced by the other scripts: the version, and the time that files in what
# they make have, so that everybody makes the same from the same source.

version=$(sed -n 's/.*DIGEST_VERSION "\(.*\)"/\1/p' about.h)
released=$(sed -n "s/^## $version (\(....-..-..\))\$/\1/p" CHANGELOG.md)
[ "$released" ] || {
    echo "packaging: CHANGELOG.md has no line '## $version (YYYY-MM-DD)'," \
         "and $version is the version in about.h: add it" >&2
    exit 1
}
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(date -u -d "$released" +%s)}"
