#!/bin/sh
# Installs clients that nobody here wrote, for the tests that let them talk to us: the Python SDK of MCP, into target/tools.
set -eu

tools="$(cd "$(dirname "$0")/.." && pwd)/target/tools"
if "$tools/mcp/bin/python" -c 'import mcp' >/dev/null 2>&1; then
    exit 0
fi
# On Debian the venv module is a package of its own.
if ! python3 -c 'import ensurepip' >/dev/null 2>&1; then
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        echo "missing: python3 python3-venv" >&2
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends python3 python3-venv >/dev/null
fi
echo "installing: the Python SDK of MCP" >&2
mkdir -p "$tools"
rm -rf "$tools/mcp"
python3 -m venv "$tools/mcp"
"$tools/mcp/bin/pip" install --quiet --disable-pip-version-check mcp==2.3.0
