#!/usr/bin/env bash
# Runs the code that holds `unsafe` under what finds its mistakes. Needs a nightly compiler with the
# components miri and rust-src (rustup component add miri rust-src --toolchain nightly).
#
#   scripts/unsafe.sh            all of it, some ten minutes
#   scripts/unsafe.sh miri       Miri: folio memory, arena, sizes and the biased lock, every access checked
#   scripts/unsafe.sh thread     ThreadSanitizer: page cache, cookies, counters and the whole core on threads
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
    folio::memory folio::arena folio::state folio::waiters w1_memory r_2_lent sizes sync::biased
}

# The standard library is built with the sanitizer too, where its source is installed: what it does to our
# memory counts. Without, what passes through it is not seen, and ThreadSanitizer may report what is not so.
std=()
if [ -d "$(rustc "+$nightly" --print sysroot)/lib/rustlib/src/rust/library" ]; then
  std=(-Zbuild-std)
else
  echo "no rust-src in $nightly: the standard library is not checked along" >&2
fi

sanitized() {
  local sanitizer="$1"
  shift
  echo "== ${sanitizer} sanitizer: $*"
  # Frame pointers and line tables, so that a report says where; a finding ends the run.
  RUSTFLAGS="-Zsanitizer=$sanitizer -Cforce-frame-pointers=yes -Cdebuginfo=line-tables-only" \
    TSAN_OPTIONS="halt_on_error=1 second_deadlock_stack=1 ${TSAN_OPTIONS:-}" \
    ASAN_OPTIONS="detect_stack_use_after_return=1 ${ASAN_OPTIONS:-}" \
    cargo "+$nightly" test "${std[@]}" --target "$host" --locked --target-dir "target/$sanitizer" "$@"
}

# Skipped: the cookie machine, explored at length and pure: no thread, no unsafe.
run_thread() {
  sanitized thread -p netfs --lib -- \
    folio iomode sizes sync coherency stats clock fscache read request --skip cookie_state
  NETFS_MODEL_RUNS=2 sanitized thread -p netfs --test model -- concurrent
  NETFS_MODEL_RUNS=2 sanitized thread -p netfs --test faults
}

run_address() {
  sanitized address -p netfs --lib -- folio request read sync stats fscache --skip cookie_state
  NETFS_MODEL_RUNS=4 sanitized address -p netfs --test model
}

case "$what" in
  miri) run_miri ;;
  thread) run_thread ;;
  address) run_address ;;
  all) run_miri && run_thread && run_address ;;
  *) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
esac
