#!/bin/sh
# A pull worker of curl and sed: runs a program for each run of a task, with the payload as JSON on its stdin.
#   worker.sh TASK PROGRAM [ARG…]
# It sends no heartbeats: a run that takes longer than LEASE seconds is given to another worker.
set -u
server=${TIDEGATE_SERVER:-http://127.0.0.1:7070}
task=$1
shift
LEASE=${LEASE:-300}
umask 077
dir=$(mktemp -d) && trap 'rm -rf "$dir"' EXIT && trap 'exit 130' INT TERM
# The key goes by a file: arguments can be seen by everybody on the machine.
[ -z "${TIDEGATE_API_KEY:-}" ] || printf 'Authorization: Bearer %s\n' "$TIDEGATE_API_KEY" >"$dir/auth"
touch "$dir/auth"

call() { # PATH, and the body on stdin; prints the answer
    curl -sS --fail-with-body --max-time 60 -H @"$dir/auth" -H 'Content-Type: application/json' \
        --data-binary @- "$server/api/v1/workers/$1"
}
field() { sed -n "s/.*\"$1\":\"\\([^\"]*\\)\".*/\\1/p" "$dir/lease"; }

while :; do
    echo "{\"tasks\":[\"$task\"],\"worker\":\"sh-$$\",\"wait_seconds\":20,\"lease_seconds\":$LEASE}" |
        call lease >"$dir/lease" || { sleep 5; continue; }
    # The fields after the payload have fixed forms, so that the last match is theirs and not the payload's.
    token=$(field lease_token)
    [ -n "$token" ] || continue
    run=$(sed -n 's/^{"data":\[{"run_id":"\([^"]*\)".*/\1/p' "$dir/lease")
    sed 's/^.*"max_attempts":[0-9]*,"payload":\(.*\),"lease_token":"[0-9a-f]*".*$/\1/' "$dir/lease" >"$dir/payload"
    "$@" <"$dir/payload"
    code=$?
    held="\"run_id\":\"$run\",\"lease_token\":\"$token\""
    if [ $code -eq 0 ]; then
        echo "{$held}" | call complete
    else
        echo "{$held,\"code\":\"exit_$code\",\"reason\":\"the program ended with exit code $code\"}" | call fail
    fi
    echo
done
