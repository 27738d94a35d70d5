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
//! `NETFS_MODEL_STEPS` sets the steps of a run (default 1000), `NETFS_MODEL_SEED` the first seed (and
//! the only one, unless the number is given too), `NETFS_MODEL_RUNS` the number of seeds of each test.
//! `scripts/model.sh 1000000` makes that many steps and prints what they went through.

mod covered;
mod disk;
mod life;
mod reference;
mod rng;
mod steps;
mod threads;
mod world;

use covered::{Covered, Progress};
use disk::DiskKind;
use world::World;

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}

fn run(kind: DiskKind, first_seed: u64, runs: u64) {
    let steps = number("NETFS_MODEL_STEPS").unwrap_or(1000);
    let runs = number("NETFS_MODEL_RUNS").unwrap_or(runs);
    let seeds = match (number("NETFS_MODEL_SEED"), number("NETFS_MODEL_RUNS")) {
        (Some(seed), None) => seed..seed + 1,
        (first, _) => {
            let first = first.unwrap_or(first_seed);
            first..first + runs
        }
    };
    let (mut covered, mut progress) = (Covered::default(), Progress::new());
    let about = format!("model, cache {kind:?}");
    for seed in seeds.clone() {
        let mut world = World::new(seed, kind);
        for step in 1..=steps {
            world.step = step;
            world.random_step();
        }
        covered.add(&world.finish());
        progress.passed(&about, seed, (seed + 1 - seeds.start) * steps);
    }
    eprintln!("{about}: seeds {seeds:?}, {steps} steps each, went through\n{covered}");
    if (seeds.end - seeds.start) * steps >= 10_000 {
        for what in ["read At", "read Slices", "read Bypass", "read Unbuffered", "restart", "fault"]
            .into_iter()
            .chain(["stats evictions", "stats drops", "stats transient_reads"])
            .chain((kind != DiskKind::None).then_some("stats disk_hit_bytes"))
        {
            assert!(covered.sum(what) > 0, "nothing of {what:?} happened: what did this prove?");
        }
    }
}

#[test]
fn every_read_is_what_the_reference_allows_without_a_disk() {
    run(DiskKind::None, 1_000, 35);
}

#[test]
fn every_read_is_what_the_reference_allows_on_the_memory_backend() {
    run(DiskKind::Memory, 2_000, 45);
}

#[test]
fn every_read_is_what_the_reference_allows_on_a_cache_directory() {
    run(DiskKind::Directory, 3_000, 20);
}
