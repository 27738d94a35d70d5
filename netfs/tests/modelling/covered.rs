//! What a run went through: a model test that never evicts, misses or restarts proves little, and
//! nobody sees that from "ok".

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use netfs::Stats;

/// Counts by name.
#[derive(Clone, Default)]
pub(crate) struct Covered(BTreeMap<String, u64>);

impl Covered {
    pub(crate) fn note(&mut self, what: impl Into<String>) {
        *self.0.entry(what.into()).or_default() += 1;
    }

    /// Adds what a context counted before it ended.
    pub(crate) fn context(&mut self, stats: &Stats) {
        for (name, n) in stats.fields().into_iter().filter(|(_, n)| *n > 0) {
            *self.0.entry(format!("stats {name}")).or_default() += n;
        }
    }

    pub(crate) fn add(&mut self, other: &Covered) {
        for (what, n) in &other.0 {
            *self.0.entry(what.clone()).or_default() += n;
        }
    }

    /// The sum of all whose name begins like this.
    pub(crate) fn sum(&self, prefix: &str) -> u64 {
        self.0.iter().filter(|(what, _)| what.starts_with(prefix)).map(|(_, n)| n).sum()
    }
}

impl fmt::Display for Covered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, n) in &self.0 {
            writeln!(f, "  {n:>12} {what}")?;
        }
        Ok(())
    }
}

/// Says which seeds have passed, now and then, where a run takes long.
pub(crate) struct Progress {
    said: Instant,
    every: Duration,
}

impl Progress {
    pub(crate) fn new() -> Progress {
        Progress { said: Instant::now(), every: Duration::from_secs(20) }
    }

    pub(crate) fn passed(&mut self, what: &str, seed: u64, steps: u64) {
        if self.said.elapsed() > self.every {
            self.said = Instant::now();
            eprintln!("{what}: seeds up to {seed} passed, {steps} steps so far");
        }
    }
}
