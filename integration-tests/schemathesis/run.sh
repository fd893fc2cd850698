#!/usr/bin/env bash
# Requests made from the OpenAPI document against a running server, on SQLite and on PostgreSQL: no server error,
# and every answer as the document has it.
#
#   run.sh [sqlite|postgres]…     both if none is named
#
# TIDEGATE_BIN names the binary (default target/release/tidegate), TIDEGATE_SCHEMATHESIS_DIR where to install the
# program (default target/schemathesis), TIDEGATE_SEED another seed, and TIDEGATE_SOAK=1 makes it take its time.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
place=${TIDEGATE_SCHEMATHESIS_DIR:-$here/../../target/schemathesis}
mkdir -p "$place"
place=$(cd "$place" && pwd)

fail() {
    echo "$*" >&2
    exit 1
}

python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "Python 3.11 or newer is needed"
# The same list is not installed again, so that a machine without a network can run this a second time.
if ! cmp -s "$here/requirements.txt" "$place/installed.txt"; then
    rm -rf "$place"
    # Debian keeps what makes an environment usable in a package of its own.
    if ! python3 -c 'import ensurepip' 2>/dev/null; then
        [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || fail "python3 has no ensurepip: install python3-venv"
        apt-get install -y -q python3-venv >&2 || fail "python3-venv could not be installed"
    fi
    python3 -m venv "$place" || fail "no Python environment could be made at $place"
    "$place/bin/pip" install -q --disable-pip-version-check -r "$here/requirements.txt" >&2 ||
        fail "pip could not install $here/requirements.txt"
    cp "$here/requirements.txt" "$place/installed.txt"
fi
exec "$place/bin/python" "$here/rig.py" "$@"
