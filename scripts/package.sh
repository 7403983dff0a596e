#!/usr/bin/env bash
# Makes the files of a release from a built program: DIRECTORY/streamstress-TARGET.tar.gz with the program, README, LICENSE,
# shell completions and the manual page.
set -euo pipefail

if (($# != 3)); then
    echo "Usage: scripts/package.sh PROGRAM TARGET DIRECTORY   (e.g. target/dist/streamstress x86_64-unknown-linux-gnu dist)" >&2
    exit 104
fi
program=$(realpath "$1") target=$2 directory=$(realpath "$3")
cd "$(dirname "$0")/.."

name=streamstress-$target
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/$name"/{completions,man/man1} "$directory"
install -m 755 "$program" "$work/$name/streamstress"
cp README.md LICENSE "$work/$name/"
"$program" completions bash >"$work/$name/completions/streamstress.bash"
"$program" completions fish >"$work/$name/completions/streamstress.fish"
"$program" completions zsh >"$work/$name/completions/_streamstress"
"$program" man >"$work/$name/man/man1/streamstress.1"
tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner -czf "$directory/$name.tar.gz" "$name"
echo "$directory/$name.tar.gz"
