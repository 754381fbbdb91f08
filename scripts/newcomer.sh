#!/bin/sh
# A newcomer's first hour, timed: the commands of the README, typed in a fresh Debian that has nothing but Rust.
#
# The Debian is made by debootstrap in a temporary folder, and entered by bubblewrap: a file system, process ids and a
# home of its own. Rust is this machine's toolchain, copied to where an installer puts it; crates and packages come from
# wherever this machine gets them. Needs root, debootstrap, bubblewrap, git and a network.
#
#   SUITE=bookworm MIRROR=http://deb.debian.org/debian scripts/newcomer.sh
set -eu

root=$(cd "$(dirname "$0")/.." && pwd -P)
suite=${SUITE:-bookworm}
mirror=${MIRROR:-http://deb.debian.org/debian}

[ "$(id -u)" -eq 0 ] || { echo "newcomer: needs root, to make a file system" >&2; exit 1; }
for program in debootstrap bwrap git rustc; do
    command -v "$program" >/dev/null || { echo "newcomer: $program is missing" >&2; exit 1; }
done

work=$(mktemp -d "${TMPDIR:-/tmp}/newcomer.XXXXXX")
fresh="$work/debian"
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

began=$(date +%s)
step() { # name command...: runs it in the fresh Debian, and tells how long it took
    name=$1
    shift
    start=$(date +%s)
    status=0
    bwrap --bind "$fresh" / --proc /proc --dev-bind /dev /dev --bind /sys /sys --tmpfs /run --cap-add ALL \
        --unshare-pid --die-with-parent --chdir /srv/oubliette --clearenv \
        --setenv HOME /srv --setenv TERM dumb --setenv OUBLIETTE_SERVER__ADDRESS 127.0.0.1:0 \
        --setenv PATH /srv/.rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        sh -c "$*" >"$work/log" 2>&1 || status=$?
    printf '%-34s %5d s  %s\n' "$name" "$(($(date +%s) - start))" "$([ "$status" -eq 0 ] && echo ok || echo "exit code $status")"
    [ "$status" -eq 0 ] || { tail -n 40 "$work/log" >&2; exit 1; }
}

debootstrap --variant=minbase --include=ca-certificates "$suite" "$fresh" "$mirror" >"$work/log" 2>&1 ||
    { tail -n 20 "$work/log" >&2; exit 1; }
cp -r "$(rustc --print sysroot)" "$fresh/srv/.rust"
cp /etc/resolv.conf /etc/hosts "$fresh/etc/"
# Where this machine gets its packages and crates from, if not from where everybody does.
for file in /etc/apt/apt.conf /etc/apt/apt.conf.d/*proxy* /etc/ssl/certs/ca-certificates.crt "${CARGO_HOME:-$HOME/.cargo}/config.toml"; do
    [ -f "$file" ] || continue
    case "$file" in /etc/*) to="$fresh$file" ;; *) to="$fresh/srv/.cargo/config.toml" ;; esac
    mkdir -p "$(dirname "$to")"
    cp "$file" "$to"
done
mkdir "$fresh/srv/oubliette"
git -C "$root" archive HEAD | tar --extract --directory "$fresh/srv/oubliette"
# What the README takes for granted: make, and a repository of one's own.
step "apt-get install make" "apt-get update -qq && apt-get install -y -qq --no-install-recommends make"

printf '\n%s, %s processors, %s\n\n' "Debian $(cat "$fresh/etc/debian_version")" "$(nproc)" "$(rustc --version)"
counted=$(date +%s)
step "make demo" "make demo"
step "make build" "make build"
path='export PATH="$PWD/target/release:$PATH"'
step "oubliette doctor" "$path; oubliette doctor"
step "a repository with a fault" 'mkdir -p ~/src/thing && cd ~/src/thing && git init -q &&
    echo "echo \$(( \$1 - \$2 ))" > sum.sh && echo "[ \"\$(sh sum.sh 2 3)\" = 5 ]" > test.sh && git add . &&
    git -c user.name=N -c user.email=n@localhost commit -q -m first'
# Without a key the server says so; there is a scripted demonstration beside the program.
step "oubliette run, list, events, diff" "$path
    oubliette run 'The tests fail. Find the fault and mend it.' --project ~/src/thing || true
    oubliette session list && oubliette session events last >/dev/null && oubliette session diff last; oubliette stop"
printf '\n%-34s %5d s (with the fresh Debian %d s)\n' "from a clone to the first session" \
    "$(($(date +%s) - counted))" "$(($(date +%s) - began))"
