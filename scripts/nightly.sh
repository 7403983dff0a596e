#!/usr/bin/env bash
# Runs the suites that take too long for each change. Prints which part failed and how to repeat it.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/native.sh

usage() {
    cat <<'END'
Usage: scripts/nightly.sh [--only PARTS] [--seed N]

  --only PARTS   some of these, separated by commas (all of them by default):
                 matrix       the whole fault matrix: 1,000 sessions per row, release programs
                 scenarios    all scenarios, release programs
                 model        400,000 random histories of the delivery model; a test run has the same 40,000 each time
                 properties   property tests with 4,096 cases instead of 256
                 calibration  the calibration of the load client, five times
                 capacity     searches for the ceiling, also with a throttled generator
  --seed N       the seed of everything that is random (drawn and printed otherwise)
  --help         this text

Exit code 0: all parts passed. Needs redis-server and haproxy, loads only loopback, and takes about two hours.
END
}

all=(matrix scenarios model properties calibration capacity)
parts=("${all[@]}") seed=$((RANDOM * 32768 + RANDOM))
while (($#)); do
    case $1 in
    --only)
        IFS=, read -ra parts <<<"${2:-}"
        ((${#parts[@]})) || die "--only takes parts, separated by commas: see --help" 104
        for part in "${parts[@]}"; do
            [[ " ${all[*]} " == *" $part "* ]] || die "--only takes parts, not '$part': see --help" 104
        done
        shift ;;
    --seed) number "$1" "${2:-}" '[0-9]{1,10}' && seed=$2 && shift ;;
    --help | -h) usage && exit 0 ;;
    *) die "unknown option '$1': see --help" 104 ;;
    esac
    shift
done
need redis-server haproxy

matrix() { scripts/fault_matrix.sh --seed "$seed"; }

scenarios() { scripts/run_scenarios.sh --seed "$seed"; }

# Histories are numbered by their seeds.
model() { MODEL_SEEDS=400000 MODEL_FROM=$((seed * 1000000)) cargo test --release --locked -p bus --test model -- --nocapture; }

properties() { PROPTEST_CASES=4096 PROPTEST_RNG_SEED=$seed cargo test --release --locked --workspace --lib --bins; }

calibration() {
    local run
    for run in 1 2 3 4 5; do
        cargo test --locked -p client --test calibration -- --test-threads 1 --include-ignored || die "run $run of 5 failed"
    done
}

capacity() { cargo test --locked -p client --test capacity -- --test-threads 1 --include-ignored; }

failed=()
for part in "${parts[@]}"; do
    printf '\n== %s, seed %s\n' "$part" "$seed"
    began=$SECONDS
    outcome=passed
    ("$part") || { outcome=failed && failed+=("$part"); }
    echo "$part $outcome after $((SECONDS - began)) s"
done
for part in ${failed[@]+"${failed[@]}"}; do
    echo "nightly: $part failed; repeat it with: scripts/nightly.sh --only $part --seed $seed" >&2
done
((${#failed[@]} == 0)) || exit 1
echo "all passed: ${parts[*]}"
