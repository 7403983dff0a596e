#!/usr/bin/env bash
# Builds the images, starts the whole Compose stack on free ports, streams through it, scales it, and removes it.
# It uses a project name that no other stack has, and removes that project however it ends.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/native.sh
. scripts/images.sh

readonly CLIENTS=${SMOKE_CLIENTS:-50} QUERIES=${SMOKE_QUERIES:-2}
readonly PROJECT=streamstress-smoke-$$

usage() {
    cat <<USAGE
usage: scripts/compose_smoke.sh

Starts Redis, HAProxy, 2 servers and 3 gateways, and plays loads of $CLIENTS clients × $QUERIES queries: on this stack, from the host while
the gateways are scaled to 5 and to 2, in a sweep over numbers of gateways and deliveries, beside Prometheus, with 5 gateways, while a
gateway is killed and Redis loses its data, and from the host while a server is paused and Redis refuses writes in three ways.
Exit code 0: everything worked, or the test was skipped because no container engine answers or Compose is missing. Any other exit code is a
failure, and the logs are printed.
Environment: SMOKE_CLIENTS, SMOKE_QUERIES, and the variables in .env.example (base images, NOFILE, CARGO_BUILD_JOBS).
If base images cannot be pulled, docker/make_base_images.sh makes them, which needs root.
USAGE
}

say() { printf '── %s\n' "$*"; }
skip() { printf 'compose_smoke: skipped, %s\n' "$*"; exit 0; }

case "${1:-}" in
    '') ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac

docker info >/dev/null 2>&1 || skip "no engine answers 'docker info'"
if docker compose version >/dev/null 2>&1; then
    compose=(docker compose -p "$PROJECT")
elif command -v docker-compose >/dev/null; then
    compose=(docker-compose -p "$PROJECT")
else
    skip "neither docker compose nor docker-compose is installed"
fi

work=$(mktemp -d)
export RESULTS_DIR=$work/results
mkdir "$RESULTS_DIR"

tear_down() {
    local status=$?
    trap '' INT TERM
    if [[ $status != 0 ]]; then
        COMPOSE_PROFILES=obs "${compose[@]}" ps || true
        COMPOSE_PROFILES=obs "${compose[@]}" logs --no-color --tail=40 || true
    fi
    say "removing the stack"
    # `down` leaves containers of an interrupted `run`, and they hold its network.
    docker ps -aq --filter "label=com.docker.compose.project=$PROJECT" --filter label=com.docker.compose.oneoff=True |
        xargs -r docker rm -f >/dev/null
    COMPOSE_PROFILES=load,obs "${compose[@]}" down -v --remove-orphans --timeout 10 >/dev/null 2>&1 || status=1
    rm -rf "$work"
    if [[ -n $(docker ps -aq --filter "label=com.docker.compose.project=$PROJECT") ]]; then
        printf 'compose_smoke: containers of %s are left\n' "$PROJECT" >&2
        status=1
    fi
    if [[ -n ${failure:-} ]]; then echo "$failure" >&2; fi
    exit "$status"
}

# Prints a free port below the ephemeral range, so that no outgoing connection takes it meanwhile.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    echo "$port"
}

containers() { docker ps -q --filter "label=com.docker.compose.project=$PROJECT" --filter "label=com.docker.compose.service=$1"; }

# Waits until a service has COUNT containers and all of them are healthy, for at most two minutes.
await_healthy() { # service count
    local deadline=$((SECONDS + 120)) ids states=none
    while ((SECONDS < deadline)); do
        ids=$(containers "$1")
        # shellcheck disable=SC2086 # one argument per id
        states=$([[ -z $ids ]] || docker inspect --format '{{.State.Health.Status}}' $ids | sort | uniq -c | xargs)
        [[ $states == "$2 healthy" ]] && return
        sleep 0.5
    done
    die "$1: expected $2 healthy containers, found ${states:-none} after two minutes"
}

