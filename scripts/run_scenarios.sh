#!/usr/bin/env bash
# Builds the programs and runs `streamstress-bench scenarios`: every scenario in little time on a native stack. `--help` lists
# the options; --dev builds with the development profile, as the tests do.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/native.sh
exec_bench scenarios "$@"
