#!/usr/bin/env bash
# The model test (netfs/tests/model) at length: scripts/model.sh [STEPS] [FIRST_SEED]
# STEPS (default 1000000) are shared out among no cache, the cache in memory and a cache directory.
# Prints the seeds as they pass, then what was gone through. A failure prints the seed that repeats it.
set -euo pipefail
cd "$(dirname "$0")/.."

steps="${1:-1000000}"
first="${2:-100000}"
# Runs of 1000 steps: a world's settings (promises, limits, budget) are drawn once a run.
runs=$(((steps / 1000 + 2) / 3))
export NETFS_MODEL_STEPS=1000 NETFS_MODEL_RUNS="$runs"
at="$first"
for kind in without_a_disk on_the_memory_backend on_a_cache_directory; do
  echo "== $kind: $runs runs of 1000 steps, seeds $at and up"
  NETFS_MODEL_SEED="$at" cargo test -p netfs --test model --locked -- \
    --nocapture "every_read_is_what_the_reference_allows_$kind"
  at=$((at + runs))
done
