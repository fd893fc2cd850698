#!/usr/bin/env bash
# The official clients against the simulated provider, and `tidegate process` against it and a foreign one.
#
#   run.sh             all checks
#   run.sh --compare   what lost answers cost other clients, as a Markdown table
#
# TIDEGATE_BIN names the binary (default target/release/tidegate), TIDEGATE_SDK_DIR where to install the
# clients (default target/sdk).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export TIDEGATE_SDK_DIR=${TIDEGATE_SDK_DIR:-$here/../../target/sdk}
mkdir -p "$TIDEGATE_SDK_DIR"
TIDEGATE_SDK_DIR=$(cd "$TIDEGATE_SDK_DIR" && pwd)

fail() {
    echo "$*" >&2
    exit 1
}

# venv NAME LIST: a Python environment with the versions of LIST; the same list is not installed again.
venv() {
    local place=$TIDEGATE_SDK_DIR/$1 list=$here/$2
    if cmp -s "$list" "$place/installed.txt"; then return; fi
    rm -rf "$place"
    # Debian keeps what makes an environment usable in a package of its own.
    if ! python3 -c 'import ensurepip' 2>/dev/null; then
        [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || fail "python3 has no ensurepip: install python3-venv"
        apt-get install -y -q python3-venv >&2 || fail "python3-venv could not be installed"
    fi
    python3 -m venv "$place" || fail "no Python environment could be made at $place"
    "$place/bin/pip" install -q --disable-pip-version-check -r "$list" >&2 || fail "pip could not install $list"
    cp "$list" "$place/installed.txt"
}

python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "Python 3.11 or newer is needed"
venv clients requirements.txt
python=$TIDEGATE_SDK_DIR/clients/bin/python

case "${1-}" in
"") exec "$python" "$here/rig.py" openai_client.py anthropic_client.py lost_answers.py aimock.py ;;
--compare)
    venv litellm requirements-compare.txt
    export TIDEGATE_LITELLM_PYTHON=$TIDEGATE_SDK_DIR/litellm/bin/python
    exec "$python" "$here/compare.py"
    ;;
*) fail "unknown option $1: use nothing, or --compare" ;;
esac
