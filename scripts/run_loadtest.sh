#!/usr/bin/env bash
# Starts a stack, runs the load client against it, analyses the results, and stops the stack.
# Returns the exit code of the client: 0 pass, 99 fail, 98 invalid, 104 bad configuration, 105 interrupted.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'END'
Usage: scripts/run_loadtest.sh [OPTIONS] [-- CLIENT OPTIONS]

  --clients N             concurrent clients (100)
  --queries N             queries of each client (10)
  --wsproxy-instances N   gateways (3)
  --server-instances N    LLM simulators (2)
  --haproxy-instances N   load balancers, all of which the client uses (1)
  --server-workers N      workers of each simulator (default of the simulator)
  --native                plain processes with the host's redis-server and haproxy, instead of Docker
  --in-docker             run the client as a container too: better for large runs against Docker
  --build                 build the images first
  --up-only               start the stack and leave it running
  --keep                  leave the stack running after the run
  --down                  stop a running stack
  --logs                  print the logs of a running stack
  --help                  this text

Options after -- are passed to the client, e.g. -- --burst --query-timeout 60 (see: cargo run --release -p client -- run --help).
The Compose stack publishes the WebSocket port on 127.0.0.1 to 127.0.0.4; the client finds these addresses and spreads its sockets
over them.
The stack reads the environment: JWT_SECRET, TOKEN_DELAY_MS, ... API_PORT, WS_PORT and STATS_PORT (8080, 8081, 8404) set its ports.
With several HAProxies, these are the ports of the first one. Native: those of each other are 10 above the previous ones. Docker: they
follow each other, from 8100, 8200 and 8300 by default.
STREAMSTRESS_API_URL and STREAMSTRESS_WSPROXY_URL set another target for the client.
END
}

die() {
    echo "run_loadtest: $1" >&2
    exit "${2:-1}"
}

clients=100 queries=10 proxies=3 servers=2 haproxies=1 workers=''
native='' in_docker='' build='' keep='' action=run
client_options=()

number() { # FLAG VALUE MAX
    [[ ${2:-} =~ ^[1-9][0-9]{0,6}$ && $2 -le $3 ]] || die "$1 takes a number from 1 to $3, not '${2:-}'" 104
}

while (($#)); do
    case $1 in
    --clients) number "$1" "${2:-}" 1000000 && clients=$2 && shift ;;
    --queries) number "$1" "${2:-}" 1000000 && queries=$2 && shift ;;
    --wsproxy-instances) number "$1" "${2:-}" 64 && proxies=$2 && shift ;;
    --server-instances) number "$1" "${2:-}" 64 && servers=$2 && shift ;;
    --haproxy-instances) number "$1" "${2:-}" 16 && haproxies=$2 && shift ;;
    --server-workers) number "$1" "${2:-}" 256 && workers=$2 && shift ;;
    --native) native=yes ;;
    --in-docker) in_docker=yes ;;
    --build) build=yes ;;
    --keep) keep=yes ;;
    --up-only) action=up ;;
    --down) action=down ;;
    --logs) action=logs ;;
    --help | -h) usage && exit 0 ;;
    --)
        shift
        client_options=("$@")
        break
        ;;
    *) die "unknown option '$1': see --help; options of the client go after --" 104 ;;
    esac
    shift
done
[[ -z $native || -z $in_docker ]] || die "--in-docker and --native exclude each other: omit one of them" 104

target() { cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/'; }

compose() {
    if docker compose version >/dev/null 2>&1; then
        docker compose "$@"
    elif command -v docker-compose >/dev/null; then
        docker-compose "$@"
    else
        die "neither 'docker compose' nor 'docker-compose' is installed: install one, or use --native"
    fi
}

# Prints the response to GET http://127.0.0.1:PORT/PATH, or nothing if it fails.
get() { # PORT PATH
    (
        exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 0
        printf 'GET %s HTTP/1.0\r\n\r\n' "$2" >&3
        timeout 2 cat <&3
    ) 2>/dev/null || true
}

# Ports of the first HAProxy, with Docker and with native processes. Each of the others has ports that are `step` above.
api_port=${API_PORT:-8080} ws_port=${WS_PORT:-8081} stats_port=${STATS_PORT:-8404} step=10
if [[ -z $native ]] && ((haproxies > 1)); then
    # Docker gives each container of a service a port of a range.
    api_port=${API_PORT:-8100} ws_port=${WS_PORT:-8200} stats_port=${STATS_PORT:-8300} step=1
    api_port=${api_port%%-*} ws_port=${ws_port%%-*} stats_port=${stats_port%%-*}
    for port in api_port ws_port stats_port; do
        number "${port^^}" "${!port}" 65000
        export "${port^^}=${!port}-$((${!port} + haproxies - 1))"
    done
fi
# Prints the port of each HAProxy.
ports() { # FIRST
    seq "$1" "$step" $(($1 + step * (haproxies - 1)))
}
# Prints a URL for each address and each HAProxy, separated by commas.
urls() { # SCHEME FIRST_PORT ADDRESS...
    local scheme=$1 first=$2 address
    shift 2
    for address; do ports "$first" | sed "s|^|$scheme://$address:|"; done | paste -sd,
}
# Each address of a port of Docker has a proxy that carries a few thousand WebSockets. If there is one HAProxy, the client finds them.
addresses=(127.0.0.1)
if [[ -z $native ]] && ((haproxies > 1)); then addresses+=(127.0.0.2 127.0.0.3 127.0.0.4); fi
# API_URL, WSPROXY_URL and OUTPUT_DIR are older names.
export STREAMSTRESS_API_URL=${STREAMSTRESS_API_URL:-${API_URL:-$(urls http "$api_port" 127.0.0.1)}}
export STREAMSTRESS_WSPROXY_URL=${STREAMSTRESS_WSPROXY_URL:-${WSPROXY_URL:-$(urls ws "$ws_port" "${addresses[@]}")}}

# Prints the addresses to which an HAProxy sends. Its number of instances is not enough: until it learns from DNS that a container was
# replaced, it counts the old one.
sends_to() { # STATS_PORT
    # HAProxy sends its statistics in chunks. sed removes the chunk headers.
    get "$1" '/;csv' | sed -z 's/\r\n[0-9a-fA-F]\+\r\n//g' | awk -F, '
        $1 == "# pxname" { for (i = 1; i <= NF; i++) column[$i] = i }
        $2 != "FRONTEND" && $2 != "BACKEND" && $column["status"] ~ /^UP/ { print $column["addr"] }' | sort | xargs
}

# Prints the addresses of the containers of servers and gateways.
instances() {
    local service port
    while read -r service port; do
        compose ps -q "$service" | xargs -r docker inspect \
            --format "{{range .NetworkSettings.Networks}}{{if .IPAddress}}{{.IPAddress}}:$port{{end}}{{end}}"
    done <<<$'server 8000\nwsproxy 4040' | sort | xargs
}

docker_up() {
    docker info >/dev/null 2>&1 || die "'docker info' failed: start Docker, or use --native"
    if [[ -n $build ]]; then compose build; fi
    if [[ -n $workers ]]; then export SERVER_WORKERS=$workers; fi
    # Docker refuses a container with a higher limit of descriptors than its own.
    local hard
    hard=$(ulimit -Hn)
    if [[ -z ${NOFILE:-} && $hard != unlimited ]] && ((hard < 65536)) && ! grep -qs '^NOFILE=' .env; then
        export NOFILE=$hard
    fi
    compose up -d --scale "wsproxy=$proxies" --scale "server=$servers" --scale "haproxy=$haproxies" ||
        die "the stack did not start. If images cannot be pulled, run: sudo docker/make_base_images.sh >> .env"
    echo "waiting until $servers servers and $proxies gateways are ready"
    local wanted second port waiting=''
    for ((second = 0; second < 120; second++)); do
        # A container can disappear between the list and the look at it, and one that is down has no address.
        wanted=$(instances) || wanted=''
        waiting=''
        for port in $(ports "$stats_port"); do
            [[ $(sends_to "$port") == "$wanted" ]] || waiting=$port
        done
        if [[ -z $waiting ]] && (($(wc -w <<<"$wanted") == servers + proxies)); then return; fi
        sleep 1
    done
    waiting=${waiting:-$stats_port}
    compose ps
    compose logs --tail=20
    die "not ready after two minutes: the HAProxy whose statistics are at port $waiting sends to '$(sends_to "$waiting")', the containers that run have '$wanted', \
expected $servers servers and $proxies gateways. An HAProxy that was started by an older version shows no addresses: restart it"
}

up() {
    if [[ -n $native ]]; then
        "$bin/streamstress" stack up --detach --servers "$servers" --proxies "$proxies" --haproxy-instances "$haproxies" ${workers:+--server-workers "$workers"} \
            --api-port "$api_port" --ws-port "$ws_port" --stats-port "$stats_port"
    else
        docker_up
    fi
}

down() {
    if [[ -n $native ]]; then "$bin/streamstress" stack down; else compose down; fi
}

logs() {
    if [[ -n $native ]]; then "$bin/streamstress" stack logs; else compose logs --tail=50; fi
}

joined() { # WORD...
    printf '%s\n' "$@" | paste -sd,
}

run_client() {
    local options=(--clients "$clients" --queries "$queries" ${client_options[@]+"${client_options[@]}"})
    if [[ -n $in_docker ]] && ((haproxies > 1)); then
        # Names the containers, because the name of the service selects any of them. Without --no-deps, Compose would reset their number.
        local names name api=() ws=()
        names=$(compose ps -q haproxy | xargs docker inspect --format '{{.Name}}')
        for name in $names; do
            api+=("http://${name#/}:8080") ws+=("ws://${name#/}:8081")
        done
        compose --profile load run --rm --no-deps -e "STREAMSTRESS_API_URL=$(joined "${api[@]}")" \
            -e "STREAMSTRESS_WSPROXY_URL=$(joined "${ws[@]}")" \
            -e "STREAMSTRESS_I_AM_ALLOWED_TO_LOAD_TEST=$(tr -d / <<<"$names" | paste -sd,)" client "${options[@]}"
    elif [[ -n $in_docker ]]; then
        compose --profile load run --rm client "${options[@]}"
    else
        "$bin/streamstress" "${options[@]}"
    fi
}

# Analyses the newest CSV of queries that was written after the file MARK.
analyze_since() { # MARK
    local newest results=${STREAMSTRESS_OUTPUT_DIR:-${OUTPUT_DIR:-results}}
    if [[ -n $in_docker ]]; then results=${RESULTS_DIR:-results}; fi
    newest=$(find "$results" -name '*.csv' -newer "$1" ! -name '*_stats.csv' ! -name '*_history.csv' ! -name '*_failures.csv' \
        ! -name '*_resources.csv' ! -name '*_health.csv' 2>/dev/null | sort | tail -n 1)
    if [[ -n $newest ]]; then scripts/analyze_results.sh "$newest"; fi
}

if [[ -n $native || ($action == run && -z $in_docker) ]]; then
    command -v cargo >/dev/null || die "cargo is missing: install Rust from https://rustup.rs"
    # `cargo install --profile dist` has compiled everything, if it was used.
    profile=dist bin=$(target)/dist
    if [[ ! -x $bin/streamstress ]]; then profile=release bin=$(target)/release; fi
    if [[ $action == run || $action == up ]]; then cargo build --profile "$profile" -p client; fi
    [[ -z $native || -x $bin/streamstress ]] || die "$bin/streamstress is missing: no native stack was started from this directory"
fi

case $action in
up)
    up
    exit
    ;;
down)
    down
    exit
    ;;
logs)
    logs
    exit
    ;;
esac

mark=$(mktemp)
# shellcheck disable=SC2317 # the trap calls it
finish() {
    local code=$?
    trap '' INT TERM
    rm -f "$mark"
    if [[ -n ${started:-} && -z $keep ]]; then down || true; fi
    exit "$code"
}
trap finish EXIT
# On Ctrl+C the client ends the run and writes its results first. The script then continues to its end.
trap 'interrupted=yes' INT
trap 'exit 143' TERM

if [[ -z $native ]]; then
    if [[ -n $(compose ps -q 2>/dev/null) ]]; then
        echo "the stack is already running, and keeps running after the run"
        keep=yes
    fi
    started=yes
fi
up
started=yes
[[ -z ${interrupted:-} ]] || exit 130
code=0
run_client || code=$?
analyze_since "$mark" || true
exit "$code"
