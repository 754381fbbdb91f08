#!/bin/sh
# The main job, start to end: a real repository with failing tests, an agent in a sandbox that mends it, and a server
# that is killed with -9 half way. Everything is made in a temporary folder and removed again.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
bin="$root/target/release/oubliette"
work=$(mktemp -d "${TMPDIR:-/tmp}/oubliette-demo.XXXXXX")
home="$work/home"
repo="$work/intervals"
export OUBLIETTE_SERVER__ADDRESS="127.0.0.1:0"

if [ -n "${OPENAI_API_KEY:-}" ] && [ -z "${OPENAI_MODEL:-}" ]; then
    echo "OPENAI_API_KEY is set and OPENAI_MODEL is not, so this uses the scripted demonstration; set OPENAI_MODEL to use your provider" >&2
    unset OPENAI_API_KEY
fi

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
fail() { printf '\ndemo: %s\n' "$*" >&2; exit 1; }
ob() { "$bin" --dir "$home" "$@"; }
clean() {
    ob stop >/dev/null 2>&1 || true
    if [ -n "${KEEP:-}" ]; then echo "kept: $work"; else rm -rf "$work"; fi
}
trap clean EXIT
trap 'exit 130' INT TERM

cp -r "$root/crates/ob-testkit/fixtures/demo-repo" "$repo"
git -C "$repo" init -q -b main
git -C "$repo" add -A
git -C "$repo" -c user.name=Demo -c user.email=demo@localhost commit -q -m "A small library with a fault"

tests() { # its tests, outside of any sandbox, with their result lines
    (cd "$repo" && CARGO_TARGET_DIR="$work/target" cargo test --offline --quiet 2>&1 | grep -E '^(test result|test .*FAILED|---- )') || true
}

say "1. The repository's own tests, before: red"
before=$(tests)
echo "$before"
echo "$before" | grep -q 'FAILED' || fail "the tests should fail before"

say "2. An agent works on it in a kernel sandbox; the server is killed with -9 in the middle"
(
    # The killer: as soon as the agent has called a few tools, it notes every event that anyone could have seen,
    # and kills the server.
    tries=0
    while [ "$tries" -lt 600 ]; do
        tries=$((tries + 1))
        ob session events last --json >"$work/seen.part" 2>/dev/null || true
        if [ "$(grep -c '"type":"tool_result"' "$work/seen.part")" -ge 3 ]; then
            mv "$work/seen.part" "$work/seen"
            pid=$(cat "$home/data/oubliette.pid")
            kill -9 "$pid"
            printf '\n\033[1m== kill -9 %s (the server), after %s events\033[0m\n' "$pid" "$(wc -l <"$work/seen")" >&2
            exit 0
        fi
        sleep 0.1
    done
    echo "demo: the agent never called a tool" >&2
) &
killer=$!
status=0
ob run "The tests of this library fail. Find the fault, mend it, and show that the tests pass." \
    --project "$repo" || status=$?
wait "$killer" || true
[ "$status" -eq 0 ] || fail "the session ended with exit code $status"
[ -s "$work/seen" ] || fail "the server was not killed in the middle"

say "3. Nothing was lost: what was seen before the kill is a gap-free prefix of what is there now"
ob session events last --json >"$work/after"
seen=$(wc -l <"$work/seen")
total=$(wc -l <"$work/after")
head -n "$seen" "$work/after" | cmp - "$work/seen" || fail "events seen before the kill differ now"
sed -n 's/^{"index":\([0-9]*\),.*/\1/p' "$work/after" | awk '$1 != NR - 1 { exit 1 }' || fail "the numbers have a gap"
[ "$(sed -n 's/^{"index":\([0-9]*\),.*/\1/p' "$work/after" | wc -l)" -eq "$total" ] || fail "an event without a number"
echo "$seen events seen before, $total now, numbered 0 to $((total - 1)) without a gap"

say "4. The result is a patch; applied to the repository, its tests are green"
ob session diff last | tee "$work/patch"
[ -s "$work/patch" ] || fail "the patch is empty"
ob session apply last
after=$(tests)
echo "$after"
echo "$after" | grep -q 'FAILED' && fail "the tests still fail"
echo "$after" | grep -q 'test result: ok' || fail "the tests did not run"

say "Done. Try it on your own: target/release/oubliette run \"TASK\" --project DIR"
