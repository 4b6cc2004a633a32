#!/bin/bash
# Asks Go's database whether the modules that the filter is built with have
# known vulnerabilities. A machine that does not reach it is told so, and can
# still run every other check.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

status=0
said=$(timeout 300 go tool -modfile=tests/tools/go.mod govulncheck ./... 2>&1) || status=$?
echo "$said"
if [ $status = 124 ] || [[ $said == *"fetching vulnerabilities"* ]]; then
    echo "govulncheck was LEFT OUT: its database cannot be reached from here"
    status=0
fi
exit $status
