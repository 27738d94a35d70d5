#!/usr/bin/env bash
# Runs the fuzzers for a while, all at once. Needs a nightly compiler and a C++ one, not cargo-fuzz.
#
#   scripts/fuzz.sh [SECONDS] [FUZZER...]     10 seconds, all of fuzz/fuzz_targets
#
# They start from fuzz/corpus; what they find on the way goes to a scratch directory, so that the corpora
# stay small. An input that breaks one is kept in fuzz/artifacts/FUZZER, and the exit status is 1.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds="${1:-10}"
shift || true
fuzzers=("$@")
if [ "${#fuzzers[@]}" = 0 ]; then
  for file in fuzz/fuzz_targets/*.rs; do fuzzers+=("$(basename "$file" .rs)"); done
fi
nightly="${NIGHTLY:-nightly}"
if ! cargo "+$nightly" --version >/dev/null 2>&1; then
  echo "no $nightly toolchain: rustup toolchain install $nightly" >&2
  exit 2
fi
host="$(rustc -vV | sed -n 's/^host: //p')"

# What cargo-fuzz passes, without the address sanitizer: the decoders hold no unsafe code. A target is
# named so that build scripts and macros are not instrumented.
flags=(--cfg fuzzing -Cdebug-assertions -Coverflow-checks -Cpasses=sancov-module)
for arg in level=4 inline-8bit-counters pc-table trace-compares; do
  flags+=("-Cllvm-args=-sanitizer-coverage-$arg")
done
RUSTFLAGS="${flags[*]}" cargo "+$nightly" build --manifest-path fuzz/Cargo.toml --locked \
  --profile smoke --target "$host" --target-dir target/fuzz

scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
pids=()
for fuzzer in "${fuzzers[@]}"; do
  mkdir -p "$scratch/$fuzzer" "fuzz/artifacts/$fuzzer"
  "target/fuzz/$host/smoke/$fuzzer" -max_total_time="$seconds" -max_len=4096 -timeout=10 \
    -print_final_stats=1 -artifact_prefix="fuzz/artifacts/$fuzzer/" \
    "$scratch/$fuzzer" "fuzz/corpus/$fuzzer" >"$scratch/$fuzzer.log" 2>&1 &
  pids+=($!)
done
failed=0
for i in "${!fuzzers[@]}"; do
  log="$scratch/${fuzzers[$i]}.log"
  if wait "${pids[$i]}"; then
    runs="$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")"
    echo "${fuzzers[$i]}: $runs inputs, nothing found"
  else
    echo "${fuzzers[$i]}: broken" >&2
    tail -n 40 "$log" >&2
    failed=1
  fi
done
exit "$failed"
