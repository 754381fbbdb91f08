#!/bin/sh
# Installs what a bare Debian machine lacks for building, for sandboxes and for the test of the documents:
# bubblewrap, git, a C compiler, make, curl, sqlite3, pgrep.
set -eu

missing=""
need() { # command package
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need bwrap bubblewrap
need git git
need cc gcc
need make make
need curl curl
need sqlite3 sqlite3
need pgrep procps

[ -n "$missing" ] || exit 0
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing:$missing" >&2
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086 # one word for each package
    apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
    echo "missing:$missing" >&2
    echo "install them: sudo apt-get install$missing" >&2
    exit 1
fi
