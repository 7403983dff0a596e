#!/usr/bin/env bash
# Runs every scenario of scenarios/ in little time, end to end on a native stack, and prints a line each with its verdict.
# Exit code 0 if none was FAIL. INVALID says that this machine was too busy or too small for figures; it is shown, and still
# every query has to be accounted for, every token to have come, and every threshold to hold.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/native.sh

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

quick='' profile=release strict='' seed='' names=()
while (($#)); do
    case $1 in
    --quick) quick=yes ;;
    --dev) profile=dev ;;
    --strict) strict=yes ;;
    --seed) number "$1" "${2:-}" '[0-9]{1,18}' && seed=$2 && shift ;;
    --help | -h) usage && exit 0 ;;
    -*) die "unknown option '$1': see --help" 104 ;;
    *) [[ -f scenarios/$1.toml ]] || die "scenarios/$1.toml is not there" 104; names+=("$1") ;;
    esac
    shift
done
if ((${#names[@]} == 0)); then
    for file in scenarios/*.toml; do names+=("$(basename "$file" .toml)"); done
fi
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

# Rates grow where times shrink: here arrivals come half as fast as that, a spike's users within a second as ever, and with
# --quick there are fewer people everywhere.
fewer() {
    case ${quick:+quick-}$1 in
    spike) echo --stages 10s:500,5m:500 ;;
    burst-poisson) echo --arrival-rate 2.5 ;;
    burst-gamma) echo --arrival-rate 5 ;;
    quick-stress) echo --clients 100 --spawn-rate 2 ;;
    quick-load) echo --clients 100 ;;
    quick-spike) echo --stages 30s:100,5m:100 ;;
    quick-staged) echo --stages 2m:10,3m:30,3m:60,2m:100,5m:100,2m:50,2m:0 ;;
    quick-burst-poisson) echo --arrival-rate 0.3 ;;
    quick-burst-gamma) echo --arrival-rate 0.6 --max-clients 100 ;;
    esac
}

need jq redis-server haproxy
build "$profile" client
results=${OUTPUT_DIR:-results/scenarios}
mkdir -p "$results"
end_with stacks_down stack
stack_up stack --servers 2 --proxies 2

# What holds of a run whose figures nobody trusts.
accounted='
    .queries_total > 0 and (.thresholds | all(.ok)) and .tokens_expected == .tokens_received and .queries_total ==
    .queries_ok + .queries_incomplete + .queries_timeout + .queries_error + .queries_rejected + .queries_abandoned'

failed=0 invalid=0
for name in "${names[@]}"; do
    scale=$(scale_of "$name")
    if [[ -n $quick ]]; then
        scale=$(awk "BEGIN { print $scale / 3 }")
    fi
    read -ra extra < <(fewer "$name") || true
    began=$SECONDS code=0
    "$bin/streamstress" --scenario "$name" --time-scale "$scale" --api-url "$api" --wsproxy-url "$ws" --quiet \
        --fault-stack "$work/stack" --output-dir "$results" --name "$name" ${seed:+--seed "$seed"} ${extra[@]+"${extra[@]}"} \
        >"$work/run" 2>&1 || code=$?
    printf '%-14s %3d s  %s\n' "$name" $((SECONDS - began)) "$(tail -n 1 "$work/run")"
    case $code in
    0) ;;
    98)
        invalid=$((invalid + 1))
        summary=$(find "$results" -name "${name}_*_summary.json" | sort | tail -n 1)
        if [[ -n $strict ]]; then
            failed=$((failed + 1))
        elif ! jq -e "$accounted" "$summary" >/dev/null; then
            failed=$((failed + 1))
            echo "run_scenarios: $name is not only INVALID: not every query and token is accounted for in $summary" >&2
        fi
        ;;
    *)
        failed=$((failed + 1))
        cat "$work/run" >&2
        ;;
    esac
done
((failed == 0)) || die "$failed of ${#names[@]} scenarios failed" 99
echo "${#names[@]} scenarios: $((${#names[@]} - invalid)) PASS, $invalid INVALID (this machine was too busy or too small for their figures)"
