#!/usr/bin/env bash
# The model tests (netfs/tests/model, netfs/tests/write_model) at length: scripts/model.sh [STEPS] [FIRST_SEED]
# Each makes STEPS (default 1000000), shared out among no cache, the cache in memory and a cache directory.
# Prints the seeds as they pass, then what was gone through. A failure prints the seed that repeats it.
set -euo pipefail
cd "$(dirname "$0")/.."

steps="${1:-1000000}"
first="${2:-100000}"
# Runs of 1000 steps: a world's settings (promises, limits, budget) are drawn once a run.
runs=$(((steps / 1000 + 2) / 3))
export NETFS_MODEL_STEPS=1000 NETFS_MODEL_RUNS="$runs"
at="$first"
for test in model:every_read_is_what_the_reference_allows write_model:every_byte_written_is_shown_and_kept; do
  for kind in without_a_disk on_the_memory_backend on_a_cache_directory; do
    echo "== ${test%%:*} $kind: $runs runs of 1000 steps, seeds $at and up"
    NETFS_MODEL_SEED="$at" cargo test -p netfs --test "${test%%:*}" --locked -- \
      --nocapture "${test#*:}_$kind"
    at=$((at + runs))
  done
done
