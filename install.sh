#!/bin/sh
# Installs the program `streamstress` from a release into ~/.local/bin, after it has checked the checksum:
#   curl -fsSL https://github.com/streamstress/streamstress/releases/latest/download/install.sh | sh
# Variables: STREAMSTRESS_VERSION (e.g. 0.2.0; the latest release by default), STREAMSTRESS_INSTALL_DIR,
# STREAMSTRESS_DOWNLOAD_URL (a directory with the files of a release, e.g. a mirror).
set -eu

fail() { echo "install.sh: $1" >&2; exit 1; }

fetch() { # URL FILE
    if command -v curl >/dev/null; then
        curl -fsSL --retry 3 -o "$2" "$1"
    elif command -v wget >/dev/null; then
        wget -q -O "$2" "$1"
    else
        fail "curl or wget is needed: install one of them"
    fi || fail "cannot download $1"
}

# In a function, so that a download of this script that breaks off runs nothing.
main() {
    releases=https://github.com/streamstress/streamstress/releases
    if [ -n "${STREAMSTRESS_VERSION:-}" ]; then
        url=$releases/download/v${STREAMSTRESS_VERSION#v}
    else
        url=$releases/latest/download
    fi
    url=${STREAMSTRESS_DOWNLOAD_URL:-$url}
    bin=${STREAMSTRESS_INSTALL_DIR:-$HOME/.local/bin}

    [ "$(uname -s)" = Linux ] || fail "there are programs for Linux only, this is $(uname -s): build it with cargo, see the README"
    case $(uname -m) in
        x86_64 | amd64) target=x86_64-unknown-linux-gnu ;;
        aarch64 | arm64) target=aarch64-unknown-linux-gnu ;;
        *) fail "there are programs for x86_64 and aarch64, not for $(uname -m): build it with cargo, see the README" ;;
    esac
    name=streamstress-$target

    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    fetch "$url/$name.tar.gz" "$work/$name.tar.gz"
    fetch "$url/SHA256SUMS" "$work/SHA256SUMS"
    grep " $name.tar.gz\$" "$work/SHA256SUMS" >"$work/expected" || fail "$url/SHA256SUMS does not list $name.tar.gz"
    (cd "$work" && sha256sum -c expected >/dev/null 2>&1) ||
        fail "$url/$name.tar.gz does not have the checksum in SHA256SUMS: nothing was installed. Try again"
    tar -xzf "$work/$name.tar.gz" -C "$work"

    mkdir -p "$bin"
    # Beside the old program first, so that the replacement is one step, and works while the old one runs.
    cp "$work/$name/streamstress" "$bin/.streamstress.$$"
    "$bin/.streamstress.$$" --version >"$work/version" 2>&1 || {
        rm -f "$bin/.streamstress.$$"
        fail "the program does not run on this machine: $(cat "$work/version"). Build it with cargo, see the README"
    }
    mv "$bin/.streamstress.$$" "$bin/streamstress"
    echo "installed $(cat "$work/version") as $bin/streamstress"
    case :$PATH: in
        *":$bin:"*) ;;
        *) echo "$bin is not on the PATH: add it, for example with  export PATH=\"$bin:\$PATH\"" ;;
    esac
}

main
