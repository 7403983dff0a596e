#!/usr/bin/env bash
# Measures what delivery with the log costs in comparison with plain pub/sub: runs the same streams through HAProxy on both kinds of
# stack, in interleaved pairs on one machine, and compares the number of tokens per second of CPU time of the stack.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/native.sh

usage() {
    cat <<'END'
Usage: scripts/compare_delivery.sh [OPTIONS]

  --pairs N     interleaved pairs (5)
  --clients N   sessions (1000)
  --tokens N    tokens of each of their two queries, 50 ms apart (100)
  --direct      without HAProxy, directly to one gateway
  --write       put the result into docs/delivery.md
  --help        this text
END
}

pairs=5 clients=1000 tokens=100 write='' direct=''
while (($#)); do
    case $1 in
    --pairs | --clients | --tokens) number "$1" "${2:-}" && declare "${1#--}=$2" && shift ;;
    --direct) direct=yes ;;
    --write) write=yes ;;
    --help | -h) usage && exit 0 ;;
    *) die "unknown option '$1': see --help" 104 ;;
    esac
    shift
done
need jq pgrep redis-server haproxy
build release client
end_with stacks_down log pubsub

# Both stacks keep running, and one is idle while the other is measured, so two runs differ only in the delivery.
for kind in log pubsub; do
    DELIVERY=$kind MAX_CONNECT_RATE=0 stack_up "$kind"
done

# Prints the CPU seconds of all processes of the stack, including the workers of HAProxy.
cpu() { # KIND
    local pids
    pids=$(jq -r '.processes[].pid' "$work/$1.json")
    # shellcheck disable=SC2086 # one word per process
    for pid in $pids $(for parent in $pids; do pgrep -P "$parent" || true; done); do
        sed 's/.*) //' "/proc/$pid/stat"
    done | awk -v hz="$(getconf CLK_TCK)" '{ ticks += $12 + $13 } END { print ticks / hz }'
}

run() { # KIND. Prints tokens, CPU seconds of the stack, lost tokens, and tokens per second.
    local ws before after code=0 summary
    ws=$(jq -r .ws_url "$work/$1.json")
    if [[ -n $direct ]]; then
        ws=ws://127.0.0.1:$(jq -r '.processes[] | select(.name == "wsproxy-1") | .port' "$work/$1.json")
    fi
    before=$(cpu "$1")
    "$bin/streamstress" --api-url "$(jq -r .api_url "$work/$1.json")" --wsproxy-url "$ws" --clients "$clients" --queries 2 \
        --answer-tokens "$tokens" --itl-ms 50 --ramp-up 1 --query-timeout 60 --output-dir "$work" --name run-"$1" --quiet \
        >"$work/out" 2>&1 || code=$?
    case $code in 0 | 98 | 99) ;; *) die "the client ended with $code: $(cat "$work/out")" ;; esac
    after=$(cpu "$1")
    summary=$(find "$work" -name "run-$1*_summary.json" | sort | tail -n 1)
    jq -r --argjson cpu "$(awk -v a="$after" -v b="$before" 'BEGIN { print a - b }')" \
        '"\(.tokens_received) \($cpu) \(.tokens_expected - .tokens_received) \(.output_throughput | round)"' "$summary"
    rm -f "$work"/run-*
}

run log >/dev/null
run pubsub >/dev/null
ratios=()
{
    echo "| pair | log: CPU µs per token | pub/sub: CPU µs per token | ratio | log: tokens/s, lost | pub/sub: tokens/s, lost |"
    echo "|---|---|---|---|---|---|"
} | tee "$work/table"
for ((pair = 1; pair <= pairs; pair++)); do
    # The order alternates from pair to pair.
    if ((pair % 2)); then log=$(run log) pubsub=$(run pubsub); else pubsub=$(run pubsub) log=$(run log); fi
    read -r tokens_l cpu_l lost_l rate_l <<<"$log"
    read -r tokens_p cpu_p lost_p rate_p <<<"$pubsub"
    ratio=$(awk -v a="$cpu_l" -v m="$tokens_l" -v b="$cpu_p" -v n="$tokens_p" 'BEGIN { printf "%.3f", (b / n) / (a / m) }')
    ratios+=("$ratio")
    awk -v pair="$pair" -v a="$cpu_l" -v m="$tokens_l" -v b="$cpu_p" -v n="$tokens_p" -v ratio="$ratio" \
        -v l="$rate_l, $lost_l" -v p="$rate_p, $lost_p" \
        'BEGIN { printf "| %d | %.1f | %.1f | %.3f | %s | %s |\n", pair, a / m * 1e6, b / n * 1e6, ratio, l, p }' | tee -a "$work/table"
done
median=$(printf '%s\n' "${ratios[@]}" | sort -g | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }')
printf '\nMedian of %d pairs: one second of CPU time carries, with the log, %.1f %% of the tokens that it carries with plain pub/sub%s.\n' \
    "$pairs" "$(jq -n "$median * 100")" "${direct:+, past HAProxy}" | tee -a "$work/table"
if [[ -n $write ]]; then
    sed -i -e '/^<!-- comparison -->$/,/^<!-- end of comparison -->$/{//!d}' -e "/^<!-- comparison -->\$/r $work/table" docs/delivery.md
fi
