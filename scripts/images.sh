# shellcheck shell=bash
# Functions for scripts that build our images. They need `say`.

# These scripts test the images and measure nothing.
export RELEASE_OPT_LEVEL=${RELEASE_OPT_LEVEL:-1}

# Selects the base images: those that variables name, else the public ones, else images that are made here.
choose_base_images() {
    if [[ -n ${RUST_IMAGE:-} ]]; then
        return
    fi
    # Compose reads .env, `docker build` and `docker stack` do not.
    if grep -qs '^RUST_IMAGE=' .env; then
        set -a
        eval "$(grep -E '^((RUST|RUNTIME|REDIS|HAPROXY|PROMETHEUS)_IMAGE|NOFILE)=[A-Za-z0-9_./:@-]*$' .env)"
        set +a
        return
    fi
    if timeout 60 docker pull -q redis:7-bookworm >/dev/null 2>&1; then
        return
    fi
    say "no image can be pulled: making the base images"
    local made
    made=$(docker/make_base_images.sh)
    set -a
    eval "$made"
    set +a
}

# Exports NOFILE if this host allows fewer descriptors than our default: Docker refuses a container with a higher limit than its own.
choose_descriptors() {
    local hard
    hard=$(ulimit -Hn)
    if [[ -z ${NOFILE:-} && $hard != unlimited ]] && ((hard < 65536)); then
        export NOFILE=$hard
    fi
}
