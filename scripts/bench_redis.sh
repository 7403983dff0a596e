#!/usr/bin/env bash
# Measures the CPU time that Redis needs for a query and for a token, on a native stack: queries of one token at several rates, and of 21
# tokens at the first rate.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/native.sh

usage() {
    cat <<'END'
Usage: scripts/bench_redis.sh [OPTIONS]

  --rates LIST   queries per second, separated by commas (500,1500,3000)
  --seconds N    duration of each measurement (10)
  --setting S    a setting of Redis and its value, for example 'stream-node-max-bytes 1024'
  --help         this text
END
}

rates=(500 1500 3000) seconds=10 setting=''
while (($#)); do
    case $1 in
    --rates) number "$1" "${2:-}" '[1-9][0-9]{0,5}(,[1-9][0-9]{0,5})*' && IFS=, read -ra rates <<<"$2" && shift ;;
    --seconds) number "$1" "${2:-}" && seconds=$2 && shift ;;
    --setting) [[ ${2:-} == *' '* ]] || die "$1 takes a setting and its value, not '${2:-}'" 104; setting=$2; shift ;;
    --help | -h) usage && exit 0 ;;
    *) die "unknown option '$1': see --help" 104 ;;
    esac
    shift
done
need jq redis-cli redis-server haproxy
# The same packages as bench.sh, so that nothing is compiled twice.
build release benches wsproxy server client
end_with stacks_down redis
stack_up redis --servers 2 --proxies 2
pid=$(jq -r '.processes[] | select(.name == "redis").pid' "$work/redis.json")
socket=$work/redis/redis.sock
# shellcheck disable=SC2086 # the setting is two words
if [[ -n $setting ]]; then
    [[ $(redis-cli -s "$socket" config set $setting) == OK ]] || die "Redis does not take the setting '$setting'" 104
fi

cpu_ns() { cat "/proc/$pid/task"/*/schedstat | awk '{ sum += $1 } END { printf "%.0f", sum }'; }

# Prints Redis' microseconds per query, while a run with this rate and this length of answers is in its steady state.
per_query() { # RATE TOKENS
    local before after run code=0 query_s
    # As many sessions as queries run at a time, with room: an answer takes 20 ms for each token.
    query_s=$(awk -v tokens="$2" 'BEGIN { print 0.1 + tokens * 0.02 }')
    "$bin/streamstress" run --api-url "$(jq -r .api_url "$work/redis.json")" --wsproxy-url "$(jq -r .ws_url "$work/redis.json")" \
        --output-dir "$work/results" --clients "$(awk -v rate="$1" -v query_s="$query_s" 'BEGIN { print int(200 + 2 * rate * query_s) }')" \
        --arrival queries --arrival-rate "$1" --ramp-up 2s --duration "$((seconds + 8))s" --answer-tokens "$2" --ttft-ms 20 --itl-ms 20 \
        --quiet >"$work/out" 2>&1 &
    run=$!
    sleep 6
    before=$(cpu_ns)
    sleep "$seconds"
    after=$(cpu_ns)
    wait "$run" || code=$?
    ((code == 0)) || die "the run with $1 queries per second ended with $code: $(cat "$work/out")"
    awk -v ns="$((after - before))" -v seconds="$seconds" -v rate="$1" 'BEGIN { printf "%.1f", ns / 1000 / seconds / rate }'
}

echo "| queries per second | Redis, µs per query of one token | of a core |"
echo "|---|---|---|"
for rate in "${rates[@]}"; do
    us=$(per_query "$rate" 1)
    [[ -n ${first:-} ]] || first=$us
    awk -v rate="$rate" -v us="$us" 'BEGIN { printf "| %d | %.0f | %.2f |\n", rate, us, us * rate / 1e6 }'
done
long=$(per_query "${rates[0]}" 21)
awk -v long="$long" -v short="$first" -v rate="${rates[0]}" \
    'BEGIN { printf "\nAt %d queries per second, each further token of an answer takes %.1f µs.\n", rate, (long - short) / 20 }'