http_get() { # port path
    exec 3<>"/dev/tcp/127.0.0.1/$1" || return 1
    printf 'GET %s HTTP/1.0\r\n\r\n' "$2" >&3
    cat <&3
    exec 3>&-
}

# Prints a column of HAProxy's statistics for the gateways that are up.
gateways() { # column
    # HAProxy sends its statistics in chunks. sed removes the chunk headers.
    http_get "$STATS_PORT" '/;csv' | sed -z 's/\r\n[0-9a-fA-F]\+\r\n//g' | awk -F, -v want="$1" '
        /^# pxname/ { for (i = 1; i <= NF; i++) column[$i] = i }
        $1 == "ws" && $2 ~ /^wsproxy/ && $column["status"] ~ /^UP/ { print $column[want] }'
}

await_gateways() { # count
    local deadline=$((SECONDS + 30)) up=none
    while ((SECONDS < deadline)); do
        up=$(gateways status | wc -l)
        ((up == $1)) && return
        sleep 0.5
    done
    die "HAProxy reports $up gateways as up after 30 seconds, expected $1"
}

# Runs the client as a container. INVALID (98) is accepted if all queries are ok: latencies do not matter here.
run_load() { # OPTIONS of `run`
    local status=0 newest
    "${compose[@]}" run --rm -T -e "STREAMSTRESS_CLIENTS=$CLIENTS" -e "STREAMSTRESS_QUERIES=$QUERIES" "$@" client || status=$?
    if ((status == 98)); then
        newest=$(find "$RESULTS_DIR" -name '*_summary.json' | sort | tail -n 1)
        grep -Eqs "\"queries_ok\": *$((CLIENTS * QUERIES))," "$newest" && status=0
    fi
    ((status == 0)) || die "the client ended with exit code $status"
}

check_hardening() {
    local service id user addresses
    for service in server wsproxy redis haproxy; do
        for id in $(containers "$service"); do
            user=$(docker exec "$id" id -u)
            [[ $user != 0 ]] || die "$service runs as root"
        done
    done
    addresses=$(docker ps -q --filter "label=com.docker.compose.project=$PROJECT" |
        xargs docker inspect --format '{{range .NetworkSettings.Ports}}{{range .}}{{.HostIp}} {{end}}{{end}}' | xargs -n1 | sort -u)
    if [[ -z $addresses ]] || grep -qv '^127\.' <<<"$addresses"; then die "ports are published on: $addresses"; fi
    id=$(containers server | head -n 1)
    [[ $(docker exec "$id" stat -c '%a %u' /run/streamstress/jwt_secret) == "400 10001" ]] || die "the secret's file is open to others"
}

# Checks that a client on the host finds all published ports of the gateways.
check_published_ports() {
    local plan address
    plan=$("$bin/streamstress" --dry-run --clients 20 --queries 1 \
        --api-url "http://127.0.0.1:$API_PORT" --wsproxy-url "ws://127.0.0.1:$WS_PORT")
    for address in 127.0.0.{1,2,3,4}; do
        [[ $plan == *"$address:$WS_PORT"* ]] || die "the client does not find the published port $address:$WS_PORT: $plan"
    done
}

