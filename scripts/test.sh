#!/usr/bin/env bash
# Installs what the tests need (redis-server, haproxy, jq, valgrind, prometheus, chromium, linters) and checks everything: format, clippy, docs, dependencies between
# crates, unused dependencies, spelling, workflows, Kubernetes manifests, all tests, OpenAI's Python client against the simulator, the load client against another project's simulator, the installer, alerts and dashboards, instructions of the hot paths, small scenarios, a small fault matrix,
# the examples, and if a container engine is available smoke tests with Compose and Swarm. --quick leaves the last six out. Ends with the
# duration of each step.
set -euo pipefail
cd "$(dirname "$0")/.."

quick=
for option in "$@"; do
    case $option in
    --quick) quick=yes ;;
    --help | -h) echo "Usage: scripts/test.sh [--quick]   (--quick leaves instructions, scenarios, fault matrix, examples and Docker out)" && exit 0 ;;
    *) echo "test: unknown option '$option': see --help" >&2 && exit 2 ;;
    esac
done

# Each step begins with its name. At the end, `finish` lists how long each took.
durations=()
step() { # NAME
    end_step
    current=$* began=$SECONDS
    printf '\n== %s\n' "$*"
}

end_step() {
    if [[ -n ${current:-} ]]; then
        durations+=("$(printf '%6d s  %s' $((SECONDS - began)) "$current")")
        echo "${durations[-1]}"
    fi
    current=''
}

as_root() { if ((EUID == 0)); then "$@"; else sudo "$@"; fi; }

# HAProxy is often in a directory that is on root's PATH alone.
has() { PATH=$PATH:/usr/sbin:/usr/local/sbin command -v "$1" >/dev/null; }

install() { # PACKAGES
    step "installing $* with apt-get"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}

