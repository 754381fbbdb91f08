#!/bin/sh
# Installs what a bare Debian machine lacks for building, for sandboxes and for the test of the documents:
# bubblewrap, git, a C compiler, make, curl, sqlite3, pgrep. With CI=true also what some tests compare us with, into
# target/tools.
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
if [ "${CI:-}" = true ]; then
    need systemd-analyze systemd
    # What the engine below is linked with.
    for library in libdevmapper.so.1.02.1:libdevmapper1.02.1 libseccomp.so.2:libseccomp2; do
        ldconfig -p | grep -q "${library%%:*}" || missing="$missing ${library##*:}"
    done
    # Its venv module is a package of its own.
    python3 -c 'import ensurepip' >/dev/null 2>&1 || missing="$missing python3 python3-venv"
fi

if [ -n "$missing" ]; then
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
fi

[ "${CI:-}" = true ] || exit 0
tools="$(cd "$(dirname "$0")/.." && pwd)/target/tools"
mkdir -p "$tools"

# Unpacked and not installed: as a package it would start a server of its own.
if [ ! -x "$tools/prometheus/usr/bin/promtool" ]; then
    echo "unpacking: prometheus" >&2
    rm -rf "$tools/prometheus"
    mkdir -p "$tools/prometheus"
    (
        cd "$tools/prometheus"
        apt-get download -qq prometheus 2>/dev/null || { apt-get update -qq && apt-get download -qq prometheus; }
        dpkg-deb -x prometheus_*.deb .
        rm prometheus_*.deb
    )
fi

# As above, and for the same reason.
if [ ! -x "$tools/docker/usr/sbin/dockerd" ]; then
    echo "unpacking: docker" >&2
    rm -rf "$tools/docker"
    mkdir -p "$tools/docker"
    (
        cd "$tools/docker"
        apt-get download -qq docker.io containerd runc 2>/dev/null ||
            { apt-get update -qq && apt-get download -qq docker.io containerd runc; }
        for package in *.deb; do dpkg-deb -x "$package" .; done
        rm ./*.deb
    )
fi

if ! "$tools/schemathesis/bin/schemathesis" --version >/dev/null 2>&1; then
    echo "installing: schemathesis" >&2
    rm -rf "$tools/schemathesis"
    python3 -m venv "$tools/schemathesis"
    "$tools/schemathesis/bin/pip" install --quiet --disable-pip-version-check schemathesis==4.32.5
fi

"$(dirname "$0")/clients.sh"