# Prints a number of the summary of the only run in a directory.
summary_number() { # directory key
    grep -Eho "^ *\"$2\": *[0-9]+" "$1"/*_summary.json | head -n 1 | grep -Eo '[0-9]+$'
}

# Scales the gateways from 3 to 5 and then to 2 while clients on the host stream through HAProxy. Sessions of the gateways that leave
# continue on others, and no token may be lost, duplicated or reordered.
scale_during_a_run() {
    local results=$work/scaled status=0 key
    mkdir "$results"
    STREAMSTRESS_ANSWER_TOKENS=80 STREAMSTRESS_ITL_MS=50 "$bin/streamstress" --clients "$CLIENTS" --queries 8 --ramp-up 8s \
        --api-url "http://127.0.0.1:$API_PORT" --wsproxy-url "ws://127.0.0.1:$WS_PORT" --output-dir "$results" \
        --fault-stack "compose:$PROJECT" --fault wsproxy:scale=5@2s --fault wsproxy:scale=2@14s || status=$?
    ((status == 0 || status == 98)) || die "the client ended with exit code $status"
    (($(grep -Eo '"outcome": *"injected"' "$results"/*_summary.json | wc -l) == 2)) || die "the gateways were not scaled twice"
    (($(summary_number "$results" queries_ok) == CLIENTS * 8)) || die "queries failed while the gateways were scaled"
    for key in tokens_lost tokens_duplicated tokens_reordered; do
        (($(summary_number "$results" "$key") == 0)) || die "$key is not 0 after the gateways were scaled"
    done
    (($(summary_number "$results" total_successful_reconnects) > 0)) || die "no session moved to another gateway"
    await_gateways 2
}

# Sweeps over numbers of gateways and both deliveries. Afterwards the stack has its two gateways and its delivery again.
sweep_the_stack() {
    local results=$work/swept status=0 before after
    before=$(delivery)
    "$bin/streamstress" sweep --compose="$PROJECT" --vary wsproxy=1,3 --vary delivery=pubsub,log --repeat 1 \
        --clients 20 --queries 2 --output-dir "$results" >"$work/sweep.log" 2>&1 || status=$?
    cat "$work/sweep.log"
    ((status == 0 || status == 98)) || die "the sweep ended with exit code $status"
    (($(grep -Ec '"queries_ok": *40,' "$results"/*/*_summary.json | grep -c ':[1-9]') == 4)) || die "not all 4 runs are complete"
    (($(grep -Ehc '"gateway delivery": *"pubsub"|"delivery": *"pubsub"' "$results"/*/*_summary.json | grep -vc '^0$') == 2)) ||
        die "not 2 of 4 runs used pubsub"
    await_healthy wsproxy 2
    await_gateways 2
    after=$(delivery)
    [[ $before == "$after" ]] || die "after the sweep the gateways have '$after' instead of '$before'"
}

# Prints the variable DELIVERY of a gateway, if it has one.
delivery() {
    docker inspect --format '{{range .Config.Env}}{{println .}}{{end}}' "$(containers wsproxy | head -n 1)" | grep ^DELIVERY= || true
}

# Starts Prometheus of the profile `obs`. It must find every server, every gateway and HAProxy, and evaluate every alert.
watch_with_prometheus() { # expected targets
    local deadline=$((SECONDS + 90)) alerts found='' healthy=''
    "${compose[@]}" up -d --no-build --no-deps prometheus
    alerts=$(grep -c '^ *- alert:' docker/observability/alerts.yml)
    while ((SECONDS < deadline)); do
        found=$(http_get "$PROMETHEUS_PORT" '/api/v1/query?query=count(up%3D%3D1)' 2>/dev/null | grep -Eo '"[0-9]+"\]' | grep -Eo '[0-9]+' || true)
        healthy=$(http_get "$PROMETHEUS_PORT" '/api/v1/rules?type=alert' 2>/dev/null | grep -o '"health":"ok"' | wc -l || true)
        [[ $found == "$1" && $healthy == "$alerts" ]] && return
        sleep 1
    done
    die "Prometheus scrapes ${found:-no} targets and evaluates ${healthy:-no} alerts, expected $1 and $alerts"
}

# Injects faults from a client on the host: one of two servers is paused while the first queries end, then Redis refuses writes in
# three ways. No token may be lost, and only queries of the paused server may be excused.
break_by_plan() {
    local results=$work/broken status=0 summary excused
    mkdir "$results"
    STREAMSTRESS_ANSWER_TOKENS=80 STREAMSTRESS_ITL_MS=50 STREAMSTRESS_RAMP_UP=0.2 "$bin/streamstress" --clients "$CLIENTS" --queries 4 \
        --api-url "http://127.0.0.1:$API_PORT" --wsproxy-url "ws://127.0.0.1:$WS_PORT" --output-dir "$results" \
        --fault-stack "compose:$PROJECT" --fault server-1:pause=800ms@3600ms \
        --fault redis:refuse=500ms@6s --fault redis:demote=1s@9s --fault redis:full=1s@13s || status=$?
    ((status == 0 || status == 98)) || die "the client ended with exit code $status"
    summary=$(cat "$results"/*_summary.json)
    (($(grep -Eo '"outcome": *"injected"' <<<"$summary" | wc -l) == 4)) || die "not all faults were injected"
    grep -Eq "\"queries_ok\": *$((CLIENTS * 4))," <<<"$summary" || die "queries failed while faults were injected"
    grep -Eq '"tokens_lost": *0,' <<<"$summary" || die "tokens were lost while faults were injected"
    excused=$(grep -Eo '"queries_simulator_excused": *[0-9]+' <<<"$summary" | grep -Eo '[0-9]+$')
    # With few clients, all of them can be on one server.
    if ((CLIENTS >= 30 && (excused == 0 || excused * 10 > CLIENTS * 9))); then
        die "$excused of $CLIENTS queries were excused while one of two servers stood still"
    fi
}

trap tear_down EXIT
trap 'exit 130' INT TERM

choose_base_images
choose_descriptors
export API_PORT WS_PORT STATS_PORT PROMETHEUS_PORT
API_PORT=$(free_port) WS_PORT=$(free_port) STATS_PORT=$(free_port) PROMETHEUS_PORT=$(free_port)

say "building the images"
if ! COMPOSE_PROFILES=load "${compose[@]}" build >"$work/build.log" 2>&1; then
    tail -n 60 "$work/build.log" >&2
    die "the images do not build"
fi

say "starting: API $API_PORT, WebSockets $WS_PORT, statistics $STATS_PORT"
"${compose[@]}" up -d --no-build
await_healthy redis 1
await_healthy server 2
await_healthy wsproxy 3
await_healthy haproxy 1
await_gateways 3
check_hardening
if command -v cargo >/dev/null; then
    build dev client
    check_published_ports
fi

say "$CLIENTS clients × $QUERIES queries"
run_load
find "$RESULTS_DIR" -name '*.csv' | grep -q . || die "the client left no CSV"
[[ -z $(find "$RESULTS_DIR" ! -user "$(stat -c %U "$RESULTS_DIR")") ]] || die "results do not belong to their folder's owner"

if command -v cargo >/dev/null; then
    say "gateways are scaled from 3 to 5 and to 2 during a run"
    scale_during_a_run
    say "a sweep over numbers of gateways and deliveries"
    sweep_the_stack
fi

say "Prometheus finds the stack"
watch_with_prometheus "$(($(containers server | wc -l) + $(containers wsproxy | wc -l) + 1))"

say "the same load on five gateways"
"${compose[@]}" up -d --no-build --scale wsproxy=5
await_healthy wsproxy 5
await_gateways 5
run_load -e OUTPUT_DIR=/results/again
compgen -G "$RESULTS_DIR/again/*.csv" >/dev/null || die "the client ignored OUTPUT_DIR"
idle=$(gateways stot | grep -cx 0 || true)
((idle == 0)) || die "$idle of 5 proxies carried no socket"

if command -v cargo >/dev/null; then
    say "streams of eight seconds, while a gateway is killed and Redis restarts without its data"
    run_load -e STREAMSTRESS_ANSWER_TOKENS=80 -e STREAMSTRESS_ITL_MS=100 &
    load=$!
    deadline=$((SECONDS + 60))
    until (($(gateways scur | awk '{ n += $1 } END { print n + 0 }') >= CLIENTS)); do
        ((SECONDS < deadline)) || die "the client opened no sockets"
        sleep 0.2
    done
    "$bin/streamstress" stack fault --compose="$PROJECT" wsproxy-1:kill redis:restart=empty
    wait "$load" || die "the run with faults failed"

    say "the gateway starts again, a server is paused, and Redis refuses writes"
    "$bin/streamstress" stack fault --compose="$PROJECT" wsproxy-1:start
    break_by_plan
fi
say "passed"
