#!/usr/bin/env bash
# Runs fuzz targets for a time each, led by coverage: TIME (seconds for each, 300 if unset), TARGETS (all if unset).
# What is found stays in fuzz/artifacts/; new inputs that reach new code are kept in fuzz/corpus/ after being minimised.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.13.2
tools=$PWD/target/tools
if ! PATH="$tools/bin:$PATH" cargo fuzz --version >/dev/null 2>&1; then
  echo "installing cargo-fuzz $version into target/tools"
  cargo install --quiet --locked --root "$tools" cargo-fuzz --version "$version"
fi
export PATH="$tools/bin:$PATH"

time=${TIME:-300}
targets=${TARGETS:-$(sed -n 's/^name = "\(.*\)"$/\1/p' fuzz/Cargo.toml | grep -v '^oubliette-fuzz$')}
# Without a sanitizer the stable compiler will do; Rust's own checks are on.
options=(--sanitizer none --debug-assertions)
for target in $targets; do
  cargo fuzz build "${options[@]}" "$target"
done
failed=0
for target in $targets; do
  # What a run learns goes into a folder of its own first: a corpus in git is small.
  grown=target/fuzz/$target
  mkdir -p "$grown"
  if ! cargo fuzz run "${options[@]}" "$target" "$grown" "fuzz/corpus/$target" -- \
    -max_total_time="$time" -max_len=8192 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 \
    >"target/fuzz/$target.log" 2>&1; then
    failed=1
    echo "$target: a promise is broken; see target/fuzz/$target.log and fuzz/artifacts/$target/"
  fi
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "target/fuzz/$target.log")
  covered=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "target/fuzz/$target.log" | tail -n 1)
  echo "$target: ${runs:-0} inputs in $time s, ${covered:-0} edges"
done
exit "$failed"
