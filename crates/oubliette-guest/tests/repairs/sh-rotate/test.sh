#!/bin/sh
# Each case has a folder of its own.
set -u
cd "$(dirname "$0")" || exit 1
failed=0
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT

expect() { # what, count, names that stay...
    what=$1
    count=$2
    shift 2
    sh ./rotate.sh "$room/$what" "$count" >/dev/null 2>&1 || { echo "$what: it failed"; failed=1; }
    wanted="$(printf '%s\n' "$@")"
    if [ "$(ls "$room/$what")" != "$wanted" ]; then
        echo "$what: left $(ls "$room/$what" | tr '\n' ' ')"
        failed=1
    fi
}

mkdir "$room/plain" "$room/few" "$room/spaces"
for day in 01 02 03; do touch "$room/plain/db.2026-01-$day"; done
expect plain 2 db.2026-01-02 db.2026-01-03
touch "$room/few/db.2026-01-01"
expect few 2 db.2026-01-01
for day in 01 02; do touch "$room/spaces/my files.2026-01-$day"; done
expect spaces 1 "my files.2026-01-02"
[ $failed = 0 ] && echo green
exit $failed
