#!/usr/bin/env bash
# Makes the base images on a host that cannot pull images, from Debian packages and the Rust toolchain of this host.
# It pushes and pulls no images. It prints the variables that make Compose use the new images.
set -euo pipefail

readonly SUITE=${DEBIAN_SUITE:-bookworm}
readonly PREFIX=${BASE_IMAGE_PREFIX:-streamstress-base}

usage() {
    cat >&2 <<USAGE
usage: sudo docker/make_base_images.sh [--force] > base-images.env

Makes $PREFIX/debian, $PREFIX/redis, $PREFIX/haproxy, $PREFIX/prometheus and
$PREFIX/rust, and prints the variables that compose.yaml takes them from. Append them to .env, or for one shell:

    set -a; eval "\$(sudo docker/make_base_images.sh)"; set +a

Existing images are kept; --force makes all of them again.
Environment: DEBIAN_SUITE ($SUITE), DEBIAN_MIRROR (debootstrap's own), BASE_IMAGE_PREFIX ($PREFIX).
USAGE
}

say() { printf '%s\n' "$*" >&2; }
die() { say "make_base_images: $*"; exit 1; }

force=no
case "${1:-}" in
    --force) force=yes ;;
    --help | -h) usage; exit 0 ;;
    '') ;;
    *) usage; exit 2 ;;
esac

need() { command -v "$1" >/dev/null || die "$1 is not installed: $2"; }
need docker "it builds the images"
docker info >/dev/null 2>&1 || die "'docker info' failed: start Docker, or run this as a user that may use it"

work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT

# Prints the path of the certificates that this host trusts. Containers need them to reach the same package sources.
host_ca_bundle() {
    local bundle
    for bundle in "${CARGO_HTTP_CAINFO:-}" "${SSL_CERT_FILE:-}" \
        /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
        if [[ -n $bundle && -r $bundle ]]; then
            printf '%s\n' "$bundle"
            return
        fi
    done
}

# Returns whether the image exists and was made from the same source.
is_made() { # IMAGE SOURCE
    [[ $force == no ]] && [[ $(docker image inspect --format '{{index .Config.Labels "streamstress.made-from"}}' "$1" 2>/dev/null) == "$2" ]]
}

made() { say "$1: $(docker image inspect --format '{{.Size}}' "$1" | awk '{printf "%.0f MB", $1 / 1e6}')"; }

make_debian() {
    local image=$PREFIX/debian root=$work/debian bundle
    if is_made "$image" "$SUITE"; then
        say "$image: kept"
        return
    fi
    need debootstrap "apt-get install debootstrap"
    [[ $(id -u) == 0 ]] || die "debootstrap makes device files: run this as root"
    say "$image: debootstrap $SUITE, a minute or two"
    debootstrap --variant=minbase "$SUITE" "$root" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} >"$work/debootstrap.log" 2>&1 || {
        tail -n 20 "$work/debootstrap.log" >&2
        die "debootstrap $SUITE failed: does this host reach a Debian mirror? set DEBIAN_MIRROR to yours"
    }
    bundle=$(host_ca_bundle)
    if [[ -n $bundle ]]; then
        install -D -m 644 "$bundle" "$root/etc/ssl/certs/ca-certificates.crt"
    fi
    # The official slim images omit these files, too.
    rm -rf "$root"/usr/share/{doc,info,locale,man}/* "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/*.log
    printf 'path-exclude /usr/share/%s/*\n' doc info locale man >"$root/etc/dpkg/dpkg.cfg.d/slim"
    tar -C "$root" --numeric-owner --one-file-system -c . |
        docker import --change 'CMD ["bash"]' --change "LABEL streamstress.made-from=$SUITE" - "$image" >/dev/null
    made "$image"
}

# Makes an image of Debian with one more package. It runs as the unprivileged user of that package.
make_packaged() { # NAME PACKAGE USER [LINES OF THE DOCKERFILE]
    local image=$PREFIX/$1 package=$2 user=$3 more=${4:-} parent
    parent=$(docker image inspect --format '{{.Id}}' "$PREFIX/debian")
    if is_made "$image" "$parent"; then
        say "$image: kept"
        return
    fi
    say "$image: package $package"
    docker build --quiet --label "streamstress.made-from=$parent" --tag "$image" - >/dev/null <<DOCKERFILE
FROM $PREFIX/debian
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $package \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
$more
USER $user
DOCKERFILE
    made "$image"
}

# Makes an image with a C compiler from Debian and Rust from this host, because Rust in Debian is too old.
make_rust() {
    local image=$PREFIX/rust sysroot version parent bundle from
    need rustc "install Rust from https://rustup.rs"
    sysroot=$(rustc --print sysroot)
    version=$(rustc --version)
    [[ -x $sysroot/bin/cargo ]] || die "no cargo in $sysroot: only a toolchain in its own directory, as rustup installs it, can be copied"
    parent=$(docker image inspect --format '{{.Id}}' "$PREFIX/debian")
    from="$version on $parent"
    if is_made "$image" "$from"; then
        say "$image: kept"
        return
    fi
    say "$image: $version"
    mkdir -p "$work/rust/etc" "$work/rust/cargo"
    bundle=$(host_ca_bundle)
    if [[ -n $bundle ]]; then
        cp "$bundle" "$work/rust/etc/ca-certificates.crt"
    fi
    # The configuration tells cargo from where to download crates. Credentials are in another file, which is not copied.
    local config=${CARGO_HOME:-$HOME/.cargo}/config.toml
    if [[ -r $config ]]; then
        grep -viE '^[[:space:]]*(token|secret-key|rustc-wrapper|linker|target-dir)[[:space:]]*=' "$config" >"$work/rust/cargo/config.toml" || true
    fi
    cat >"$work/rust/Dockerfile" <<DOCKERFILE
FROM $PREFIX/debian
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
COPY etc/ /etc/ssl/certs/
COPY cargo/ /usr/local/cargo/
COPY bin/ /usr/local/rust/bin/
COPY lib/ /usr/local/rust/lib/
ENV PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin CARGO_HOME=/usr/local/cargo
${bundle:+ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt CARGO_HTTP_CAINFO=/etc/ssl/certs/ca-certificates.crt}
RUN cargo --version && cc --version
DOCKERFILE
    tar -c -C "$work/rust" Dockerfile etc cargo -C "$sysroot" --exclude=lib/rustlib/src bin/cargo bin/rustc lib |
        docker build --quiet --label "streamstress.made-from=$from" --tag "$image" - >/dev/null
    made "$image"
}

make_debian
make_packaged redis redis-server redis
make_packaged haproxy haproxy haproxy
make_packaged prometheus prometheus prometheus 'RUN install -d -o prometheus /prometheus
ENTRYPOINT ["prometheus"]'
make_rust

cat <<ENV
RUST_IMAGE=$PREFIX/rust
RUNTIME_IMAGE=$PREFIX/debian
REDIS_IMAGE=$PREFIX/redis
HAPROXY_IMAGE=$PREFIX/haproxy
PROMETHEUS_IMAGE=$PREFIX/prometheus
ENV
# Such a host often has a low limit of descriptors, and Docker refuses a container with a higher limit than its own.
hard=$(ulimit -Hn)
if [[ $hard != unlimited ]] && ((hard < 65536)); then
    echo "NOFILE=$hard"
fi
