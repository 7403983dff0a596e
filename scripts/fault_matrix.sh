#!/usr/bin/env bash
# Breaks a native stack in every way that we know, one at a time, under clients that stream, and accounts for every token.
# Prints a table, a row a fault; exit code 0 if in every row nothing was lost, doubled or out of order, and every
# session ok (but for those whose server is killed).
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/native.sh

usage() {
    cat <<'END'
Usage: scripts/fault_matrix.sh [OPTIONS]

  --clients N      sessions that stream (1000)
  --only PATTERN   rows whose name matches this regular expression
  --quick          a smaller matrix: 100 sessions, shorter streams
  --dev            the development profile's programs (built by the tests already) instead of the release ones
  --write          put the table into docs/delivery.md
  --list           print the rows and end
  --seed N         the client's seed, to run a row again as it was (drawn and printed otherwise)
  --help           this text

Results of each row stay in results/matrix (or OUTPUT_DIR). Needs redis-server, haproxy and jq, loads loopback alone.
END
}

clients=1000 only=. profile=release write='' list='' tokens=100 queries=2 delay=100 at=8 ramp=4 seed=$RANDOM
while (($#)); do
    case $1 in
    --clients) number "$1" "${2:-}" '[1-9][0-9]{0,4}' && clients=$2 && shift ;;
    --only) [[ -n ${2:-} ]] || die "--only takes a pattern" 104; only=$2 && shift ;;
    --seed) number "$1" "${2:-}" '[0-9]{1,18}' && seed=$2 && shift ;;
    --quick) clients=100 tokens=50 ramp=1 at=3 && export DRAIN_DELAY_MS=1250 DRAIN_WINDOW_SECONDS=1 ;;
    --dev) profile=dev ;;
    --write) write=yes ;;
    --list) list=yes ;;
    --help | -h) usage && exit 0 ;;
    *) die "unknown option '$1': see --help" 104 ;;
    esac
    shift
done

# name | client's options | what the summary must show to prove that it happened | the stack's options | what is done before
# shellcheck disable=SC2016 # jq's
rows=(
    "client cuts 10 % of its sockets a second|--cut-rate 0.1|.sockets_cut > .total_sessions / 2"
    "wsproxy SIGKILL|--fault wsproxy-1:kill@${at}s|.reconnects_by_close_code.none > 0 and .peak_reconnect_rate <= \$most * 2 / 3"
    "wsproxy SIGTERM|--fault wsproxy-1:stop@${at}s|.reconnects_by_close_code[\"1012\"] > 0"
    "rolling restart of all proxies|--fault wsproxies:drain@${at}s|.reconnects_by_close_code[\"1012\"] >= .total_sessions / 2"
    "server SIGTERM|--fault server-1:stop@${at}s|true"
    "server SIGKILL|--fault server-1:kill@${at}s|.queries_error > 0"
    "Redis CLIENT KILL TYPE pubsub|--fault redis:cut-pubsub@${at}s|true"
    "Redis restart, data kept|--fault redis:restart=keep@${at}s|true"
    "Redis restart, data lost|--fault redis:restart=empty@${at}s|true"
    "Redis restart, a second lost|--fault redis:restart=rollback@${at}s|true"
    "Redis data lost, one server restores 50 MB|--fault redis:restart=empty@${at}s|true||fill_one_server"
    "Redis data lost, a server starts 1 s later|--fault redis:restart=empty@${at}s --fault server-2:start@$((at + 1))s|true||stop_one_server"
    "Redis paused 5 s|--fault redis:pause=5s@${at}s|.longest_token_gap_ms > 4500"
    "Redis refuses writes for 0.3 s|--fault redis:refuse=300ms@${at}s|.longest_token_gap_ms > 250"
    "Redis demoted and promoted|--fault redis:demote=3s@${at}s|.longest_token_gap_ms > 2500"
    "Redis full for 3 s|--fault redis:full=3s@${at}s|.longest_token_gap_ms > 2500"
    "HAProxy reload|--fault haproxy:reload@${at}s|true"
    "HAProxy killed and restarted|--fault haproxy:restart@${at}s|.reconnects_by_close_code.none >= .total_sessions / 2"
    "a link half-open for 10 s|--fault link:wsproxy-1:half-open=10s@${at}s|.longest_token_gap_ms > 3000|--relays"
    "no fault, clients of the old contract|--late-connect 0..5|true"
    "50 readers stalled for 10 s|--pause-readers $((clients < 100 ? clients / 2 : 50)):10s|.sessions_stalled > 0"
)

field() { cut -d '|' -f "$2" <<<"$1"; }

