#!/usr/bin/env bash
# Checks install.sh without the network: it installs a release that is made here, and refuses one with a wrong checksum.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/native.sh

stop_server() { [[ -z ${server:-} ]] || kill "$server"; }

need python3 sha256sum
build dev client
end_with stop_server
release=$work/release
mkdir "$release"
scripts/package.sh "$bin/streamstress" "$(uname -m)-unknown-linux-gnu" "$release" >/dev/null
(cd "$release" && sha256sum -- *.tar.gz >SHA256SUMS)
tar -xzf "$release"/*.tar.gz -C "$work"
for file in streamstress LICENSE README.md completions/{streamstress.bash,streamstress.fish,_streamstress} man/man1/streamstress.1; do
    [[ -s $work/streamstress-$(uname -m)-unknown-linux-gnu/$file ]] || die "$file is not in the release"
done

python3 -u -m http.server --bind 127.0.0.1 --directory "$release" 0 >"$work/server" 2>&1 &
server=$!
for _ in {1..100}; do
    port=$(sed -nE 's/.* port ([0-9]+) .*/\1/p' "$work/server")
    [[ -z $port ]] || break
    sleep 0.1
done
[[ -n $port ]] || die "the HTTP server did not start: $(cat "$work/server")"

run_installer() {
    env -i PATH="$PATH" HOME="$work/home" STREAMSTRESS_DOWNLOAD_URL="http://127.0.0.1:$port" sh install.sh >"$work/output" 2>&1
}
run_installer || die "install.sh failed: $(cat "$work/output")"
installed=$work/home/.local/bin/streamstress
[[ $("$installed" --version) == "$("$bin/streamstress" --version)" ]] || die "another program was installed"
grep -q 'is not on the PATH' "$work/output" || die "install.sh does not say that the directory is not on the PATH"
# A program that runs is replaced, too.
run_installer || die "install.sh does not replace the program: $(cat "$work/output")"

before=$(sha256sum "$installed")
printf x >>"$(echo "$release"/*.tar.gz)"
if run_installer; then die "install.sh accepted a wrong checksum"; fi
grep -q 'does not have the checksum' "$work/output" || die "install.sh failed for another reason: $(cat "$work/output")"
[[ $(sha256sum "$installed") == "$before" ]] || die "install.sh changed the program although the checksum was wrong"
: >"$release/SHA256SUMS"
if run_installer; then die "install.sh accepted a release without a checksum"; fi
grep -q 'does not list' "$work/output" || die "install.sh failed for another reason: $(cat "$work/output")"
[[ -z $(find "$work/home" -name '.streamstress.*') ]] || die "install.sh left a temporary file"
echo "install.sh installs a release and refuses a wrong or missing checksum"
