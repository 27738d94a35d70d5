#!/usr/bin/env bash
# Passes all tests on a fresh Debian machine that has Rust and a C linker. Installs what the tests
# need itself (as root); without root it says what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

# Real file systems for the disk format's matrix (mkfs of ext4, xfs, btrfs; tar and setfattr for the
# copy tests). A missing peer is installed, not skipped.
declare -A package=(
  [mkfs.ext4]=e2fsprogs [mkfs.xfs]=xfsprogs [mkfs.btrfs]=btrfs-progs [setfattr]=attr [tar]=tar
  [mount]=mount [losetup]=mount [cc]=gcc
)
export PATH="$PATH:/usr/sbin:/sbin"
missing=()
for tool in "${!package[@]}"; do
  command -v "$tool" >/dev/null || missing+=("${package[$tool]}")
done
if ((${#missing[@]})); then
  if [ "$(id -u)" != 0 ]; then
    echo "tests need these Debian packages: ${missing[*]}; install them, or run this as root" >&2
    exit 2
  fi
  echo "installing: ${missing[*]}" >&2
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi

# As root all file systems of the matrix must be there; otherwise the tests say what they left out.
if [ "$(id -u)" = 0 ]; then
  export NETFS_FS_MATRIX=required
fi
cargo test --workspace --locked "$@"
