#!/usr/bin/env bash
# Measures what the page costs a run: the same sessions on a native stack, once as `streamstress run` and once from `streamstress web`
# with browsers that show the run, in interleaved pairs on one machine.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/native.sh

usage() {
    cat <<'END'
Usage: scripts/bench_page.sh [OPTIONS]

  --pairs N      interleaved pairs (3)
  --clients N    sessions (5000)
  --seconds N    duration of a run (50)
  --browsers N   browsers that show the run (3); 0: the page alone
  --nice N       niceness of the browsers (0): on a machine with few cores, they compete with the run for the CPU
  --itl-ms N     time between two tokens of a session (400)
  --write        put the result into docs/web.md
  --help         this text
END
}

pairs=3 clients=5000 seconds=50 browsers=3 itl_ms=400 nice=0 write=''
while (($#)); do
    case $1 in
    --pairs | --clients | --seconds) number "$1" "${2:-}" && declare "${1#--}=$2" && shift ;;
    --browsers | --nice) number "$1" "${2:-}" '[0-9]|1[0-9]' && declare "${1#--}=$2" && shift ;;
    --itl-ms) number "$1" "${2:-}" && itl_ms=$2 && shift ;;
    --write) write=yes ;;
    --help | -h) usage && exit 0 ;;
    *) die "unknown option '$1': see --help" 104 ;;
    esac
    shift
done
need jq curl chromium redis-server haproxy
build release client
# shellcheck disable=SC2317,SC2329 # the trap calls it
cleanup() {
    end_started
    stacks_down page
}
end_with cleanup

# Ends what `start` started, with the processes of each.
end_started() {
    local group
    touch "$work/groups"
    while read -r group; do kill -KILL -- "-$group" 2>/dev/null || true; done <"$work/groups"
    wait 2>/dev/null || true
    rm "$work/groups"
}

# Starts COMMAND with a process group of its own.
start() { # OUTPUT COMMAND...
    setsid "${@:2}" >"$1" 2>"$1.log" </dev/null &
    echo "$!" >>"$work/groups"
}

# Prints the CPU seconds of all processes of these groups.
cpu() { # GROUP...
    local group
    for group; do ps -eo pgid=,cputimes=,pid= | awk -v group="$group" '$1 == group { print $3 }'; done |
        while read -r pid; do sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null || true; done |
        awk -v hz="$(getconf CLK_TCK)" '{ ticks += $12 + $13 } END { printf "%.1f", ticks / hz }'
}

stack_up page --servers 1 --proxies 2
api=$(jq -r .api_url "$work/page.json") ws=$(jq -r .ws_url "$work/page.json")
target=(--api-url "$api" --wsproxy-url "$ws" --fault-stack "$work/page" --output-dir "$work/results")

plain() {
    local code=0
    "$bin/streamstress" run "${target[@]}" --clients "$clients" --duration "${seconds}s" --ramp-up 10s --answer-tokens 40 --itl-ms "$itl_ms" \
        --name plain --quiet >"$work/out" 2>&1 || code=$?
    case $code in 0 | 98 | 99 | 103) ;; *) die "the run ended with $code: $(cat "$work/out")" ;; esac
    figures plain 0 0
}

# Calls the page as its own script does.
ask() { # METHOD PATH [BODY]
    curl -fsS --max-time 10 -X "$1" -H "Authorization: Bearer $token" -H "Origin: $origin" -H 'Content-Type: application/json' \
        ${3:+--data "$3"} "$origin$2"
}

