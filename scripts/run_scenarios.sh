#!/usr/bin/env bash
# Runs every scenario of scenarios/ in little time, end to end on a native stack, and prints a line each with its verdict.
# Exit code 0 if every run came to a verdict and none was FAIL; INVALID says that this machine was too small, and is shown.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'END_OF_USAGE'
Usage: scripts/run_scenarios.sh [OPTIONS] [SCENARIO...]

  --quick      smaller: a third of the time, and at most 100 sessions; for CI
  --dev        the development profile's programs (built by the tests already) instead of the release ones
  --strict     INVALID counts as a failure as well
  --seed N     of every run (drawn by each otherwise)
  --help       this text

Without a name: all of them, in about five minutes. Times of the schedules are shortened (--time-scale), token delays and
timeouts are not. Results stay in results/scenarios (or OUTPUT_DIR). Needs redis-server, haproxy and jq; loads loopback alone.
END_OF_USAGE
}

die() { echo "run_scenarios: $1" >&2; exit "${2:-1}"; }

quick='' profile=release strict='' seed='' names=()
while (($#)); do
    case $1 in
    --quick) quick=yes ;;
    --dev) profile=dev ;;
    --strict) strict=yes ;;
    --seed) [[ ${2:-} =~ ^[0-9]{1,18}$ ]] || die "--seed takes a number, not '${2:-}'" 104; seed=$2 && shift ;;
    --help | -h) usage && exit 0 ;;
    -*) die "unknown option '$1': see --help" 104 ;;
    *) [[ -f scenarios/$1.toml ]] || die "scenarios/$1.toml is not there" 104; names+=("$1") ;;
    esac
    shift
done
if ((${#names[@]} == 0)); then
    for file in scenarios/*.toml; do names+=("$(basename "$file" .toml)"); done
fi
for program in jq redis-server haproxy; do
    PATH=$PATH:/usr/sbin:/usr/local/sbin command -v "$program" >/dev/null || die "$program is missing: scripts/test.sh installs it"
done

# What makes about half a minute of each.
scale_of() {
    case $1 in
    smoke) echo 0.2 ;;
    load) echo 0.05 ;;
    stress) echo 0.035 ;;
    spike | burst-*) echo 0.1 ;;
    soak) echo 0.002 ;;
    staged) echo 0.025 ;;
    *) echo 0.1 ;;
    esac
}

# The same workloads with fewer people.
smaller() {
    case $1 in
    stress | load) echo --clients 100 ;;
    spike) echo --stages 0s:100,5m:100 ;;
    staged) echo --stages 2m:10,3m:30,3m:60,2m:100,5m:100,2m:50,2m:0 ;;
    burst-poisson) echo --arrival-rate 1 ;;
    burst-gamma) echo --arrival-rate 2 --max-clients 100 ;;
    esac
}

cargo build --profile "$profile" -p stack -p server -p wsproxy -p client
target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
bin=$target/release
[[ $profile == release ]] || bin=$target/debug

work=$(mktemp -d)
results=${OUTPUT_DIR:-results/scenarios}
mkdir -p "$results"
stack() { "$bin/stack" --name "scenarios-$$" "$@"; }
# shellcheck disable=SC2317,SC2329 # the trap calls it
finish() {
    local code=$?
    trap '' INT TERM
    stack down >/dev/null 2>&1 || true
    rm -rf "$work"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

stack up --detach --servers 2 --proxies 2 --api-port 0 --ws-port 0 --stats-port 0 >"$work/up" ||
    die "the stack did not start: $(cat "$work/up")"
status=$(stack status --json)
api=$(jq -r .api_url <<<"$status") ws=$(jq -r .ws_url <<<"$status")

failed=0 invalid=0
for name in "${names[@]}"; do
    scale=$(scale_of "$name") extra=()
    if [[ -n $quick ]]; then
        scale=$(awk "BEGIN { print $scale / 3 }")
        read -ra extra < <(smaller "$name") || true
    fi
    began=$SECONDS code=0
    "$bin/client" --scenario "$name" --time-scale "$scale" --api-url "$api" --wsproxy-url "$ws" --quiet \
        --output-dir "$results" --name "$name" ${seed:+--seed "$seed"} ${extra[@]+"${extra[@]}"} \
        >"$work/run" 2>&1 || code=$?
    printf '%-14s %3d s  %s\n' "$name" $((SECONDS - began)) "$(tail -n 1 "$work/run")"
    case $code in
    0) ;;
    98)
        invalid=$((invalid + 1))
        [[ -z $strict ]] || failed=$((failed + 1))
        ;;
    *)
        failed=$((failed + 1))
        cat "$work/run" >&2
        ;;
    esac
done
((failed == 0)) || die "$failed of ${#names[@]} scenarios failed" 99
echo "${#names[@]} scenarios: $((${#names[@]} - invalid)) PASS, $invalid INVALID (this machine was too busy or too small for their figures)"
