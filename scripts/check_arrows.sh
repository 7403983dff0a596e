#!/usr/bin/env bash
# The crates depend on each other in one direction alone (see ARCHITECTURE.md); this fails when an arrow is added.
set -euo pipefail
cd "$(dirname "$0")/.."

ours=(protocol guard bus server wsproxy client stack benches)
declare -A may=(
    [protocol]=""
    [guard]=""
    [bus]="protocol"
    [server]="bus guard protocol"
    [wsproxy]="bus guard protocol"
    [client]="protocol stack"
    [stack]="bus guard protocol server wsproxy"
    [benches]="bus client protocol stack"
)
faults=0

fault() {
    echo "check_arrows: $1" >&2
    faults=$((faults + 1))
}

# Names of what CRATE depends on, without its tests; further arguments go to cargo.
tree() { cargo tree --quiet --locked --edges normal --prefix none --format '{lib}' -p "$@" | tail -n +2 | sort -u; }

for crate in "${ours[@]}"; do
    direct=$(tree "$crate" --depth 1)
    for other in "${ours[@]}"; do
        if grep -qx "$other" <<<"$direct" && [[ " ${may[$crate]} " != *" $other "* ]]; then
            fault "$crate depends on $other, and may only on: ${may[$crate]:-nothing of ours}"
        fi
    done
done
if tree protocol | grep -qx tokio; then fault "protocol depends on tokio: it does no I/O"; fi
for other in stack server wsproxy bus guard; do
    if tree client --no-default-features | grep -qx "$other"; then
        fault "client without default features depends on $other: its container must not carry it"
    fi
done

if ((faults)); then exit 1; fi
echo "the arrows hold: ${ours[*]}"
