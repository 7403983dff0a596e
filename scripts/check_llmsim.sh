#!/usr/bin/env bash
# Runs the load client against a simulator of another project, the crate `llmsim`, in all three of OpenAI's dialects: a test against our own simulator
# compares our codec with itself. Skips if llmsim is not installed. Usage: scripts/check_llmsim.sh [PROGRAM]
# (default: the client of the debug profile, which is built)
set -euo pipefail
cd "$(dirname "$0")/.."

llmsim=${LLMSIM:-$(PATH=$PATH:$PWD/target/tools/llmsim/bin:$HOME/.cargo/bin command -v llmsim || true)}
if [[ -z $llmsim ]]; then
    echo "skipped: llmsim is not installed (cargo install --locked llmsim, or LLMSIM=PATH)"
    exit 0
fi
if (($# == 0)); then
    cargo build --quiet --locked --workspace --bin streamstress
    set -- target/debug/streamstress
fi

directory=$(mktemp -d)
servers=()
trap '((${#servers[@]} == 0)) || kill "${servers[@]}" 2>/dev/null || true; rm -rf "$directory"' EXIT

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# Starts llmsim with this configuration, and sets `url`.
serve() { # NAME CONFIGURATION
    local port
    port=$(free_port)
    printf '%s\n' "$2" >"$directory/$1.toml"
    RUST_LOG=warn "$llmsim" serve --config "$directory/$1.toml" --host 127.0.0.1 --port "$port" >"$directory/$1.log" 2>&1 &
    servers+=($!)
    url=http://127.0.0.1:$port/openai/v1
    for _ in {1..100}; do
        if curl --silent --fail --output /dev/null "$url/models"; then return; fi
        sleep 0.1
    done
    echo "check_llmsim: llmsim is not ready after ten seconds:" >&2
    cat "$directory/$1.log" >&2
    exit 1
}

# Runs a dialect, and prints what was counted. Returns the exit code of the client.
run() { # NAME DIALECT OPTIONS...
    local name=$1 dialect=$2 code=0
    "$program" run --dialect "$dialect" --api-url "$url" --model gpt-4o --prompt 'Tell me something.' --clients 20 --queries 3 \
        --ramp-up 0s --query-timeout 30s --quiet --output-dir "$directory" --name "$name" "${@:3}" || code=$?
    jq -r '"  \(.verdict): \(.queries_ok) of \(.queries_total) queries, \(.tokens_received) events with text, \(.tokens_reported) tokens reported, TTFT p50 \(.metrics.ttft_ms.p50 | round) ms"' \
        "$directory/${name}"_*_summary.json
    return "$code"
}

program=$1
echo "$("$llmsim" --version), $("$program" --version)"
serve whole $'[latency]\nttft_mean_ms = 100\nttft_stddev_ms = 10\ntbt_mean_ms = 10\ntbt_stddev_ms = 2\n[response]\ntarget_tokens = 40'
for dialect in openai-chat openai-responses openai-responses-ws; do
    echo "$dialect:"
    run "$dialect" "$dialect"
done

# Every second call is refused with 429, or fails with 500: the client repeats the first kind and counts the second.
serve failing $'[latency]\nprofile = "instant"\n[response]\ntarget_tokens = 10\n[errors]\nrate_limit_rate = 0.2\nserver_error_rate = 0.2'
echo "openai-chat, a fifth of the calls refused and a fifth failing:"
code=0
run failing openai-chat || code=$?
failed=$(jq .queries_error "$directory"/failing_*_summary.json)
if ((code != 99 || failed == 0)); then
    echo "check_llmsim: expected exit code 99 and failed queries, got $code and $failed" >&2
    exit 1
fi
