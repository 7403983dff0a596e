#!/usr/bin/env bash
# Checks that the crates depend on each other only as this file and ARCHITECTURE.md define. Fails on any other dependency, and if the
# images' build lacks a crate.
set -euo pipefail
cd "$(dirname "$0")/.."

ours=(protocol dialects guard host telemetry settings plan measure load report web bus coordination server wsproxy stack client benches)
declare -A may=(
    [protocol]=""
    [dialects]=""
    [guard]=""
    [host]=""
    [telemetry]="host"
    [settings]=""
    [plan]="dialects protocol settings"
    [measure]="plan protocol settings"
    [load]="dialects host measure plan protocol settings"
    [report]="host measure plan protocol settings"
    [web]="host measure plan report settings"
    [bus]="host protocol"
    [coordination]="host settings"
    [server]="bus dialects guard host protocol settings telemetry"
    [wsproxy]="bus guard host protocol settings telemetry"
    [stack]="bus guard host protocol server settings wsproxy"
    [client]="coordination dialects host load measure plan protocol report server settings stack telemetry web wsproxy"
    [benches]="bus client host load measure plan protocol report stack wsproxy"
)
violations=0

violation() {
    echo "check_arrows: $1" >&2
    violations=$((violations + 1))
}

# Prints the dependencies of CRATE, without those of its tests. Further arguments are passed to cargo.
tree() { cargo tree --quiet --locked --edges normal --prefix none --format '{lib}' -p "$@" | tail -n +2 | sort -u; }

for crate in "${ours[@]}"; do
    direct=$(tree "$crate" --depth 1)
    for other in "${ours[@]}"; do
        if grep -qx "$other" <<<"$direct" && [[ " ${may[$crate]} " != *" $other "* ]]; then
            violation "$crate depends on $other, and may only depend on: ${may[$crate]:-none of our crates}"
        fi
    done
done
everything=$(tree protocol)
for library in tokio nix rustix mio socket2; do
    if grep -qx "$library" <<<"$everything"; then violation "protocol depends on $library: it must do no I/O"; fi
done
if found=$(grep -rnE 'std::(fs|net|process|env|os)\b|(Instant|SystemTime)::now' crates/protocol/src); then
    violation "protocol must do no I/O and read no clock; crates/host is the place for that: $found"
fi
everything=$(tree load)
for other in stack server wsproxy bus guard; do
    if grep -qx "$other" <<<"$everything"; then violation "load depends on $other: the generator must not know the system under test"; fi
done
# The images' build names each manifest, so that dependencies are built before sources are copied.
for manifest in crates/*/Cargo.toml server/Cargo.toml wsproxy/Cargo.toml client/Cargo.toml benches/Cargo.toml; do
    if ! grep -qx "COPY $manifest ${manifest%Cargo.toml}" docker/Dockerfile; then
        violation "docker/Dockerfile does not copy $manifest: add 'COPY $manifest ${manifest%Cargo.toml}' to its first stage"
    fi
done

if ((violations)); then exit 1; fi
echo "all dependencies between crates are allowed: ${ours[*]}"
