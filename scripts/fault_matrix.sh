#!/usr/bin/env bash
# Builds the programs and runs `streamstress-bench matrix`: breaks a native stack in each known way, one fault per run, and
# accounts for every token. `--help` lists the options; --dev builds with the development profile, as the tests do.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/native.sh
exec_bench matrix "$@"
