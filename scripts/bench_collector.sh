#!/usr/bin/env bash
# Measures what a collector that never answers costs a run: the same sessions on a native stack with and without --otlp, in interleaved
# pairs on one machine.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/native.sh

usage() {
    cat <<'END'
Usage: scripts/bench_collector.sh [OPTIONS]

  --pairs N      interleaved pairs (5)
  --clients N    sessions (1000)
  --seconds N    duration of a run (30)
  --write        put the result into docs/observability.md
  --help         this text
END
}

pairs=5 clients=1000 seconds=30 write=''
while (($#)); do
    case $1 in
    --pairs | --clients | --seconds) number "$1" "${2:-}" && declare "${1#--}=$2" && shift ;;
    --write) write=yes ;;
    --help | -h) usage && exit 0 ;;
    *) die "unknown option '$1': see --help" 104 ;;
    esac
    shift
done
need jq python3 redis-server haproxy
build release client
# shellcheck disable=SC2317,SC2329 # the trap calls it
cleanup() {
    [[ ! -s $work/collector ]] || kill "$(cat "$work/collector")" 2>/dev/null || true
    stacks_down plain
}
end_with cleanup
stack_up plain --servers 1 --proxies 1

# Accepts every connection and answers none.
python3 -c '
import socket
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
accepted = []
while True: accepted.append(listener.accept())' >"$work/port" &
echo $! >"$work/collector"
until [[ -s $work/port ]]; do sleep 0.1; done

run() { # OPTIONS... Prints the verdict and figures.
    local code=0 summary
    "$bin/streamstress" run --api-url "$(jq -r .api_url "$work/plain.json")" --wsproxy-url "$(jq -r .ws_url "$work/plain.json")" \
        --clients "$clients" --duration "${seconds}s" --answer-tokens 40 --itl-ms 100 --output-dir "$work/results" --quiet "$@" \
        >"$work/out" 2>&1 || code=$?
    case $code in 0 | 98 | 99 | 103) ;; *) die "the run ended with $code: $(cat "$work/out")" ;; esac
    summary=$(find "$work/results" -name '*_summary.json')
    jq -r --arg failed "$(sed -n 's/.*\([0-9][0-9]* of [0-9]*\) exports.*/\1/p' "$work/out" | tr ' ' '_')" \
        '[.verdict, .generator.schedule_lag_p99_ms, .generator.loop_lag_p99_ms, .p99_e2el_ms, .tokens_lost, .queries_total - .queries_ok,
        (if $failed == "" then "-" else $failed end)] | map(tostring) | join(" ")' "$summary"
    rm -rf "$work/results"
}

row() { # PAIR KIND FIGURES
    local verdict schedule loop p99 lost failed exports
    read -r verdict schedule loop p99 lost failed exports <<<"$3"
    printf '| %d | %s | %s | %.3f | %.3f | %.0f | %d | %d | %s |\n' "$1" "$2" "$verdict" "$schedule" "$loop" "$p99" "$lost" "$failed" \
        "${exports//_/ }" | tee -a "$work/table"
}

median() { sort -g | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

{
    echo "| pair | collector | verdict | schedule_lag p99, ms | loop_lag p99, ms | e2el p99, ms | tokens lost | queries failed | exports failed |"
    echo "|---|---|---|---|---|---|---|---|---|"
} | tee "$work/table"
url=http://127.0.0.1:$(cat "$work/port")
for ((pair = 1; pair <= pairs; pair++)); do
    # The order alternates from pair to pair.
    if ((pair % 2)); then none=$(run) dead=$(run --otlp "$url"); else dead=$(run --otlp "$url") none=$(run); fi
    row "$pair" none "$none"
    row "$pair" "never answers" "$dead"
    echo "$(cut -d' ' -f2 <<<"$dead") $(cut -d' ' -f2 <<<"$none")" >>"$work/pairs"
done
printf '\nMedian difference of %d pairs, with the collector minus without: schedule_lag p99 %+.3f ms.\n' "$pairs" \
    "$(awk '{ print $1 - $2 }' "$work/pairs" | median)" | tee -a "$work/table"
if [[ -n $write ]]; then
    sed -i -e '/^<!-- collector -->$/,/^<!-- end of collector -->$/{//!d}' -e "/^<!-- collector -->\$/r $work/table" docs/observability.md
fi
