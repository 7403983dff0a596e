# shellcheck shell=bash
# Functions for scripts that use native stacks: build the programs, start stacks, and remove everything at the end.

# Keeps the message in `failure`, because logs that follow may hide it.
failure=''
die() { failure="$(basename "$0" .sh): $1"; echo "$failure" >&2; exit "${2:-1}"; }

number() { # FLAG VALUE [PATTERN]
    local pattern=${3:-'[1-9][0-9]{0,5}'}
    [[ ${2:-} =~ ^($pattern)$ ]] || die "$1 takes a number, not '${2:-}'" 104
}

# HAProxy is often in a directory that is on root's PATH alone.
need() { # PROGRAM...
    local program
    for program; do
        PATH=$PATH:/usr/sbin:/usr/local/sbin command -v "$program" >/dev/null ||
            die "$program is missing: scripts/test.sh installs it"
    done
}

# Afterwards the programs are in $bin. For the profile `dev` they are those that the tests build: with fewer packages, dependencies
# would have other features and be compiled again.
build() { # PROFILE PACKAGE...
    local profile=$1
    shift
    if [[ $profile == dev ]]; then
        cargo build --workspace --bins --tests --locked
    else
        cargo build --profile "$profile" "${@/#/-p}"
    fi
    bin=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/${profile/#dev/debug}
}

# Builds and runs `streamstress-bench`. --dev selects the development profile.
exec_bench() { # COMMAND ARGUMENTS...
    local profile=release argument arguments=()
    for argument; do
        if [[ $argument == --dev ]]; then profile=dev; else arguments+=("$argument"); fi
    done
    build "$profile" client benches
    exec "$bin/streamstress-bench" "${arguments[@]}"
}

# Creates the directory $work. However the script ends, runs COMMAND and removes $work. The script fails if
# COMMAND fails.
end_with() { # COMMAND...
    work=$(mktemp -d)
    ending=("$@")
    trap finish EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

# shellcheck disable=SC2317,SC2329 # the trap calls it
finish() {
    local code=$?
    trap '' INT TERM
    "${ending[@]}" || code=$?
    rm -rf "$work"
    exit "$code"
}

# Starts a stack on free ports. Afterwards $work/NAME has its state, and $work/NAME.json its status.
stack_up() { # NAME OPTIONS...
    "$bin/streamstress" stack --state-dir "$work/$1" up --detach --api-port 0 --ws-port 0 --stats-port 0 "${@:2}" >"$work/up" ||
        die "the stack did not start: $(cat "$work/up")"
    "$bin/streamstress" stack --state-dir "$work/$1" status --json >"$work/$1.json"
}

stacks_down() { # NAME...
    local name
    for name; do "$bin/streamstress" stack --state-dir "$work/$name" down >/dev/null 2>&1 || true; done
}
