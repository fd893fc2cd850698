#!/usr/bin/env bash
# Makes the passwords that ops/compose.yaml mounts, once: PostgreSQL keeps the one that it was started with first.
set -euo pipefail

secrets=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/secrets
if [ -e "$secrets" ]; then
    echo "$secrets is there already; it is left as it is" >&2
    exit 0
fi
# Only its owner may enter the folder. The files in it are open to all, because containers see them under the
# owner and the mode that they have here, and none of them runs as that owner.
umask 077
making=$(mktemp -d "$secrets.XXXXXX")
trap 'rm -rf "$making"' EXIT

password() {
    od -An -N24 -tx1 /dev/urandom | tr -d ' \n'
}

postgres=$(password)
printf %s "$postgres" >"$making/postgres_password"
printf 'postgres://tidegate:%s@postgres:5432/tidegate' "$postgres" >"$making/database_url"
password >"$making/grafana_password"
chmod 444 "$making"/*
mv "$making" "$secrets"
trap - EXIT
echo "made $secrets"
