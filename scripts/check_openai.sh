#!/usr/bin/env bash
# Checks the simulator with OpenAI's own Python client, which is installed once from PyPI, in a virtual environment below target/. Skips if it cannot
# be installed. Usage: scripts/check_openai.sh [PROGRAM ARGUMENTS...]   (default: the server of the debug profile, which is built)
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/native.sh

readonly CLIENT='openai[realtime]==3.57.0'
readonly VENV=$PWD/target/openai

if [[ "$(cat "$VENV/installed" 2>/dev/null)" != "$CLIENT" ]]; then
    rm -rf "$VENV"
    if python3 -m venv "$VENV" && "$VENV/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: "$CLIENT"; then
        echo "$CLIENT" >"$VENV/installed"
    else
        echo "skipped: $CLIENT could not be installed from PyPI"
        exit 0
    fi
fi
if (($# == 0)); then
    build dev server
    set -- "$bin/server"
fi
timeout 120 "$VENV/bin/python" scripts/check_openai.py "$@"
