#!/bin/sh
# Makes a release in target/dist: an archive with the stripped program, completions, man pages, what deploys it, and
# checksums. The same commit gives the same bytes, in whatever folder and whenever it is built: paths are mapped away,
# and times are the commit's.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd -P)
cd "$root"
case "$root${CARGO_TARGET_DIR:-}${CARGO_HOME:-$HOME}" in
*[[:space:]]*) echo "dist: compilers take their flags apart at spaces, and a path here has one" >&2; exit 1 ;;
esac
target=${CARGO_TARGET_DIR:-$root/target}
host=$(rustc -vV | sed -n 's/^host: //p')
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
name="oubliette-$version-$host"
dist="$target/dist"
build="$target/dist-build"
stage="$dist/$name"

# A copy without its history says what it is a copy of.
: "${OUBLIETTE_COMMIT:=$(git describe --always --dirty --abbrev=12 --exclude '*')}"
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct)}"
export OUBLIETTE_COMMIT SOURCE_DATE_EPOCH

cargo_home=${CARGO_HOME:-$HOME/.cargo}
map="--remap-path-prefix=$root=/oubliette --remap-path-prefix=$cargo_home=/cargo --remap-path-prefix=$build=/target"
export CFLAGS="-ffile-prefix-map=$root=/oubliette -ffile-prefix-map=$cargo_home=/cargo -ffile-prefix-map=$build=/target"
export CARGO_INCREMENTAL=0

# As `make guest` and `make build` do, with the paths mapped.
RUSTFLAGS="$map -C target-feature=+crt-static -C relocation-model=static" \
    cargo build --quiet --locked --package oubliette-guest --profile guest --target "$host" --target-dir "$build/guest"
OUBLIETTE_GUEST="$build/guest/$host/guest/oubliette-guest" RUSTFLAGS="$map" \
    cargo build --quiet --locked --package oubliette --release --target "$host" --target-dir "$build"

rm -rf "$dist"
mkdir -p "$stage/completions" "$stage/man"
install -m 755 "$build/$host/release/oubliette" "$stage/oubliette"
for shell in bash elvish fish powershell zsh; do
    "$stage/oubliette" completions "$shell" >"$stage/completions/oubliette.$shell"
done
"$stage/oubliette" man --out "$stage/man"
install -m 644 deploy/* README.md CHANGELOG.md LICENSE-APACHE LICENSE-MIT "$stage/"
(cd "$stage" && find . -type f ! -name SHA256SUMS -printf '%P\n' | LC_ALL=C sort | xargs sha256sum >SHA256SUMS)

tar --create --sort=name --owner=0 --group=0 --numeric-owner --mode=u+rwX,go+rX,go-w --mtime="@$SOURCE_DATE_EPOCH" \
    --directory "$dist" "$name" | gzip --no-name -9 >"$dist/$name.tar.gz"
(cd "$dist" && sha256sum "$name.tar.gz" >SHA256SUMS)
echo "$dist/$name.tar.gz"
cat "$dist/SHA256SUMS"
