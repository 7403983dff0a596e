#!/usr/bin/env bash
# Makes this host a Swarm of one node, starts the stack of deploy/swarm, streams through both of its HAProxies, and removes everything.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/native.sh
. scripts/images.sh

readonly CLIENTS=${SMOKE_CLIENTS:-500} QUERIES=${SMOKE_QUERIES:-2}
readonly STACK=streamstress-smoke JOB=streamstress-smoke-load NETWORK=streamstress SECRET=streamstress_jwt_secret

usage() {
    cat <<USAGE
usage: scripts/swarm_smoke.sh

Starts Redis, 2 HAProxies, 2 servers and 3 gateways, and runs $CLIENTS clients × $QUERIES queries in a container of their network.
Exit code 0: everything worked, or the test was skipped because no container engine answers, its client cannot read the files, or the host
is in a Swarm already. Any other exit code is a failure.
Environment: SMOKE_CLIENTS, SMOKE_QUERIES, and the variables in .env.example (base images, NOFILE, CARGO_BUILD_JOBS).
USAGE
}

say() { printf '── %s\n' "$*"; }
skip() { printf 'SKIPPED: the Swarm stack was not tested: %s\n' "$*"; exit 0; }

case "${1:-}" in
    '') ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac

docker info >/dev/null 2>&1 || skip "no engine answers 'docker info'"
docker stack config --help >/dev/null 2>&1 || skip "the docker client has no 'docker stack config'"
if [[ $(docker info --format '{{.Swarm.LocalNodeState}}') != inactive ]] && docker stack ls --format '{{.Name}}' 2>/dev/null | grep -qx "$STACK"; then
    echo "swarm_smoke: an earlier run was cut off and left its Swarm: 'docker swarm leave --force' removes it" >&2
    exit 1
fi
[[ $(docker info --format '{{.Swarm.LocalNodeState}}') == inactive ]] || skip "this host is in a Swarm already"

containers() { # SERVICE
    docker ps -q --filter "label=com.docker.swarm.service.name=${STACK}_$1"
}

# `docker swarm leave` removes services, networks, configs and secrets, but no container that has ended, and no volume.
tear_down() {
    local status=$? left deadline
    trap '' INT TERM
    if [[ $status != 0 ]]; then
        docker service ls || true
        docker stack ps --no-trunc "$STACK" || true
        for service in haproxy server wsproxy redis control; do docker service logs --raw --tail 20 "${STACK}_$service" || true; done
    fi
    say "removing the stack"
    docker stack rm "$STACK" >/dev/null 2>&1 || status=1
    deadline=$((SECONDS + 60))
    while [[ -n $(docker ps -q --filter "label=com.docker.stack.namespace=$STACK") ]] && ((SECONDS < deadline)); do sleep 0.5; done
    docker swarm leave --force >/dev/null || status=1
    for namespace in "$STACK" "$JOB"; do
        docker ps -aq --filter "label=com.docker.stack.namespace=$namespace" | xargs -r docker rm -f -v >/dev/null
        docker volume ls -q --filter "label=com.docker.stack.namespace=$namespace" | xargs -r docker volume rm >/dev/null
    done
    [[ $had_bridge == yes ]] || docker network rm docker_gwbridge >/dev/null 2>&1 || true
    rm -rf "$work"
    left=$(docker ps -aq --filter "label=com.docker.stack.namespace=$STACK"; docker network ls -q --filter "name=^$NETWORK$")
    if [[ -n $left ]]; then
        echo "swarm_smoke: left: $left" >&2
        status=1
    fi
    if [[ -n ${failure:-} ]]; then echo "$failure" >&2; fi
    exit "$status"
}

# Prints HAProxy's statistics, without the headers of the chunks in which it sends them. Prints nothing if HAProxy does not listen yet.
statistics() { # CONTAINER
    { docker exec "$1" bash -c 'exec 3<>/dev/tcp/127.0.0.1/8404 && printf "GET /;csv HTTP/1.0\r\n\r\n" >&3 && cat <&3' 2>/dev/null || true; } |
        sed -z 's/\r\n[0-9a-fA-F]\+\r\n//g'
}

