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
printf '%s' "${TIDEGATE_API_KEY:+Authorization: Bearer $TIDEGATE_API_KEY}" >"$dir/auth"

call() { # PATH, and the body on stdin; prints the answer
    curl -sS --fail-with-body --max-time 60 -H @"$dir/auth" -H 'Content-Type: application/json' \
        --data-binary @- "$server/api/v1/workers/$1"
}

while :; do
    echo "{\"tasks\":[\"$task\"],\"worker\":\"sh-$$\",\"wait_seconds\":20,\"lease_seconds\":$LEASE}" |
        call lease >"$dir/answer" || { sleep 5; continue; }
    # The fields around the payload have fixed forms, whatever is in it; outside of its texts a new line is a space.
    tr '\n' ' ' <"$dir/answer" >"$dir/lease"
    run=$(sed -n 's/^{"data":\[{"run_id":"\([^"]*\)".*/\1/p' "$dir/lease")
    [ -n "$run" ] || continue
    token=$(sed 's/.*,"lease_token":"\([0-9a-f]*\)".*/\1/' "$dir/lease")
    sed -e 's/^{"data":\[{"run_id":"[^"]*","task":"[^"]*","queue":"[^"]*","attempt":[0-9]*,"max_attempts":[0-9]*,//' \
        -e 's/^"payload"://' -e 's/,"lease_token":"[^"]*","lease_until":"[^"]*",[^,]*$//' \
        -e 's/,"session_id":"[^"]*"$//' "$dir/lease" >"$dir/payload"
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
