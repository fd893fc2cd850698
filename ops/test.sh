#!/usr/bin/env bash
# Everything that is checked, in one command: the same locally and in CI, as root or not, with only Rust there.
#
#   ops/test.sh           format, lints, build, all tests on SQLite and PostgreSQL, the vendors' own SDKs,
#                         requests made from the API's own document, manifests and units of k8s/ and ops/
#   ops/test.sh --soak    the same with longer kill runs, and 300 rounds of faults on three nodes instead of 16
#
# Fast checks come first. Everything is built in the release profile, so that nothing is compiled twice.
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1-}" in
    "") ;;
    --soak) export TIDEGATE_SOAK=1 ;;
    -h | --help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "ops/test.sh: unknown argument $1 (known: --soak)" >&2; exit 2 ;;
esac
export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-auto}"
# Settings of whoever runs this must not reach the tests.
for name in "${!TIDEGATE_@}" "${!OPENAI_@}" "${!ANTHROPIC_@}"; do
    case $name in
        TIDEGATE_SOAK | TIDEGATE_SEED | TIDEGATE_TEST_* | TIDEGATE_SDK_DIR | TIDEGATE_SCHEMATHESIS_DIR | TIDEGATE_MANIFESTS_DIR) ;;
        *) unset "$name" ;;
    esac
done
TIDEGATE_BIN="$(realpath -m "${CARGO_TARGET_DIR:-target}")/release/tidegate"
export TIDEGATE_BIN

timings=()
failed=()

# step NAME COMMAND…: runs it, says what runs and how long it took. A failure is kept for the end, so that one
# run shows all that is wrong; only what nothing else can do without stops at once (see `needed`).
step() {
    local name=$1 began=$SECONDS
    status=0
    shift
    printf '\n==> %s: %s\n' "$name" "$*"
    "$@" </dev/null || status=$?
    timings+=("$(printf '%4d s  %s%s' $((SECONDS - began)) "$name" "$([ $status -eq 0 ] || echo '  FAILED')")")
    printf '<== %s: %d s\n' "$name" $((SECONDS - began))
    [ $status -eq 0 ] || failed+=("$name")
    return 0
}

needed() {
    step "$@"
    if [ $status -ne 0 ]; then finish; fi
}

finish() {
    printf '\n'
    printf '%s\n' "${timings[@]}"
    if [ ${#failed[@]} -gt 0 ]; then
        local names
        names=$(printf ', %s' "${failed[@]}")
        printf 'FAILED: %s\n' "${names:2}"
        exit 1
    fi
    printf 'all passed in %d s\n' "$SECONDS"
    exit 0
}

# The server programs of PostgreSQL; the tests make a throw-away cluster of their own with them.
have_postgres() {
    compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || { command -v initdb && command -v postgres; } >/dev/null
}

# Runs a command while no package may start its service: only programs are wanted.
without_services() {
    local policy=/usr/sbin/policy-rc.d done=0
    if [ -e $policy ]; then
        "$@"
        return
    fi
    printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy
    "$@" || done=$?
    rm -f $policy
    return $done
}

install_missing() {
    local missing=()
    have_postgres || missing+=(postgresql)
    command -v cc >/dev/null || missing+=(gcc libc6-dev)
    command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ] || missing+=(pgbouncer)
    compgen -G '/usr/lib/*/faketime/libfaketime.so.1' >/dev/null || missing+=(libfaketime)
    command -v promtool >/dev/null || missing+=(prometheus)
    python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3 python3-venv)
    if [ ${#missing[@]} -eq 0 ]; then
        echo "nothing is missing"
        return 0
    fi
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "these tests need more than Rust; install it as root: apt-get install ${missing[*]}" >&2
        return 1
    fi
    echo "installing ${missing[*]}"
    local install=(without_services env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends)
    apt-get update -qq &&
        "${install[@]}" postgresql-common >/dev/null &&
        # Debian would make and start a cluster of its own, which nothing here uses.
        sed -ri 's/^#?(create_main_cluster) .*$/\1 = false/' /etc/postgresql-common/createcluster.conf &&
        "${install[@]}" "${missing[@]}" >/dev/null &&
        have_postgres
}

needed programs install_missing
command -v cargo >/dev/null || { echo "ops/test.sh: cargo is not there; install Rust from https://rustup.rs" >&2; exit 1; }
if cargo fmt --version >/dev/null 2>&1; then
    step format cargo fmt --check
else
    echo "rustfmt is not installed: the format is not checked (rustup component add rustfmt)"
fi
if cargo clippy --version >/dev/null 2>&1; then
    step lints cargo clippy --release --locked --workspace --all-targets -- -D warnings
    step lints-without-otlp cargo clippy --release --locked -p tidegate --no-default-features -- -D warnings
else
    echo "clippy is not installed: the lints are not checked (rustup component add clippy)"
fi
needed build cargo build --release --locked --workspace
if [ -x integration-tests/sdk/run.sh ]; then
    step sdk integration-tests/sdk/run.sh
fi
if [ -x integration-tests/schemathesis/run.sh ]; then
    step schemathesis integration-tests/schemathesis/run.sh
fi
if [ -x integration-tests/manifests/run.sh ]; then
    step manifests integration-tests/manifests/run.sh
fi
step nodes cargo test --release --locked -p integration-tests --test nodes -- --test-threads 1
# Last, so that the summary lines of cargo test are what a reader sees at the end.
step tests cargo test --release --locked --workspace --no-fail-fast
finish