# Prints a column of HAProxy's statistics for the instances of a backend that are up.
column() { # CONTAINER BACKEND COLUMN
    statistics "$1" | awk -F, -v backend="$2" -v want="$3" '
        /^# pxname/ { for (i = 1; i <= NF; i++) column[$i] = i }
        $1 == backend && $2 != "BACKEND" && $column["status"] ~ /^UP/ { print $column[want] }'
}

# Waits until two HAProxies report two servers and three gateways as up, for at most two minutes.
await_stack() {
    local deadline=$((SECONDS + 120)) state='' id
    while ((SECONDS < deadline)); do
        state=''
        for id in $(containers haproxy); do
            state+="$(column "$id" api status | wc -l) servers, $(column "$id" ws status | wc -l) gateways; "
        done
        [[ $state == "2 servers, 3 gateways; 2 servers, 3 gateways; " ]] && return
        sleep 0.5
    done
    die "after two minutes the HAProxies report '$state', expected two with 2 servers and 3 gateways each"
}

# Checks what the generators' network reaches: HAProxy and the control Redis, but not the bus.
check_networks() {
    local open
    # shellcheck disable=SC2016 # the shell in the container expands it
    open=$(docker run --rm --network "$NETWORK" --entrypoint bash streamstress-client -c '
        for target in haproxy/8080 control/6379 redis/6379 wsproxy/4040 server/8000; do
            if (exec 3<>"/dev/tcp/$target") 2>/dev/null; then echo "$target"; fi
        done')
    [[ $open == $'haproxy/8080\ncontrol/6379' ]] || die "a generator reaches: $open"
}

check_hardening() {
    local service id
    for service in server wsproxy redis control haproxy; do
        for id in $(containers "$service"); do
            [[ $(docker exec "$id" id -u) != 0 ]] || die "$service runs as root"
            if docker exec "$id" sh -c ': >/etc/x' 2>/dev/null; then die "$service can write to its image"; fi
        done
    done
    id=$(containers server | head -n 1)
    [[ $(docker exec "$id" stat -c '%a %u' /run/secrets/jwt_secret) == "400 10001" ]] || die "the secret's file is open to others"
}

# Prints a figure of the last result.
figure() { # KEY
    jq -s --arg key "$1" 'last | [.. | objects | .[$key] // empty] | first' "$work"/results/*_summary.json
}

# Runs the client as a container, with sockets through all HAProxies. INVALID (98) is accepted if all queries are ok: latencies do not
# matter here.
run_load() { # OPTIONS of `run`
    local status=0 ok id address arguments=(--i-am-allowed-to-load-test haproxy --api-url http://haproxy:8080)
    for id in $(containers haproxy); do
        address=$(docker inspect --format "{{(index .NetworkSettings.Networks \"$NETWORK\").IPAddress}}" "$id")
        arguments+=(--wsproxy-url "ws://$address:8081" --i-am-allowed-to-load-test "$address")
    done
    docker run --rm --network "$NETWORK" --ulimit "nofile=${NOFILE:-65536}" --user 0:0 --volume "$work/results:/results" \
        streamstress-client "${arguments[@]}" "$@" || status=$?
    ((status == 0 || status == 98)) || die "the client ended with exit code $status"
    ok=$(figure queries_ok)
    ((ok == CLIENTS * QUERIES)) || die "$ok of $((CLIENTS * QUERIES)) queries were ok"
}

# Replaces all gateways one by one while each session streams. Each gateway that leaves makes its clients reconnect.
replace_gateways() {
    local load deadline=$((SECONDS + 60)) id sockets=0
    run_load --clients "$CLIENTS" --queries "$QUERIES" --answer-tokens 300 --itl-ms 100 &
    load=$!
    until ((sockets >= CLIENTS)); do
        ((SECONDS < deadline)) || die "the client opened $sockets of $CLIENTS sockets"
        sleep 0.5
        sockets=0
        for id in $(containers haproxy); do
            sockets=$(column "$id" ws scur | awk -v n="$sockets" '{ n += $1 } END { print n + 0 }')
        done
    done
    docker service update --quiet --force --detach=false "${STACK}_wsproxy" >/dev/null
    wait "$load" || die "the run failed"
    (($(figure total_successful_reconnects) > 0)) || die "no client had to reconnect"
    (($(figure tokens_lost) == 0)) || die "$(figure tokens_lost) tokens were lost"
}

# Runs a job of four generators, which meet at the control Redis, and merges their results.
run_job() {
    local deadline=$((SECONDS + 180)) state='' status=0
    docker run --rm streamstress-client run --on swarm --generators 4 --run-id smoke --clients "$CLIENTS" --queries "$QUERIES" >"$work/job.yaml"
    docker stack deploy --resolve-image never -c "$work/job.yaml" "$JOB" 2>&1 | grep -v detach
    until [[ $state == '0/4 (4/4 completed)' ]]; do
        ((SECONDS < deadline)) || die "after three minutes the job is '$state': $(docker service logs --raw --no-task-ids --tail 20 "${JOB}_generator" 2>&1)"
        sleep 0.5
        state=$(docker service ls --filter "name=${JOB}_generator" --format '{{.Replicas}}')
    done
    docker run --rm --network "$NETWORK" --user 0:0 --volume "$work/results:/results" \
        streamstress-client merge --control redis://control:6379 --run-id smoke --output-dir /results || status=$?
    ((status == 0 || status == 98)) || die "the merged verdict has exit code $status"
    (($(figure queries_ok) == CLIENTS * QUERIES)) || die "$(figure queries_ok) of $((CLIENTS * QUERIES)) queries of the job were ok"
    [[ $(jq -s 'last.generators | length' "$work"/results/*_summary.json) == 4 ]] || die "the result does not have four generators"
    docker stack rm "$JOB" >/dev/null
}

need jq
say "checking the files"
RUN_ID=check docker stack config -c deploy/swarm/generators.yaml >/dev/null
docker stack config -c deploy/swarm/stack.yaml >/dev/null
choose_base_images
choose_descriptors
say "building the images"
work=$(mktemp -d)
mkdir "$work/results"
for part in server wsproxy client; do
    arguments=()
    for variable in RUST_IMAGE RUNTIME_IMAGE CARGO_BUILD_JOBS RELEASE_OPT_LEVEL; do
        [[ -z ${!variable:-} ]] || arguments+=(--build-arg "$variable=${!variable}")
    done
    docker build --quiet --file docker/Dockerfile --target "$part" --tag "streamstress-$part" "${arguments[@]}" . >"$work/build" 2>&1 ||
        die "the image streamstress-$part does not build: $(tail -n 40 "$work/build")"
done

had_bridge=$(docker network inspect docker_gwbridge >/dev/null 2>&1 && echo yes || echo no)
trap tear_down EXIT
trap 'exit 130' INT TERM
say "starting a Swarm with one node, and the stack"
docker swarm init --listen-addr 127.0.0.1:2377 --advertise-addr 127.0.0.1 >/dev/null
head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' | docker secret create "$SECRET" - >/dev/null
export SERVER_IMAGE=streamstress-server WSPROXY_IMAGE=streamstress-wsproxy CLIENT_IMAGE=streamstress-client HAPROXIES=2
docker stack deploy --resolve-image never -c deploy/swarm/stack.yaml "$STACK" 2>&1 | grep -v detach
await_stack
check_networks
check_hardening

say "$CLIENTS clients × $QUERIES queries"
run_load --clients "$CLIENTS" --queries "$QUERIES"
for id in $(containers haproxy); do
    sockets=$(column "$id" ws stot | awk '{ n += $1 } END { print n + 0 }')
    ((sockets > 0)) || die "one HAProxy carried no socket"
done
say "the same as a job of four generators"
run_job
say "the same, while all gateways are replaced"
replace_gateways
say "passed"
