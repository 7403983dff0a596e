#!/usr/bin/env bash
# Renders every Kustomize directory of deploy/kubernetes and validates the result without a cluster: against the strict schemas of two
# Kubernetes versions, and by the rules that no schema has (scripts/check_kubernetes.py). Skips if kubectl is missing or too old.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/native.sh

# The oldest version that has all the fields, and the newest one that the validator knows.
readonly VERSIONS=(1.33 1.37)
readonly VALIDATOR=kubernetes-validate==1.37.0
readonly TOOLS=$PWD/target/kubernetes-validate

skip() { echo "SKIPPED: the Kubernetes manifests were not checked: $1"; exit 0; }

# Kustomize 4.2, for which the manifests are written, is in kubectl 1.22.
check_kubectl() {
    local version minor
    command -v kubectl >/dev/null || skip "kubectl is not installed"
    version=$(kubectl version --client -o json 2>/dev/null | sed -n 's/.*"gitVersion": *"v\([0-9.]*\).*/\1/p' | head -n 1)
    minor=$(cut -d. -f2 <<<"$version")
    [[ $version == 1.* ]] || skip "kubectl has version '$version', expected 1.22 or later"
    ((minor >= 22)) || skip "kubectl has version $version, expected 1.22 or later"
    echo "kubectl $version"
}

install_validator() {
    if [[ "$(cat "$TOOLS/installed" 2>/dev/null)" == "$VALIDATOR" ]]; then return; fi
    rm -rf "$TOOLS"
    if ! python3 -m venv "$TOOLS" || ! "$TOOLS/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: "$VALIDATOR"; then
        skip "$VALIDATOR could not be installed from PyPI"
    fi
    echo "$VALIDATOR" >"$TOOLS/installed"
}

# For an unknown kind or version the validator only warns, so a warning fails as well.
validate() { # FILE
    local version versions=()
    for version in "${VERSIONS[@]}"; do versions+=(-k "$version"); done
    if ! "$TOOLS/bin/kubernetes-validate" "${versions[@]}" --strict "$1" >"$work/validation" 2>&1 || ! grep -q ' passed ' "$work/validation" ||
        grep -qv '^INFO .* passed ' "$work/validation"; then
        grep -v '^INFO .* passed ' "$work/validation" >&2 || true
        die "$(basename "$1" .yaml) does not match the schemas"
    fi
}

has() { PATH=$PATH:/usr/sbin:/usr/local/sbin command -v "$1" >/dev/null; }

check_haproxy() {
    has haproxy || return 0
    API_BIND=:8080 WS_BIND=:8081 STATS_BIND=:8404 NAMESPACE=streamstress PATH=$PATH:/usr/sbin:/usr/local/sbin \
        haproxy -c -f docker/haproxy/base.cfg -f docker/haproxy/backends-kubernetes.cfg >"$work/haproxy" 2>&1 ||
        die "HAProxy refuses its configuration: $(cat "$work/haproxy")"
}

end_with true
check_kubectl
install_validator
check_haproxy
while IFS= read -r directory; do
    directory=$(dirname "$directory")
    rendered=$work/$(basename "$directory").yaml
    kubectl kustomize "$directory" >"$rendered" || die "$directory cannot be rendered"
    validate "$rendered"
    echo "$directory: $(grep -c '^kind:' "$rendered") objects match the schemas of ${VERSIONS[*]}"
done < <(find deploy/kubernetes -name kustomization.yaml | sort)
"$TOOLS/bin/python" -B scripts/check_kubernetes.py "$work"/{base,small,production,generators}.yaml
