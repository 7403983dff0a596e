#!/usr/bin/env bash
# Runs everything in this directory: a load test must find that the naive gateway loses tokens, the minimal gateway must pass,
# also while connections are cut, and the client must survive the loss of its socket. Takes about half a minute.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/native.sh

venv=$PWD/target/examples
python=$venv/bin/python

# How the programs are called: change it here only.
load() { "$bin/streamstress" "$@"; }
server() { exec "$bin/streamstress" server "$@"; }
export_load() { export STREAMSTRESS="$bin/streamstress"; }

install_python_packages() {
    if cmp -s examples/requirements.txt "$venv/installed"; then return; fi
    rm -rf "$venv"
    if ! { python3 -m venv "$venv" && "$python" -m pip install --quiet --disable-pip-version-check -r examples/requirements.txt; }; then
        echo "check: skipped, the packages in examples/requirements.txt cannot be installed"
        exit 0
    fi
    cp examples/requirements.txt "$venv/installed"
}

started=()
start() { # NAME COMMAND...: runs in the background, with its output in $work/NAME.log
    "${@:2}" >"$work/$1.log" 2>&1 &
    started+=($!)
}

# shellcheck disable=SC2317,SC2329 # end_with calls it
stop_all() {
    local pid
    for pid in ${started[@]+"${started[@]}"}; do kill "$pid" 2>/dev/null || true; done
    wait
}

port_of() { # NAME: prints the port once the program listens, within 20 s
    local port
    for _ in {1..200}; do
        port=$(sed -nE 's/.*listening on (port |[0-9.]+:)([0-9]+).*/\2/p' "$work/$1.log" | head -n 1)
        if [[ -n $port ]]; then echo "$port" && return; fi
        sleep 0.1
    done
    cat "$work/$1.log" >&2
    die "$1 does not listen"
}

wait_until_ready() { # waits until the server has its connection to Redis, at most 20 s
    for _ in {1..200}; do
        if (server --health-check) >/dev/null 2>&1; then return; fi
        sleep 0.1
    done
    cat "$work/server.log" >&2
    die "the server is not ready"
}

expect() { # CODE WHAT COMMAND...: a run that is not a valid measurement (98) is repeated twice
    local code
    for _ in 1 2 3; do
        code=0
        "${@:3}" >"$work/output" 2>&1 || code=$?
        if ((code != 98)); then break; fi
    done
    if ((code != $1)); then
        cat "$work/output" >&2
        die "$2: exit code $code instead of $1"
    fi
    echo "ok: $2 (exit code $code)"
}

need redis-server python3 jq
install_python_packages
build dev client
end_with stop_all
export_load

JWT_SECRET=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
export JWT_SECRET OUTPUT_DIR=$work/results HOST=127.0.0.1 PORT=0
start redis redis-server --port 0 --unixsocket "$work/redis" --save '' --appendonly no
REDIS_URL=redis+unix://$work/redis start server server
REDIS_URL=unix://$work/redis start naive "$python" examples/naive_gateway.py
REDIS_URL=unix://$work/redis start minimal "$python" examples/minimal_gateway.py
api=http://127.0.0.1:$(port_of server)
naive=ws://127.0.0.1:$(port_of naive)
minimal=ws://127.0.0.1:$(port_of minimal)
PORT=${api##*:} wait_until_ready
unset HOST PORT

expect 99 "the load test finds the loss of the naive gateway" \
    load --api-url "$api" --wsproxy-url "$naive" --clients 50 --queries 2 --query-timeout 5 --name naive
jq -e '.verdict == "FAIL" and .tokens_lost > 0' "$work"/results/naive_*_summary.json >/dev/null ||
    die "the naive gateway: the verdict is not FAIL, or no token was lost"
expect 0 "the minimal gateway passes while clients lose their connections" \
    load --api-url "$api" --wsproxy-url "$minimal" --clients 50 --queries 4 --cut-rate 0.3 --query-timeout 10 --name minimal
start targets "$python" examples/targets/server.py --port 0
start cutting "$python" examples/targets/server.py --port 0 --cut-after 5
for kind in websocket sse json_lines; do
    expect 0 "$kind.toml describes the server" \
        load target check "examples/targets/$kind.toml" --api-url "http://127.0.0.1:$(port_of targets)"
done
for kind in websocket sse; do
    expect 0 "a run with $kind.toml resumes answers whose connection breaks" \
        load --target "examples/targets/$kind.toml" --api-url "http://127.0.0.1:$(port_of cutting)" --clients 20 --queries 2 --name "$kind"
done
expect 1 "the CI gate rejects the naive gateway" examples/ci_gate.sh "$api" "$naive"
expect 0 "the CI gate accepts the minimal gateway" examples/ci_gate.sh "$api" "$minimal"
expect 0 "the client resumes" "$python" examples/resuming_client.py --api "$api" --ws "$minimal" --cut-after 5
grep -q '^19 events, complete: True' "$work/output" || die "the client's answer is not complete: $(cat "$work/output")"
sed -nE '/^.{3}python$/,/^.{3}$/{//d;p}' docs/gateway.md >"$work/digest.py"
grep -q xxh3_64 "$work/digest.py" || die "docs/gateway.md has no example of a digest"
expect 0 "the digest in docs/gateway.md is right" "$python" "$work/digest.py"
