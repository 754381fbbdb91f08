#!/bin/sh
# Installs the agents that some tests drive, in the versions that those expect, into target/tools/agents: Node packages, each in a
# folder of its own. None of them is part of the product.
set -eu

agents="$(cd "$(dirname "$0")/.." && pwd)/target/tools/agents"

# name, then its packages
install() {
    name="$1"
    shift
    folder="$agents/$name"
    if [ "$(cat "$folder/installed" 2>/dev/null)" = "$*" ]; then
        return 0
    fi
    echo "installing: $*" >&2
    for pause in 2 10 30 0; do
        rm -rf "$folder"
        mkdir -p "$folder"
        # Without their scripts: what they would fetch is in packages, and nothing else is wanted.
        if npm install --prefix "$folder" --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error "$@" >&2; then
            echo "$*" >"$folder/installed"
            return 0
        fi
        sleep "$pause"
    done
    echo "cannot install $*; is the registry of npm reachable?" >&2
    return 1
}

# The package of this machine alone: the one that chooses it needs a script for that, and brings two.
install opencode opencode-linux-x64@1.18.33
mkdir -p "$agents/opencode/node_modules/.bin"
ln -sf ../opencode-linux-x64/bin/opencode "$agents/opencode/node_modules/.bin/opencode"
install codex @agentclientprotocol/codex-acp@2.6.0
install gemini @google/gemini-cli@0.61.0
install claude-code @agentclientprotocol/claude-agent-acp@0.100.0
