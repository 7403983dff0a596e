#!/usr/bin/env bash
# Analyses result CSVs: counts, percentiles, a histogram, errors by kind, expected and received tokens.
# Without arguments, analyses the newest run in results/ or $STREAMSTRESS_OUTPUT_DIR.
set -euo pipefail

if [[ ${1:-} == --help || ${1:-} == -h ]]; then
    echo "Usage: scripts/analyze_results.sh [FILE.csv | RUN ...]  (RUN: the common start of the names of a run's files)"
    exit 0
fi
root=$(cd "$(dirname "$0")/.." && pwd)
files=("$@")

if ((${#files[@]} == 0)); then
    results=${STREAMSTRESS_OUTPUT_DIR:-${OUTPUT_DIR:-$root/results}}
    newest=$(find "$results" -maxdepth 1 -name '*.csv' ! -name '*_stats.csv' ! -name '*_history.csv' \
        ! -name '*_failures.csv' ! -name '*_resources.csv' ! -name '*_health.csv' -printf '%T@ %p\n' 2>/dev/null | sort -n | tail -n 1 | cut -d' ' -f2-)
    if [[ -z $newest ]]; then
        echo "analyze_results: no results in $results: run scripts/run_loadtest.sh first, or give a CSV file" >&2
        exit 1
    fi
    echo "$newest"
    files=("$newest")
fi

manifest=$root/Cargo.toml
target=$(cargo metadata --manifest-path "$manifest" --format-version 1 --no-deps |
    sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
for program in "$target/dist/streamstress" "$target/release/streamstress" "$target/debug/streamstress"; do
    if [[ -x $program ]]; then exec "$program" analyze "${files[@]}"; fi
done
exec cargo run --quiet --release --manifest-path "$manifest" -p client -- analyze "${files[@]}"
