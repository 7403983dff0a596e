#!/usr/bin/env bash
# Counts the instructions of the hot paths with valgrind and compares them with benches/instructions.json. Fails if one has increased by
# more than 5 %. --write-baseline replaces the file. Counts the programs of the tests, so that nothing is compiled for it alone.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/native.sh
need valgrind
exec_bench instructions --dev "$@"
