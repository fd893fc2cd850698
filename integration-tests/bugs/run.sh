#!/usr/bin/env bash
# A test of the tests: each patch beside this script is a bug that Tidegate must never have. In a copy of the sources
# each is put in by itself, and the tests that `catalogue.txt` names for it must fail, by an assertion of their own and
# within three minutes. A bug that no test notices fails the run.
#
#   run.sh [NN]…     the bugs of these numbers; all if none is named
#
# The copy is made of the files that Git knows, as they are now. It is built in the release profile, but to be built
# soon. TIDEGATE_BUGS_DIR names the folder for all of that (default target/bugs).
set -euo pipefail
export LC_ALL=C

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
place=${TIDEGATE_BUGS_DIR:-$root/target/bugs}
mkdir -p "$place/logs" "$place/clean"
place=$(cd "$place" && pwd)
sources=$place/sources
# Seconds that the tests of one bug may take, without what it takes to build them.
within=180

fail() {
    echo "$*" >&2
    exit 2
}

# Settings of whoever runs this must not reach the tests.
for name in "${!TIDEGATE_@}" "${!OPENAI_@}" "${!ANTHROPIC_@}"; do
    case $name in TIDEGATE_TEST_*) ;; *) unset "$name" ;; esac
done
export CARGO_TARGET_DIR=$place/build CARGO_TERM_COLOR=never
export CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off
export CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_INCREMENTAL=true
# The copy is no repository, wherever it lies: a patch is applied to it, and not to what is around it.
export GIT_CEILING_DIRECTORIES=$place

# Lines of the catalogue that name a bug: its number, a package, a target and a test.
named() {
    grep -E "^$1 " "$here/catalogue.txt" || fail "catalogue.txt names no test for bug $1"
}

# binary TARGET: the program that holds the tests of a target; without a bug, or with one in what it links.
binary() {
    echo "$place/${2-clean}/$1"
}

# build LOG COMMAND…: cargo in the copy; what it says is kept, and shown if it fails.
build() {
    local log=$place/logs/$1
    shift
    (cd "$sources" && cargo "$@") >"$log" 2>&1 && return
    grep -E -A9 '^error' "$log" >&2 || tail -n 20 "$log" >&2
    return 1
}

# tests_built TARGET FOLDER: builds the tests of a target, and puts their program into a folder.
tests_built() {
    local log=build-$2-$1.txt built
    # Both packages whatever the target, for each choice of packages may have other features of what they are built on.
    build "$log" test --release --locked -p tidegate-storage -p integration-tests --test "$1" --no-run || return
    built=$(sed -n 's/^ *Executable .* (\(.*\))$/\1/p' "$place/logs/$log")
    mkdir -p "$place/$2"
    cp "$built" "$place/$2/$1"
}

# tidegate_built FOLDER
tidegate_built() {
    build "build-$1-tidegate.txt" build --release --locked -p tidegate || return
    mkdir -p "$place/$1"
    cp "$CARGO_TARGET_DIR/release/tidegate" "$place/$1/tidegate"
}

# ran PROGRAM TIDEGATE PACKAGE TEST LOG: runs one test, in the folder in which cargo would.
ran() {
    local folder=integration-tests
    if [ "$3" = tidegate-storage ]; then folder=storage; fi
    (cd "$sources/$folder" && TIDEGATE_BIN=$2 timeout --kill-after=10 "$within" "$1" "$4" --exact) \
        </dev/null >"$place/logs/$5" 2>&1
}

# The first panic in the tests, with what it says. Those of what only sets the scene are no word about a bug.
first_panic() {
    local panic
    panic=$(grep -m 1 -A 1 -E "^thread '.*panicked at (integration-tests|storage/tests)/" "$1") || return 1
    case $panic in
        *"panicked at storage/tests/support/"* | *"/own_postgres.rs:"* | *"the server does not start"*) return 1 ;;
    esac
    printf '%s\n' "$panic" | sed -E "s/^thread '.*' (\([0-9]+\) )?panicked/    panicked/; 2s/^/    /" | cut -c 1-200
}

