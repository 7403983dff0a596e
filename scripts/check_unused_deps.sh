#!/usr/bin/env bash
# Fails when a crate declares a dependency whose name appears in none of its Rust files.
# A name that appears only in a comment counts as used, so the check finds most unused dependencies, but not all.
set -euo pipefail
cd "$(dirname "$0")/.."

unused=0
while IFS=$'\t' read -r crate manifest dependency name; do
    if ! grep -rqw --include='*.rs' -- "$name" "$(dirname "$manifest")"; then
        echo "check_unused_deps: $crate does not use $dependency: remove it from $manifest" >&2
        unused=$((unused + 1))
    fi
done < <(cargo metadata --locked --no-deps --format-version 1 |
    jq -r '.packages[] | . as $package | .dependencies[]
        | [$package.name, $package.manifest_path, .name, (.rename // .name | gsub("-"; "_"))] | @tsv')

if ((unused)); then exit 1; fi
echo "every declared dependency is used"
