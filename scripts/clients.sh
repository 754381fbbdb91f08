#!/bin/sh
# Installs clients that nobody here wrote, for the tests that let them talk to us, into target/tools: the Python SDK of MCP,
# and MCP's official conformance suite with a Node that is new enough for it.
set -eu

root="$(cd "$(dirname "$0")/.." && pwd)"
tools="$root/target/tools"
mkdir -p "$tools"

install() { # what package...
    what="$1"
    shift
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        echo "missing for $what: $*" >&2
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

if ! "$tools/mcp/bin/python" -c 'import mcp' >/dev/null 2>&1; then
    # On Debian the venv module is a package of its own.
    python3 -c 'import ensurepip' >/dev/null 2>&1 || install "the Python SDK of MCP" python3 python3-venv
    echo "installing: the Python SDK of MCP" >&2
    rm -rf "$tools/mcp"
    python3 -m venv "$tools/mcp"
    "$tools/mcp/bin/pip" install --quiet --disable-pip-version-check mcp==2.3.0
fi

suite="$root/crates/oubliette/tests/conformance"
if ! cmp -s "$suite/package-lock.json" "$tools/conformance/node_modules/.installed"; then
    command -v npm >/dev/null 2>&1 || install "the conformance suite of MCP" npm
    echo "installing: the conformance suite of MCP" >&2
    rm -rf "$tools/conformance"
    mkdir -p "$tools/conformance"
    cp "$suite/package.json" "$suite/package-lock.json" "$tools/conformance"
    # The npm of the machine may be older than what it installs asks for; that is run by the Node that comes with it.
    (cd "$tools/conformance" && npm ci --silent --ignore-scripts --no-audit --no-fund)
    cp "$suite/package-lock.json" "$tools/conformance/node_modules/.installed"
fi