install_missing() {
    local missing=()
    for program in redis-server haproxy jq valgrind prometheus chromium; do has "$program" || missing+=("$program"); done
    if ((${#missing[@]} == 0)); then return; fi
    if ! command -v apt-get >/dev/null; then
        echo "test: ${missing[*]} missing: install them (e.g. dnf install redis haproxy jq valgrind prometheus chromium)" >&2
        exit 1
    fi
    install "${missing[@]}"
    # Debian starts the services that it installs. The tests start their own: stop only those that were installed here.
    for service in "${missing[@]}"; do
        [[ $service != jq && $service != valgrind && $service != chromium ]] || continue
        if command -v systemctl >/dev/null && [[ -d /run/systemd/system ]]; then
            as_root systemctl disable --now "$service" || true
        elif [[ -x /etc/init.d/$service ]]; then
            as_root "/etc/init.d/$service" stop || true
        fi
    done
}

# Linters from PyPI, which has ready-made binaries, and Grafana's types of dashboards. They are installed once, in a virtual environment
# below target/.
readonly LINTERS=(typos==1.52.0 zizmor==1.32.0 check-jsonschema==0.39.0 'grafana-foundation-sdk==1769699379!11.6.0')
# axe-core, which the tests of the page load into the browser. Only its script is needed, and not what the package depends on.
readonly AXE=axe-playwright-python==0.1.8
readonly TOOLS=$PWD/target/linters

install_linters() {
    if [[ "$(cat "$TOOLS/installed" 2>/dev/null)" == "${LINTERS[*]} $AXE" ]]; then return; fi
    step "installing ${LINTERS[*]} $AXE from PyPI"
    rm -rf "$TOOLS"
    local pip=("$TOOLS/bin/pip" install --quiet --disable-pip-version-check --only-binary :all:)
    if python3 -m venv "$TOOLS" && "${pip[@]}" "${LINTERS[@]}" && "${pip[@]}" --no-deps "$AXE"; then
        echo "${LINTERS[*]} $AXE" >"$TOOLS/installed"
    fi
}

lint() { # PROGRAM ARGUMENTS...
    if [[ -x $TOOLS/bin/$1 ]]; then
        "$TOOLS/bin/$1" "${@:2}"
    else
        echo "skipped: $1 could not be installed from PyPI"
    fi
}

# Checks configuration files of GitHub and Compose against the JSON schemas that the linter contains, and dashboards against Grafana's types.
schemas() {
    lint check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
    lint check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
    lint check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/*_*.yml
    lint check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
    lint check-jsonschema --builtin-schema vendor.compose-spec compose.yaml
    lint python scripts/check_dashboard_types.py
}

log=$(mktemp)
results=$(mktemp -d)
finish() {
    local code=$?
    end_step
    printf '\n== duration of each step\n'
    printf '%s\n' "${durations[@]}"
    printf '\n== summary of the test runner\n'
    grep -E 'Summary \[|test result:|^ +(FAIL|TIMEOUT|SIGABRT|SIGSEGV) ' "$log" || echo "no test was run"
    rm -rf "$log" "$results"
    if ((code == 0)); then echo "all checks passed"; else echo "checks failed (exit $code)"; fi
    exit "$code"
}

run_tests() { "$@" 2>&1 | tee -a "$log"; }

# The calibration tests measure time: they run alone, after the rest.
all_tests() {
    if cargo nextest --version >/dev/null 2>&1; then
        run_tests cargo nextest run --workspace --no-fail-fast -E 'not binary(calibration)'
        step "calibration, alone"
        run_tests cargo nextest run --workspace -E 'binary(calibration)' --test-threads 1 --run-ignored all
    else
        run_tests cargo test --workspace --lib --bins --no-fail-fast
        local suites=()
        for suite in */tests/*.rs crates/*/tests/*.rs; do
            if [[ $suite != */calibration.rs ]]; then suites+=(--test "$(basename "$suite" .rs)"); fi
        done
        run_tests cargo test --workspace --no-fail-fast "${suites[@]}"
        step "calibration, alone"
        run_tests cargo test --workspace --test calibration -- --test-threads 1 --include-ignored
    fi
}

instructions() {
    if [[ -n $quick ]]; then
        echo "skipped: --quick"
    else
        scripts/count_instructions.sh
    fi
}

scenarios() {
    if [[ -n $quick ]]; then
        echo "skipped: --quick"
    else
        OUTPUT_DIR=$results/scenarios scripts/run_scenarios.sh --quick --dev --jobs 4
    fi
}

fault_matrix() {
    if [[ -n $quick ]]; then
        echo "skipped: --quick"
    else
        OUTPUT_DIR=$results/matrix scripts/fault_matrix.sh --quick --dev --jobs 4
    fi
}

examples() {
    if [[ -n $quick ]]; then
        echo "skipped: --quick"
    else
        examples/check.sh
    fi
}

# CI allows 90 minutes. On a slow machine the images alone take half an hour, so that they are left out if it is late.
late() { # MINUTES
    if [[ -z ${CI:-} ]] || ((SECONDS < $1 * 60)); then return 1; fi
    echo "skipped: the checks before took $((SECONDS / 60)) minutes, and this one begins after at most $1: run it alone"
}

compose_smoke() {
    if [[ -n $quick ]]; then
        echo "skipped: --quick"
    elif late 50; then
        :
    elif ! docker info >/dev/null 2>&1; then
        echo "skipped: no container engine is available ('docker info' fails)"
    else
        # If images cannot be pulled, base images are made from packages.
        if ! has debootstrap && command -v apt-get >/dev/null; then install debootstrap; fi
        scripts/compose_smoke.sh
    fi
}

swarm_smoke() {
    if [[ -n $quick ]]; then
        echo "skipped: --quick"
    elif late 65; then
        :
    else
        scripts/swarm_smoke.sh
    fi
}

install_missing
install_linters
trap finish EXIT
step "format" && cargo fmt --all --check
step "clippy" && cargo clippy --workspace --all-targets --locked -- -D warnings
# With --examples (there are none), dependencies have the same features as for clippy and are not checked a second time.
step "docs" && RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --lib --bins --examples --locked
step "arrows" && scripts/check_arrows.sh && python3 scripts/check_circles.py
step "unused dependencies" && scripts/check_unused_deps.sh
step "spelling" && lint typos --format brief .
step "workflows" && lint zizmor --quiet --offline .github
step "Kubernetes manifests" && scripts/check_kubernetes.sh
step "schemas" && schemas
if command -v shellcheck >/dev/null; then step "shellcheck" && shellcheck -x scripts/*.sh examples/*.sh install.sh .ci/run; fi
step "doc tests" && run_tests cargo test --workspace --doc
step "tests" && all_tests
step "OpenAI's client against the simulator" && scripts/check_openai.sh
step "the load client against another project's simulator" && scripts/check_llmsim.sh
step "installer" && scripts/check_install.sh
step "alerts and dashboards" && scripts/observability.sh
step "instructions" && instructions
step "scenarios" && scenarios
step "fault matrix" && fault_matrix
step "examples" && examples
step "Compose smoke test" && compose_smoke
step "Swarm smoke test" && swarm_smoke
