#!/usr/bin/env bash
# Measures the gateway, the load client and the stack, and their peers. Builds, runs all variants in turns, prints medians with their
# spread and the resource use, and compares them with benches/baseline.json. No figure makes the script fail.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/native.sh

usage() {
    cat <<'END'
Usage: scripts/bench.sh [OPTIONS]

  --only SUITES       suites to run, separated by commas (default: all but rivals):
                      parts    parts of the data path, with Criterion, which keeps its own results and baselines
                      gateway  CPU time per token, memory per connection and latency at 40,000 tokens/s over 2,000
                               connections, and at the rate that nchan carries
                      connect  sockets opened per second, direct and through HAProxy
                      client   CPU time and memory of our load client and its peers with 1,000 clients
                      search   the highest clean load of one gateway, direct
                      stack    the highest clean load through HAProxy, over unix sockets and over TCP
                      idle     CPU time of two servers, three gateways, Redis and HAProxy without load
                      rivals   this gateway, tokio-tungstenite, nchan, Sockudo, durable-streams and s2 lite: cost, and what is
                               lost when the gateway is killed (not among the default suites)
                      scaling  20,000 tokens/s over 100 connections, up to as many as the descriptors allow
                      knee     latency against load, beyond what is clean: direct and through HAProxy
  --runs N            runs of each variant (3)
  --quick             one short run of each variant, to see that everything works; its figures are not reliable
  --write-baseline    put the medians into benches/baseline.json
  --help              this text

nchan, tsung, k6 and the rivals are measured if they are on the PATH. The end of the output names those that are missing.
Records go to results/bench_*.json. A run whose generator was late is INVALID and counts in no median.
END
}

default=(parts gateway connect client search stack idle scaling knee)
all=("${default[@]}" rivals)
suites=("${default[@]}") runs=3 quick='' write=''
while (($#)); do
    case $1 in
    --only)
        IFS=, read -ra suites <<<"${2:-}"
        for suite in "${suites[@]}"; do
            [[ " ${all[*]} " == *" $suite "* ]] || die "unknown suite '$suite' for --only: see --help" 104
        done
        shift ;;
    --runs) number "$1" "${2:-}" '[1-9][0-9]?' && runs=$2 && shift ;;
    --quick) quick=yes ;;
    --write-baseline) write=yes ;;
    --help | -h) usage && exit 0 ;;
    *) die "unknown option '$1': see --help" 104 ;;
    esac
    shift
done
if [[ -n $quick ]]; then runs=1; fi
need jq
left_out=()
has_nchan() {
    (PATH=$PATH:/usr/sbin command -v nginx && compgen -G '/usr/lib*/nginx/modules/ngx_nchan_module.so') >/dev/null
}
has_nchan || left_out+=("nchan (apt-get install nginx-light libnginx-mod-nchan)")
clients=(ours)
for peer in tsung k6; do
    if command -v "$peer" >/dev/null; then clients+=("$peer"); fi
done
[[ " ${clients[*]} " == *" tsung "* ]] || left_out+=("tsung (apt-get install tsung)")
[[ " ${clients[*]} " == *" k6 "* ]] || left_out+=("k6 (grafana.com/docs/k6/latest/set-up/install-k6)")
rivals=(wsproxy tungstenite)
has_nchan && rivals+=(nchan)
if [[ " ${suites[*]} " == *" rivals "* ]]; then
    if command -v sockudo >/dev/null; then
        rivals+=(sockudo)
        if compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || command -v postgres >/dev/null; then
            rivals+=(sockudo-postgres)
        else
            left_out+=("sockudo with PostgreSQL (apt-get install postgresql)")
        fi
    else
        left_out+=("sockudo (cargo install sockudo --features postgres)")
    fi
    if command -v durable-streams-server >/dev/null; then rivals+=(durable-streams); else left_out+=("durable-streams (cargo install durable-streams)"); fi
    if command -v s2 >/dev/null; then rivals+=(s2); else left_out+=("s2 lite (cargo install s2-cli)"); fi
fi
build release benches wsproxy server client
end_with report
count=0

# Runs the load program once and keeps its record.
bench() { # OPTIONS
    local file code=0
    printf -v file '%s/%04d.json' "$work" $((count += 1))
    echo "bench $*" >&2
    "$bin/streamstress-bench" "$@" >"$file" || code=$?
    case $code in 0 | 98) ;; *) rm -f "$file"; echo "bench: this run failed with exit code $code and is left out" >&2 ;; esac
}

