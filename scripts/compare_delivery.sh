#!/usr/bin/env bash
# What delivery with the log costs against plain pub/sub: the same saturating load through HAProxy over either kind of
# stack, in interleaved pairs on one machine. Prints tokens a second of each run, and the median of the pairs' ratios.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'END'
Usage: scripts/compare_delivery.sh [--pairs N] [--clients N] [--queries N] [--write]

  --pairs N     interleaved pairs (5)
  --clients N   sessions (500)
  --queries N   queries each, of 100 tokens without a pause (20)
  --direct      past HAProxy, straight to one gateway
  --write       put the result into docs/delivery.md
END
}

die() { echo "compare_delivery: $1" >&2; exit "${2:-1}"; }
pairs=5 clients=500 queries=20 write='' direct=''
while (($#)); do
    case $1 in
    --pairs | --clients | --queries)
        [[ ${2:-} =~ ^[1-9][0-9]{0,5}$ ]] || die "$1 takes a number, not '${2:-}'" 104
        declare "${1#--}=$2" && shift ;;
    --direct) direct=yes ;;
    --write) write=yes ;;
    --help | -h) usage && exit 0 ;;
    *) die "unknown option '$1': see --help" 104 ;;
    esac
    shift
done
command -v jq >/dev/null || die "jq is missing: install it"

cargo build --release -p stack -p server -p wsproxy -p client
bin=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release
work=$(mktemp -d)
finish() {
    local code=$?
    trap '' INT TERM
    for kind in log pubsub; do "$bin/stack" --name "compare-$kind-$$" down >/dev/null 2>&1 || true; done
    rm -rf "$work"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Both stacks stay up, one idle while the other works: what differs between two runs is the delivery alone.
for kind in log pubsub; do
    DELIVERY=$kind MAX_CONNECT_RATE=0 "$bin/stack" --name "compare-$kind-$$" up --detach \
        --api-port 0 --ws-port 0 --stats-port 0 >"$work/up" || die "the stack did not start: $(cat "$work/up")"
    "$bin/stack" --name "compare-$kind-$$" status --json >"$work/$kind.json"
done

run() { # KIND: tokens a second
    local ws
    ws=$(jq -r .ws_url "$work/$1.json")
    if [[ -n $direct ]]; then
        ws=ws://127.0.0.1:$(jq -r '.processes[] | select(.name == "wsproxy-1") | .port' "$work/$1.json")
    fi
    local code=0
    "$bin/client" --api-url "$(jq -r .api_url "$work/$1.json")" --wsproxy-url "$ws" --clients "$clients" --queries "$queries" \
        --tokens 100 --ttft-ms 0 --itl-ms 0 --ramp-up 1 --query-timeout 120 --output-dir "$work" --name run-"$1" --quiet \
        >"$work/out" 2>&1 || code=$?
    case $code in 0 | 98 | 99) ;; *) die "the client ended with $code: $(cat "$work/out")" ;; esac
    local summary
    summary=$(find "$work" -name "run-$1*_summary.json" | sort | tail -n 1)
    jq -r '"\(.output_throughput) \(.tokens_expected - .tokens_received)"' "$summary"
    rm -f "$work"/run-*
}

run log >/dev/null
run pubsub >/dev/null
ratios=()
{
    echo "| pair | log, tokens/s | pub/sub, tokens/s | ratio | lost by log | lost by pub/sub |"
    echo "|---|---|---|---|---|---|"
} | tee "$work/table"
for ((pair = 1; pair <= pairs; pair++)); do
    # Whoever is first in one pair is second in the next.
    if ((pair % 2)); then log=$(run log) pubsub=$(run pubsub); else pubsub=$(run pubsub) log=$(run log); fi
    ratio=$(jq -nr --argjson a "${log% *}" --argjson b "${pubsub% *}" '$a / $b * 1000 | round / 1000')
    ratios+=("$ratio")
    printf '| %d | %.0f | %.0f | %.3f | %d | %d |\n' "$pair" "${log% *}" "${pubsub% *}" "$ratio" "${log#* }" "${pubsub#* }" |
        tee -a "$work/table"
done
median=$(printf '%s\n' "${ratios[@]}" | sort -g | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }')
printf '\nMedian of %d pairs: the log carries %.1f %% of what plain pub/sub carries%s.\n' "$pairs" \
    "$(jq -n "$median * 100")" "${direct:+, past HAProxy}" | tee -a "$work/table"
if [[ -n $write ]]; then
    sed -i -e '/^<!-- comparison -->$/,/^<!-- end of comparison -->$/{//!d}' -e "/^<!-- comparison -->\$/r $work/table" docs/delivery.md
fi
