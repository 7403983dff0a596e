#!/usr/bin/env bash
# A CI job that accepts or rejects a streaming backend: ci_gate.sh API_URL WS_URL
#
# Exit code 0: accept. 1: reject, a token was lost or a threshold is broken. 2: no answer, because the measurement is not valid
# (for example on a busy machine) or because the configuration is wrong. Results are written to ./results.
set -euo pipefail

# The load generator. Change this line if it is installed elsewhere.
read -ra load <<<"${STREAMSTRESS:-target/release/streamstress}"

if (($# != 2)); then
    echo "usage: $0 API_URL WS_URL   (for example $0 http://127.0.0.1:8080 ws://127.0.0.1:8081)" >&2
    exit 2
fi

gate() {
    "${load[@]}" --api-url "$1" --wsproxy-url "$2" --quiet \
        --clients 50 --queries 4 --query-timeout 10 \
        --threshold 'error_rate<0.01' 'ttft_ms:p95<500' 'e2el_overhead_ms:p95<500'
}

# 98 means that this run says nothing about the backend. A second run often does.
for attempt in 1 2 3; do
    code=0
    gate "$@" || code=$?
    if ((code != 98)); then break; fi
    echo "attempt $attempt: the measurement is not valid" >&2
done

case $code in
0) echo "accepted" ;;
99) echo "rejected: see the newest file results/*_report.html" && exit 1 ;;
98) echo "no answer: run this job on an idle machine, or with fewer clients" >&2 && exit 2 ;;
104) echo "no answer: the configuration is wrong, see above" >&2 && exit 2 ;;
*) echo "no answer: the load generator ended with exit code $code" >&2 && exit 2 ;;
esac