watched() {
    local url number before own theirs page browser_groups
    start "$work/url" "$bin/streamstress" web --address 127.0.0.1:0 "${target[@]}"
    page=$(cat "$work/groups")
    until [[ -s $work/url ]]; do sleep 0.1; done
    url=$(head -n 1 "$work/url")
    origin=${url%%/#*} token=${url##*#t=}
    for ((number = 1; number <= browsers; number++)); do
        start "$work/browser" nice -n "$nice" chromium --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run \
            --disable-background-networking --user-data-dir="$work/profile$number" "$url"
    done
    # The streams of events of the browsers are open when they hold a connection each.
    until (($(ss -Htn state established "sport = :${origin##*:}" | wc -l) >= browsers)); do sleep 0.2; done
    sleep 5
    mapfile -t browser_groups < <(tail -n +2 "$work/groups")
    before=$(cpu "${browser_groups[@]}") own=0 theirs=$before
    ask POST /api/runs "$(jq -n --argjson clients "$clients" --arg duration "${seconds}s" --arg itl "$itl_ms" \
        '{clients: $clients, duration: $duration, "ramp-up": "10s", "answer-tokens": "40", "itl-ms": $itl, name: "watched"}')" >/dev/null
    while [[ $(ask GET /api/state | jq -r .state.state) != idle ]]; do
        own=$(cpu "$page") theirs=$(cpu "${browser_groups[@]}")
        sleep 2
    done
    figures watched "$own" "$(awk -v after="$theirs" -v before="$before" 'BEGIN { printf "%.1f", after - before }')"
    end_started
}

# Prints the figures of the last run with this name: verdict, lateness, CPU, latency and integrity.
figures() { # NAME PAGE_CPU BROWSER_CPU
    local summary cores
    summary=$(find "$work/results" -name "$1*_summary.json" | sort | tail -n 1)
    [[ -n $summary ]] || die "the run has no results: $(cat "$work/out" "$work/url.log" 2>/dev/null)"
    cores=$(python3 -c '
import csv, statistics, sys
rows = [row["client cpu_cores"] for row in csv.DictReader(open(sys.argv[1]))]
print(statistics.mean(float(cores) for cores in rows if cores))' "${summary%_summary.json}_history.csv")
    jq -r --arg cores "$cores" --arg page "$2" --arg browsers "$3" '[.verdict, .generator.loop_lag_p99_ms, .generator.schedule_lag_p99_ms, $cores,
        $page, $browsers, .median_e2el_ms, .p99_e2el_ms, .tokens_received, .tokens_lost + .tokens_duplicated + .tokens_reordered,
        .queries_total - .queries_ok] | map(tostring) | join(" ")' "$summary"
    rm -f "$work/results/$1"*
}

row() { # PAIR KIND FIGURES
    local verdict loop schedule client page browsers p50 p99 tokens defects failed
    read -r verdict loop schedule client page browsers p50 p99 tokens defects failed <<<"$3"
    printf '| %d | %s | %s | %.2f | %.2f | %.2f | %s | %s | %.0f | %.0f | %d | %d | %d |\n' "$1" "$2" "$verdict" "$loop" "$schedule" "$client" \
        "$page" "$browsers" "$p50" "$p99" "$tokens" "$defects" "$failed" | tee -a "$work/table"
}

median() { sort -g | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

{
    echo "| pair | run | verdict | loop_lag p99, ms | schedule_lag p99, ms | generator, cores | page, CPU s | browsers, CPU s | e2el p50, ms | e2el p99, ms | tokens | lost, doubled, reordered | failed |"
    echo "|---|---|---|---|---|---|---|---|---|---|---|---|---|"
} | tee "$work/table"
for ((pair = 1; pair <= pairs; pair++)); do
    # The order alternates from pair to pair.
    if ((pair % 2)); then without=$(plain) with=$(watched); else with=$(watched) without=$(plain); fi
    row "$pair" "without" "$without"
    row "$pair" "with" "$with"
    echo "$(cut -d' ' -f2 <<<"$with") $(cut -d' ' -f2 <<<"$without") $(cut -d' ' -f4 <<<"$with") $(cut -d' ' -f4 <<<"$without")" >>"$work/pairs"
done
printf '\nMedian difference of %d pairs, with the page minus without: loop_lag p99 %+.2f ms, generator %+.2f cores.\n' "$pairs" \
    "$(awk '{ print $1 - $2 }' "$work/pairs" | median)" "$(awk '{ print $3 - $4 }' "$work/pairs" | median)" | tee -a "$work/table"
if [[ -n $write ]]; then
    sed -i -e '/^<!-- page -->$/,/^<!-- end of page -->$/{//!d}' -e "/^<!-- page -->\$/r $work/table" docs/web.md
fi
