#!/usr/bin/env bash
# Runs the code that holds `unsafe` under what finds its mistakes. Needs a nightly compiler with the
# components miri and rust-src (rustup component add miri rust-src --toolchain nightly).
#
#   scripts/unsafe.sh            all of it, some ten minutes
#   scripts/unsafe.sh miri       Miri: folio memory, arena, sizes and the biased lock, every access checked
#   scripts/unsafe.sh thread     ThreadSanitizer: the page cache and the whole core on threads
#   scripts/unsafe.sh address    AddressSanitizer: the whole core over a cache directory
set -euo pipefail
cd "$(dirname "$0")/.."

what="${1:-all}"
host="$(rustc -vV | sed -n 's/^host: //p')"
nightly="${NIGHTLY:-nightly}"
if ! cargo "+$nightly" --version >/dev/null 2>&1; then
  echo "no $nightly toolchain: rustup toolchain install $nightly -c miri -c rust-src" >&2
  exit 2
fi

run_miri() {
  echo "== Miri"
  # No mmap there: the arena's chunks come from the language's allocator (folio/arena/region.rs).
  # Miri is some hundred times slower: few random cases.
  PROPTEST_CASES=4 MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-ignore-leaks" \
    cargo "+$nightly" miri test -p netfs --lib --locked --target-dir target/miri -- \
    folio::memory folio::arena folio::state folio::waiters sizes sync::biased
}

# The standard library is built with the sanitizer too: what it does to our memory counts.
sanitized() {
  local sanitizer="$1"
  shift
  echo "== ${sanitizer} sanitizer: $*"
  RUSTFLAGS="-Zsanitizer=$sanitizer" RUSTDOCFLAGS="-Zsanitizer=$sanitizer" \
    cargo "+$nightly" test -Zbuild-std --target "$host" --locked --target-dir "target/$sanitizer" "$@"
}

run_thread() {
  sanitized thread -p netfs --lib -- folio iomode sizes sync coherency
  NETFS_MODEL_RUNS=2 sanitized thread -p netfs --test model -- concurrent
}

run_address() {
  sanitized address -p netfs --lib -- folio request read
  NETFS_MODEL_RUNS=4 sanitized address -p netfs --test model
}

case "$what" in
  miri) run_miri ;;
  thread) run_thread ;;
  address) run_address ;;
  all) run_miri && run_thread && run_address ;;
  *) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
esac
