#!/bin/sh
# Builds the tests into a folder that goes again, and runs them.
set -eu
cd "$(dirname "$0")"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
${CC:-cc} -Wall -o "$folder/check" check.c text.c
"$folder/check"