selected=()
for row in "${rows[@]}"; do [[ ${row%%|*} =~ $only ]] && selected+=("$row"); done
((${#selected[@]})) || die "no row matches '$only': see --list" 104
if [[ -n $list ]]; then
    for row in "${selected[@]}"; do printf '%-45s %s\n' "$(field "$row" 1)" "$(field "$row" 2)"; done
    exit
fi
need jq redis-server haproxy
build "$profile" client
results=${OUTPUT_DIR:-results/matrix}
mkdir -p "$results"
end_with stacks_down stack

# What the issue of each row is judged by: an open socket is pinged every 2 s and given up after 4.
export WS_PING_INTERVAL_SECS=2 WS_PING_TIMEOUT_SECS=4 DRAIN_SECONDS=20 TOKEN_DELAY_MS=$delay TOKENS=$tokens
# No proxy takes more new sockets a second than this; the start of the run needs less.
export MAX_CONNECT_RATE=${MAX_CONNECT_RATE:-200} CONNECT_BURST=${CONNECT_BURST:-20}
proxies=3 most=$((3 * (MAX_CONNECT_RATE + CONNECT_BURST)))

# Claims wait for a server that was alive just before the loss: its peer removes it after three heartbeats.
stop_one_server() {
    "$bin/streamstress" stack --state-dir "$work/stack" fault server-2:stop >/dev/null
    sleep 5
}

# 100 answers of 2,500 tokens, some 200 bytes each with what keeping one costs: all acknowledged to, and kept by, one server.
fill_one_server() {
    stop_one_server
    mkdir "$work/fill"
    "$bin/streamstress" --api-url "$api" --wsproxy-url "$ws" --clients 100 --queries 1 --answer-tokens 2500 --itl-ms 8 --ramp-up 1 \
        --output-dir "$work/fill" --quiet >"$work/fill/run" 2>&1 || (($? == 98)) || die "filling a server failed: $(cat "$work/fill/run")"
    [[ $(jq .tokens_received "$work"/fill/*_summary.json) == 250000 ]] || die "a server was not filled: $(cat "$work/fill/run")"
    "$bin/streamstress" stack --state-dir "$work/stack" fault server-2:start >/dev/null
}

run_row() { # NAME CLIENT-OPTIONS STACK-OPTIONS BEFORE: its summary's path in $summary
    local options extra of_stack queries=$queries
    # A rolling restart takes its time, and only a run that sees its end proves anything.
    if [[ $2 == *:drain* ]]; then queries=$((queries + 1)); fi
    read -ra extra <<<"$2"
    read -ra of_stack <<<"$3"
    stack_up stack "${of_stack[@]}" --servers 2 --proxies "$proxies"
    ${4:+"$4"}
    options=(--api-url "$api" --wsproxy-url "$ws"
        --clients "$clients" --queries "$queries" --ramp-up "$ramp" --seed "$seed" --query-timeout 60 --ping-timeout 5
        --ws-initial-backoff-seconds 0.2 --ws-max-backoff-seconds 3 --ws-max-reconnect-attempts 40
        --fault-stack "$work/stack" --output-dir "$results" --name "$(tr -cs 'a-zA-Z0-9\n' '-' <<<"$1")" --quiet)
    local code=0
    "$bin/streamstress" "${options[@]}" "${extra[@]}" >"$work/run" 2>&1 || code=$?
    stacks_down stack
    case $code in 0 | 98 | 99) ;; *) die "the client ended with $code: $(cat "$work/run")" ;; esac
    summary=$(find "$results" -name '*_summary.json' -newer "$work/up" | sort | tail -n 1)
    [[ -n $summary ]] || die "the client left no summary: $(cat "$work/run")"
}

# Whether the row holds: everything that is wanted, of a run's summary. Tokens that an error event cut off are unsent, not lost;
# only the row of the killed server may have any.
# shellcheck disable=SC2016 # jq's variables
holds='
    (.faults | all(.outcome == "injected" and .unrecovered == 0))
    and ($proof) and .peak_reconnect_rate <= $most
    and .tokens_lost == 0 and .tokens_duplicated == 0 and .tokens_reordered == 0 and .announced_gaps == 0
    and (if ($row | test("server SIGKILL")) then
            (.queries_error_by_code.server_lost // 0) as $ended
            | $ended > 0 and $ended == (.faults[0].error_events.server_lost // 0)
              and .queries_ok + $ended == .queries_total
         else .successful_sessions == .total_sessions and .queries_ok == .queries_total
              and .tokens_expected == .tokens_received end)'
# shellcheck disable=SC2016
cells='
    def seconds: if . == null then "–" else . / 10 | round / 100 | "\(.) s" end;
    [ $row, "\(.successful_sessions) of \(.total_sessions)", .tokens_expected, .tokens_received,
      .tokens_lost, .tokens_duplicated, .tokens_reordered, .announced_gaps,
      (.longest_token_gap_ms | seconds), (.faults[0].time_to_recover_ms | seconds), "\(.peak_reconnect_rate)/s",
      (if $holds then "yes" else "**no**" end) ]
    | map(tostring) | "| " + join(" | ") + " |"'

table=$work/table
cat >"$table" <<'END'
| fault | sessions ok | tokens expected | received once | lost | duplicated | reordered | announced gaps | longest gap | time to recover | peak reconnects | holds |
|---|---|---|---|---|---|---|---|---|---|---|---|
END
failed=0
echo "fault matrix: $clients sessions, $queries queries of $tokens tokens every $delay ms, seed $seed"
for row in "${selected[@]}"; do
    name=$(field "$row" 1) summary=''
    run_row "$name" "$(field "$row" 2)" "$(field "$row" 4)" "$(field "$row" 5)"
    held=$(jq --arg row "$name" --argjson most "$most" "${holds//\$proof/$(field "$row" 3)}" "$summary")
    jq -r --arg row "$name" --argjson holds "$held" "$cells" "$summary" | tee -a "$table"
    if [[ $held != true ]]; then
        failed=$((failed + 1))
        cat "$work/run"
        echo "fault_matrix: '$name' does not hold; again: scripts/fault_matrix.sh --only '^$name\$' --clients $clients --seed $seed" >&2
    fi
done

if [[ -n $write ]]; then
    doc=docs/delivery.md
    sed -i -e '/^<!-- matrix -->$/,/^<!-- end of matrix -->$/{//!d}' -e "/^<!-- matrix -->\$/r $table" "$doc"
    echo "wrote $doc"
fi
((failed == 0)) || die "$failed of ${#selected[@]} rows do not hold"
echo "all ${#selected[@]} rows hold"
