//! Runs: one world a seed, several worlds at once.
//!
//! `NETFS_MODEL_STEPS` sets the steps of a run (default 1000), `NETFS_MODEL_SEED` the first seed (and
//! the only one, unless the number is given too), `NETFS_MODEL_RUNS` the number of seeds of each test.

use std::{
    ops::Range,
    panic::resume_unwind,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    covered::{Covered, Progress},
    disk::DiskKind,
};

/// A world under test beside its reference.
pub(crate) trait Model: Sized {
    const NAME: &'static str;

    fn new(seed: u64, kind: DiskKind) -> Self;

    /// Makes a random step and judges what came of it.
    ///
    /// # Panics
    /// At a difference.
    fn step(&mut self, step: u64);

    /// Judges the end; says what it went through.
    fn finish(self) -> Covered;
}

/// Worlds at once in one test. Each waits most of the time, for its driver or for nothing to move.
const AT_ONCE: usize = 8;

pub(crate) fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}

/// Makes `runs` runs (or as many as asked for) from `first_seed` on. Of long ones, each of `musts` (the
/// beginning of a name in [`Covered`]) must have happened.
pub(crate) fn run<M: Model>(kind: DiskKind, first_seed: u64, runs: u64, musts: &[&str]) {
    let steps = number("NETFS_MODEL_STEPS").unwrap_or(1000);
    let seeds = match (number("NETFS_MODEL_SEED"), number("NETFS_MODEL_RUNS")) {
        (Some(seed), None) => seed..seed + 1,
        (seed, asked) => {
            let first = seed.unwrap_or(first_seed);
            first..first + asked.unwrap_or(runs)
        }
    };
    let about = format!("{}, cache {kind:?}", M::NAME);
    let covered = run_seeds::<M>(kind, &seeds, steps, &about);
    eprintln!("{about}: seeds {seeds:?}, {steps} steps each, went through\n{covered}");
    if (seeds.end - seeds.start) * steps >= 10_000 {
        for what in musts {
            assert!(covered.sum(what) > 0, "nothing of {what:?} happened: what did this prove?");
        }
    }
}

fn run_seeds<M: Model>(kind: DiskKind, seeds: &Range<u64>, steps: u64, about: &str) -> Covered {
    let next = AtomicU64::new(seeds.start);
    let so_far = Mutex::new((Covered::default(), Progress::new(), 0));
    let work = || {
        // A failed world has poisoned nothing but itself, and no other begins.
        let _stop = StopOnPanic(&next, seeds.end);
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let mut world = M::new(seed, kind);
            (1..=steps).for_each(|step| world.step(step));
            let went_through = world.finish();
            let mut so_far = so_far.lock().expect("nobody panics with it");
            let (covered, progress, made) = &mut *so_far;
            covered.add(&went_through);
            *made += steps;
            progress.passed(about, seed, *made);
        }
    };
    std::thread::scope(|scope| {
        let workers = AT_ONCE.min((seeds.end - seeds.start) as usize);
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            if let Err(panic) = worker.join() {
                resume_unwind(panic);
            }
        }
    });
    so_far.into_inner().expect("all have ended well").0
}

struct StopOnPanic<'a>(&'a AtomicU64, u64);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(self.1, Ordering::Relaxed);
        }
    }
}
