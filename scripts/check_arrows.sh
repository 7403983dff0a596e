#!/usr/bin/env bash
# Checks that the crates depend on each other only as ARCHITECTURE.md says, and fails when an arrow is added.
set -euo pipefail
cd "$(dirname "$0")/.."

ours=(protocol guard settings plan measure load report bus server wsproxy stack client benches)
declare -A may=(
    [protocol]=""
    [guard]=""
    [settings]=""
    [plan]="protocol settings"
    [measure]="plan protocol settings"
    [load]="measure plan protocol settings"
    [report]="measure plan protocol settings"
    [bus]="protocol"
    [server]="bus guard protocol"
    [wsproxy]="bus guard protocol"
    [stack]="bus guard protocol server wsproxy"
    [client]="load measure plan protocol report settings stack"
    [benches]="bus client load measure plan protocol report stack"
)
violations=0

violation() {
    echo "check_arrows: $1" >&2
    violations=$((violations + 1))
}

# Prints the names of what CRATE depends on, without its tests. Further arguments go to cargo.
tree() { cargo tree --quiet --locked --edges normal --prefix none --format '{lib}' -p "$@" | tail -n +2 | sort -u; }

for crate in "${ours[@]}"; do
    direct=$(tree "$crate" --depth 1)
    for other in "${ours[@]}"; do
        if grep -qx "$other" <<<"$direct" && [[ " ${may[$crate]} " != *" $other "* ]]; then
            violation "$crate depends on $other, and may only depend on: ${may[$crate]:-none of our crates}"
        fi
    done
done
if tree protocol | grep -qx tokio; then violation "protocol depends on tokio: it must do no I/O"; fi
for other in stack server wsproxy bus guard; do
    if tree load | grep -qx "$other"; then violation "load depends on $other: the generator must not know the system under test"; fi
done

if ((violations)); then exit 1; fi
echo "the arrows hold: ${ours[*]}"
