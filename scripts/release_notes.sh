#!/usr/bin/env bash
# Prints the section of CHANGELOG.md for a version, without its heading.
set -euo pipefail
cd "$(dirname "$0")/.."

if (($# != 1)); then
    echo "Usage: scripts/release_notes.sh VERSION   (e.g. 0.2.0)" >&2
    exit 104
fi
notes=$(awk -v version="$1" '/^## / { inside = $2 == version || $2 == "[" version "]"; next } inside' CHANGELOG.md)
if [[ -z ${notes//[[:space:]]/} ]]; then
    echo "release_notes: CHANGELOG.md has no section \"## $1\": write it before the release" >&2
    exit 1
fi
echo "$notes"
