#!/usr/bin/env bash
# Every dependency, of every target, must be usable under Apache-2.0/MIT terms.
set -euo pipefail
cd "$(dirname "$0")/.."

allowed='^(MIT|Apache-2\.0|ISC|BSD-2-Clause|BSD-3-Clause|Zlib|Unicode-3\.0|Unlicense|0BSD|CC0-1\.0|BSL-1\.0|Apache-2\.0 WITH LLVM-exception)$'
bad=0
while IFS=$'\t' read -r crate license; do
  ok=0
  # "A OR B": one allowed choice is enough; "A AND B": all must be allowed.
  while read -r choice; do
    all=1
    while read -r part; do
      [[ "$part" =~ $allowed ]] || all=0
    done < <(sed 's/ AND /\n/g; s/[()]//g' <<<"$choice")
    [ "$all" = 1 ] && ok=1
  done < <(sed 's# OR #\n#g; s#/#\n#g' <<<"${license//[()]/}")
  if [ "$ok" = 0 ]; then
    echo "licence not allowed: $crate: ${license:-none stated}" >&2
    bad=1
  fi
done < <(cargo tree --workspace --locked -e normal,build,dev --target all --prefix none --format $'{p}\t{l}' |
  sed 's/ (\*)$//' | grep . | sort -u)
exit "$bad"