# caught_by NN PACKAGE TARGET TEST: whether the test fails as it should. Sets `why` if it does not.
caught_by() {
    local program tidegate log=run-$1-${4//:/_}.txt status=0
    program=$(binary "$3") tidegate=$place/$1/tidegate
    if [ "$2" = tidegate-storage ]; then program=$(binary "$3" "$1"); fi
    ran "$program" "$tidegate" "$2" "$4" "$log" || status=$?
    if [ $status -eq 0 ]; then why="$4 passes"; return 1; fi
    if [ $status -eq 124 ] || [ $status -eq 137 ]; then why="$4 has not ended within $within s"; return 1; fi
    if ! grep -q '^test result: FAILED\. 0 passed; 1 failed' "$place/logs/$log"; then
        why="$4 did not come to a result; see $place/logs/$log"
        return 1
    fi
    if ! first_panic "$place/logs/$log"; then
        why="$4 failed, but not by an assertion of its own; see $place/logs/$log"
        return 1
    fi
}

# put [-R] PATCH: applies a patch, or takes it back; files get a new time, so that cargo builds them anew.
put() {
    (cd "$sources" && git apply "$@")
}

# seed PATCH: puts a bug in, builds what its tests need, runs them, and takes it out again.
seed() {
    local patch=$1 file number name caught=() began why='' needs
    file=$(basename "$patch" .patch)
    number=${file%%-*} name=${file#*-}
    needs=$(named "$number")
    if ! put "$patch"; then
        echo "MISSED $number $name: the patch does not apply any more"
        return 1
    fi
    rm -rf "${place:?}/$number"
    if grep -q ' integration-tests ' <<<"$needs" && ! tidegate_built "$number"; then why="it does not compile"; fi
    if grep -q ' tidegate-storage ' <<<"$needs" && ! tests_built conformance "$number"; then why="it does not compile"; fi
    put -R "$patch" || fail "$patch cannot be taken out again"
    SECONDS=0
    while [ -z "$why" ] && read -r _ package target test; do
        began=$SECONDS
        if caught_by "$number" "$package" "$target" "$test"; then
            caught+=("$test in $((SECONDS - began)) s")
        fi
    done <<<"$needs"
    if [ -z "$why" ] && [ "$SECONDS" -gt "$within" ]; then why="its tests took $SECONDS s"; fi
    rm -rf "${place:?}/$number"
    if [ -n "$why" ]; then
        echo "MISSED $number $name: $why"
        return 1
    fi
    printf -v caught '%s, ' "${caught[@]}"
    echo "caught $number $name by ${caught%, }"
}

chosen=()
if [ $# -eq 0 ]; then set -- $(cd "$here" && printf '%s\n' *.patch | cut -d - -f 1); fi
for number in "$@"; do
    patches=("$here/$number"-*.patch)
    [ -f "${patches[0]}" ] || fail "there is no bug $number in $here"
    named "$number" >/dev/null
    chosen+=("${patches[@]}")
done

rm -rf "$sources"
mkdir -p "$sources"
# With the time of now, so that nothing of an earlier run is taken for built.
(cd "$root" && git ls-files -z | tar --create --null --files-from=- --file=-) | tar --extract --touch -C "$sources" -f -

echo "building without any bug"
tidegate_built clean || fail "the sources do not compile"
needs=$(for patch in "${chosen[@]}"; do named "$(basename "$patch" | cut -d - -f 1)"; done)
for target in $(cut -d ' ' -f 3 <<<"$needs" | sort -u); do
    tests_built "$target" clean || fail "the tests do not compile"
done

missed=0
while read -r _ package target test; do
    log=clean-${test//:/_}.txt
    if ! ran "$(binary "$target")" "$place/clean/tidegate" "$package" "$test" "$log" ||
        ! grep -q '^test result: ok\. 1 passed' "$place/logs/$log"; then
        echo "without any bug $test does not pass; see $place/logs/$log" >&2
        missed=1
    fi
done < <(sort -u -k 4 <<<"$needs")
[ $missed -eq 0 ] || exit 2
echo "$(sort -u -k 4 <<<"$needs" | wc -l) tests pass without any bug"

for patch in "${chosen[@]}"; do
    seed "$patch" || missed=$((missed + 1))
done
if [ $missed -gt 0 ]; then
    echo "$missed of ${#chosen[@]} bugs were missed" >&2
    exit 1
fi
echo "all of ${#chosen[@]} bugs were caught"
