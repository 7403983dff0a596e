#!/usr/bin/env bash
# Checks alerts and dashboards with Debian's Prometheus: promtool checks the rules, every query names a metric that a native stack and a
# load generator expose, Prometheus scrapes both, and the alert about lost tokens fires when a gateway of a stack without a log is killed.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/native.sh

profile=dev
for option; do
    case $option in
    --release) profile=release ;;
    --help | -h) echo "Usage: scripts/observability.sh [--release]" && exit 0 ;;
    *) die "unknown option '$option': see --help" 104 ;;
    esac
done
need jq prometheus promtool redis-server haproxy
readonly FILES=$PWD/docker/observability

promtool check config --syntax-only "$FILES/prometheus.yml"
promtool check rules "$FILES/alerts.yml"
promtool test rules "$FILES/alerts_test.yml"

build "$profile" client
pids=()
# shellcheck disable=SC2317,SC2329 # the trap calls it
cleanup() {
    ((${#pids[@]} == 0)) || kill "${pids[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    stacks_down pubsub
}
end_with cleanup

# Debian's promtool does not know Kubernetes: it checks the rest of this file.
sed '/kubernetes_sd_configs:/,/namespaces:/d' deploy/kubernetes/observability/prometheus.yml >"$work/kubernetes.yml"
promtool check config --syntax-only "$work/kubernetes.yml"

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# Waits at most SECONDS until COMMAND succeeds.
await() { # SECONDS WHAT COMMAND...
    local until=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < until)) || die "$what did not happen in time"
        sleep 0.2
    done
}

# Without a log, what a killed gateway held is lost.
DELIVERY=pubsub stack_up pubsub --proxies 2 --servers 1
port_of() { jq -r --arg name "$1" '.processes[] | select(.name == $name) | .port' "$work/pubsub.json"; }
generator=$(free_port) prometheus=$(free_port)
stats=$(jq -r '.stats_url // empty' "$work/pubsub.json")
stats=${stats#http://} stats=${stats%%/*}
[[ -n $stats ]] || die "the status of the stack does not name HAProxy's statistics: $(cat "$work/pubsub.json")"

cat >"$work/prometheus.yml" <<END
global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}
rule_files: ["$FILES/alerts.yml"]
scrape_configs:
  - {job_name: server, static_configs: [{targets: ["127.0.0.1:$(port_of server-1)"]}]}
  - {job_name: wsproxy, static_configs: [{targets: ["127.0.0.1:$(port_of wsproxy-1)", "127.0.0.1:$(port_of wsproxy-2)"]}]}
  - {job_name: haproxy, static_configs: [{targets: ["$stats"]}]}
  - {job_name: generator, static_configs: [{targets: ["127.0.0.1:$generator"]}]}
END
prometheus --config.file="$work/prometheus.yml" --storage.tsdb.path="$work/tsdb" --web.listen-address="127.0.0.1:$prometheus" \
    --log.level=warn >"$work/prometheus.log" 2>&1 &
pids+=($!)

query() { # QUERY. Prints the values, one per line.
    curl -fsS --max-time 5 --get --data-urlencode "query=$1" "http://127.0.0.1:$prometheus/api/v1/query" | jq -r '.data.result[].value[1]'
}
is() { [[ "$(query "$1")" == "$2" ]]; }
is_above_0() { awk -v value="$(query "$1" | head -n 1)" 'BEGIN { exit !(value + 0 > 0) }'; }

"$bin/streamstress" --api-url "$(jq -r .api_url "$work/pubsub.json")" --wsproxy-url "$(jq -r .ws_url "$work/pubsub.json")" \
    --fault-stack "$work/pubsub" --clients 40 --duration 20s --answer-tokens 40 --itl-ms 25 --query-timeout 4s --fault wsproxy-1:kill@6s \
    --metrics-address "$generator" --otlp http://127.0.0.1:9 --output-dir "$work" --quiet >"$work/run" 2>&1 &
run=$!
await 30 "a scrape of the generator" is_above_0 'streamstress_tokens_received_total'
await 10 "a scrape of all gateways" is 'count(up{job="wsproxy"} == 1)' 2
await 10 "a scrape of the server and HAProxy" is 'count(up{job=~"server|haproxy"} == 1)' 2
[[ -z "$(query 'ALERTS{alertname="TokensLost", alertstate="firing"}')" ]] || die "the alert fires before a token is lost"
await 30 "the alert about lost tokens" is 'ALERTS{alertname="TokensLost", alertstate="firing"}' 1
echo "the alert about lost tokens fired: $(query 'sum(streamstress_tokens_lost_total)') tokens are lost so far"
code=0
wait "$run" || code=$?
((code == 99)) || die "the run that lost tokens ended with $code, expected 99: $(cat "$work/run")"
# A counter with labels has no series before it counts: the last ones come when the sessions close.
await 10 "a scrape of the closed sockets" is_above_0 'sum(wsproxy_closes_total)'
python3 -B scripts/check_dashboards.py "http://127.0.0.1:$prometheus"
base=$(find "$work" -name '*_summary.json' | head -n 1)
"$bin/streamstress" inspect "${base%_summary.json}" broken >"$work/inspected"
grep -q 'socket lost' "$work/inspected" || die "the timeline of a broken query does not show the lost socket: $(cat "$work/inspected")"
echo "inspect shows the lost socket: $(grep -m 1 'socket lost' "$work/inspected" | xargs)"
