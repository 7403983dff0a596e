#!/usr/bin/env bash
# Compares load tools with the truth: see scripts/compare_tools.sh --help, and docs/truth.md for what was seen.
set -euo pipefail
exec python3 -B "$(dirname "$0")/compare_tools" "$@"
