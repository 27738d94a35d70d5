//! Random use of the whole read side beside a plain reference: after every step what was read must be
//! what the reference allows.
//!
//! # The rule
//!
//! The reference keeps every version a file ever had and which of them may still be read. A read of a
//! file that starts at time `t` may return version `v`, and only whole, if
//!
//! - `v` is the current version, or was the current one at some moment between start and end; or
//! - `v` was replaced at `e < t` **and** no event about the file or its volume was sent since **and** a
//!   promise may stand: the file's promises last until broken, or `t < e + lifetime` (margin taken off;
//!   the maximum for an adaptive one) **and**, unless the file is versionless, no read has found a
//!   later one since.
//!
//! A change with an event, a spurious break, a volume break, a scrub, a snapshot move,
//! `File::invalidate` and a restart all leave only the current version. A file whose promises are none
//! shows its current version to every read.
//!
//! Under a promise for the whole volume any file's reply vouches for all of them; in those runs nothing
//! changes silently.
//!
//! A versionless file that changes silently under a standing promise may show bytes of several allowed
//! versions: nothing tells them apart. In every other case a read of at most 1 MiB is never a mix.
//!
//! A file that is gone answers `ESTALE`; bytes only while a promise from before its silent removal may
//! stand. Any other error is wrong unless a fault of the origin was injected that can fail calls. Faults
//! of the cache explain nothing: they never show.
//!
//! Slices handed out never change. The adapter contract is never broken (`take_breaches`).
//!
//! `NETFS_MODEL_STEPS`, `NETFS_MODEL_SEED`, `NETFS_MODEL_RUNS`: see `modelling/runs.rs`.
//! `scripts/model.sh 1000000` makes that many steps and prints what they went through.

#[path = "../modelling/mod.rs"]
mod modelling;
mod reference;
mod steps;
mod threads;
mod world;

use modelling::{disk::DiskKind, runs::run};
use world::World;

const MUSTS: &[&str] = &[
    "read At",
    "read Slices",
    "read Bypass",
    "read Unbuffered",
    "restart",
    "fault",
    "stats evictions",
    "stats drops",
    "stats transient_reads",
];
const MUSTS_OF_A_DISK: &[&str] = &["stats disk_hit_bytes"];

#[test]
fn every_read_is_what_the_reference_allows_without_a_disk() {
    run::<World>(DiskKind::None, 1_000, 35, MUSTS);
}

#[test]
fn every_read_is_what_the_reference_allows_on_the_memory_backend() {
    run::<World>(DiskKind::Memory, 2_000, 45, &[MUSTS, MUSTS_OF_A_DISK].concat());
}

#[test]
fn every_read_is_what_the_reference_allows_on_a_cache_directory() {
    run::<World>(DiskKind::Directory, 3_000, 20, &[MUSTS, MUSTS_OF_A_DISK].concat());
}