# Prints the tables of all runs so far, also after an interruption.
report() {
    compgen -G "$work/*.json" >/dev/null || return 0
    local records options missing
    mkdir -p results
    records=results/bench_$(date +%Y%m%d_%H%M%S).json
    # The last record may be incomplete.
    for file in "$work"/*.json; do jq -e .suite "$file" >/dev/null 2>&1 || rm -f "$file"; done
    jq -s . "$work"/*.json >"$records"
    options=(--commit "$(git describe --always --dirty)")
    if [[ -f benches/baseline.json ]]; then options+=(--baseline benches/baseline.json); fi
    if [[ -n $write ]]; then options+=(--write-baseline benches/baseline.json); fi
    "$bin/streamstress-bench" table "${options[@]}" "$records"
    echo "records: $records" >&2
    if ((${#left_out[@]})); then
        printf -v missing '; %s' "${left_out[@]}"
        echo "peers left out: ${missing#; }" >&2
    fi
}

gateway() {
    local time=(--warm-up 2 --duration 10)
    if [[ -n $quick ]]; then time=(--warm-up 1 --duration 3); fi
    for options in '' '--way unix' '--gateway tungstenite-small' '--gateway tungstenite-default'; do
        # shellcheck disable=SC2086 # options are words
        bench gateway $options "${time[@]}"
    done
    if has_nchan; then beside_nchan; fi
}

# Tokens per second of one connection, from the rate of the other gateways down to what nchan carries.
nchan_rates=(20 10 5 2.5)

# Measures nchan and wsproxy at the same rates, in separate tables, down to the highest rate that nchan carries.
beside_nchan() {
    local rate number
    for rate in "${nchan_rates[@]}"; do
        for options in '' --tcp-hops '--gateway nchan-nostore' '--gateway nchan'; do
            # shellcheck disable=SC2086 # options are words
            bench gateway $options --per-connection "$rate" "${time[@]}"
            as_suite "gateway at $(jq -n "2000 * $rate") tokens/s" "$count" .
        done
        printf -v number %04d "$count"
        if jq -e '.verdict == "clean"' "$work/$number.json" >/dev/null 2>&1; then break; fi
    done
    nchan_rates=("$rate")
}

connect() {
    for way in tcp unix haproxy; do bench connect --way "$way"; done
}

# Merging takes some seconds to settle.
search_time=(--warm-up 5 --duration 6)
if [[ -n $quick ]]; then search_time=(--warm-up 1 --duration 3 --step 40000 --within 20000); fi

search() {
    bench search "${search_time[@]}"
    bench search "${search_time[@]}" --coalesce-ms 0
    bench search "${search_time[@]}" --gateway tungstenite-small
}

parts() {
    if ((run > 1)); then return; fi
    local options=()
    if [[ -n $quick ]]; then options=(-- --warm-up-time 0.2 --measurement-time 0.5 --sample-size 10); fi
    cargo bench -p benches --bench parts "${options[@]}" >&2
}

client() {
    local time=(--warm-up 2 --duration 10)
    if [[ -n $quick ]]; then time=(--warm-up 1 --duration 3); fi
    for peer in "${clients[@]}"; do bench client --client "$peer" "${time[@]}"; done
}

stack() {
    bench search "${search_time[@]}" --way haproxy
    bench search "${search_time[@]}" --way haproxy --coalesce-ms 0
    bench search "${search_time[@]}" --way haproxy --coalesce-ms 0 --tcp-hops
}

idle() {
    bench idle --servers 2 --gateways 3 --way haproxy --duration "$([[ -n $quick ]] && echo 3 || echo 15)"
}

# All rivals in turns, first their cost, then what their clients miss after a kill.
rivals() {
    local rival kill time=()
    if [[ -n $quick ]]; then time=(--connections 100 --warm-up 1 --duration 6 --kill-at 2); fi
    for kill in '' --kill; do
        for rival in "${rivals[@]}"; do
            # shellcheck disable=SC2086 # an empty option is none
            bench rivals --rival "$rival" $kill "${time[@]}"
        done
    done
}

scaling() {
    local most connections last=$count
    # A gateway needs about two hundred descriptors in addition to its sockets.
    most=$(($(ulimit -Hn | sed 's/unlimited/19300/') - 300))
    if ((most > 19000)); then most=19000; fi
    for connections in 100 300 1000 3000 "$most"; do
        bench gateway --connections "$connections" --per-connection "$(jq -n "20000 / $connections")" \
            --warm-up "$([[ -n $quick ]] && echo 1 || echo 2)" --duration "$([[ -n $quick ]] && echo 3 || echo 10)"
    done
    for ((last++; last <= count; last++)); do
        as_suite scaling "$last" '.variant = (.figures[0].value | tostring) + " connections"'
    done
}

knee() {
    local way last=$count
    for way in tcp haproxy; do
        for connections in 1000 2000 2500 3000 4000 5000; do
            bench gateway --way "$way" --connections "$connections" \
                --warm-up "$([[ -n $quick ]] && echo 1 || echo 5)" --duration "$([[ -n $quick ]] && echo 2 || echo 6)"
        done
    done
    for ((last++; last <= count; last++)); do
        as_suite knee "$last" '.variant = (.figures[1].value | tostring) + " tokens/s, " + (.variant | ltrimstr("wsproxy over "))'
    done
}

# Moves the record of run NUMBER into the table of another suite.
as_suite() { # SUITE NUMBER FILTER
    local file
    printf -v file '%s/%04d.json' "$work" "$2"
    if [[ -f $file ]]; then
        jq --arg suite "$1" '.suite = $suite | '"$3" "$file" >"$file.new" && mv "$file.new" "$file"
    fi
}

# The variants run in turns, so that disturbances of the machine affect all of them.
for suite in "${suites[@]}"; do
    for ((run = 1; run <= runs; run++)); do "$suite"; done
done
