#!/bin/sh
# Makes the release of the last commit twice, in two folders, and compares every byte. Takes two builds from nothing.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd -P)
work=$(mktemp -d "${TMPDIR:-/tmp}/dist-check.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

OUBLIETTE_COMMIT=$(git -C "$root" rev-parse --short=12 HEAD)
SOURCE_DATE_EPOCH=$(git -C "$root" log -1 --format=%ct)
export OUBLIETTE_COMMIT SOURCE_DATE_EPOCH
unset CARGO_TARGET_DIR

# Names of different lengths, at different depths, each under its own umask.
for copy in one a-folder/with-another-name; do
    mkdir -p "$work/$copy"
    git -C "$root" archive HEAD | tar --extract --directory "$work/$copy"
done
(umask 022 && "$work/one/scripts/dist.sh")
(umask 077 && "$work/a-folder/with-another-name/scripts/dist.sh")

cd "$work"
if diff --recursive --brief one/target/dist a-folder/with-another-name/target/dist; then
    echo "the same, byte for byte: $(cat one/target/dist/SHA256SUMS)"
else
    echo "dist-check: these differ" >&2
    exit 1
fi
