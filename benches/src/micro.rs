//! The tables of `netfs bench micro` and `netfs bench write`: what a hit, a fill, an open, an idle cache and
//! a write cost, each against its limit measured in turns in the same run.
//!
//! All of it goes through the public [`File`](netfs::File), with a promise that has a deadline and with
//! statistics on. A ratio counts only if the work was done: each case compares the library's counters
//! with what it asked for, and compares every byte with the origin outside the timed part; a case that
//! did less than it should is an error, not a figure.
//!
//! | part | cases |
//! |---|---|
//! | `memory` | `mem-ref-4k`, `mem-ref-4k-2t`, `mem-copy-4k`, `mem-copy-1m` |
//! | `disk` | `disk-1m`, `disk-4k`, `disk-cold-1m` |
//! | `fill` | `miss-fill` |
//! | `scale` | `open-scale` |
//! | `idle`, `tracer` | `idle` |
//! | `write` | `buffered-1m`, `bytes-1m`, `overwrite-4k`, `sparse-small`, `read-under-write` |
//! | `writeback` | `writeback` |
//! | `bed` | what they share: an origin, a context, a cache directory |

mod bed;
mod disk;
mod error;
mod fill;
mod idle;
mod memory;
mod scale;
mod tracer;
mod write;
mod writeback;

use std::{fmt, path::PathBuf, process::Command};

use serde::Serialize;

pub use disk::StoredFile;
pub use error::MicroError;
pub use fill::ColdFile;
pub use idle::{Idler, idle_child};
pub use memory::{HotFile, on_two_threads};
pub use scale::ManyObjects;

use crate::turns::Turns;

/// Rounds of a case whose rounds are long.
pub const ROUNDS: usize = 9;
/// Rounds of a case whose rounds are short: a few milliseconds at most, so that on a busy machine most
/// of them are not interrupted, and none of them is longer on one side than on the other for that.
pub const SHORT_ROUNDS: usize = 51;

/// What figures are in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum Unit {
    /// Nanoseconds an operation.
    #[serde(rename = "ns")]
    Nanos,
    /// 10^9 bytes a second.
    #[serde(rename = "GB/s")]
    GigabytesPerSecond,
    /// Seconds.
    #[serde(rename = "s")]
    Seconds,
    /// Microseconds.
    #[serde(rename = "us")]
    Micros,
    /// Bytes.
    #[serde(rename = "bytes")]
    Bytes,
    /// System calls.
    #[serde(rename = "calls")]
    Calls,
}

/// What a case is to reach.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Reach {
    /// A ratio of times.
    AtMost(f64),
    /// A ratio of speeds.
    AtLeast(f64),
    /// Nothing at all is to happen.
    None,
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reach::AtMost(ratio) => write!(f, "<= {ratio}"),
            Reach::AtLeast(ratio) => write!(f, ">= {ratio}"),
            Reach::None => f.write_str("0"),
        }
    }
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// What is measured.
    pub what: &'static str,
    /// What it is compared with.
    pub limit: &'static str,
    /// What the ratio is to reach.
    pub reach: Reach,
    run: fn(&Settings) -> Result<Outcome, MicroError>,
}

/// How the cases are run.
#[derive(Debug)]
pub struct Settings {
    /// Smaller sets and shorter rounds: a check that everything works, not a measurement.
    pub quick: bool,
    /// Where cache directories are made. The disk cases measure the disk it is on.
    pub dir: PathBuf,
    /// The command that runs [`idle_child`] in a process of its own; the directory is added to it.
    pub idler: fn() -> std::io::Result<Command>,
}

/// What a case found: the fields of its JSON object.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Outcome {
    /// The case.
    pub case: &'static str,
    /// Our figure: median of the rounds.
    pub ours: f64,
    /// The limit's figure: median of the rounds.
    pub limit: f64,
    /// `ours / limit`, the two above; `None` where the limit is nothing.
    pub ratio: Option<f64>,
    /// What `ours` and `limit` are in.
    pub unit: Unit,
    /// Median of the rounds' own ratios, only where that is more than a fifth off `ratio`: then the
    /// figures fall into heaps or drift, and say little.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsteady_ratio_by_round: Option<f64>,
    /// Rounds that counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rounds: Option<usize>,
    /// Bytes readers asked for and got in the measured calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moved_bytes: Option<u64>,
    /// Of those, the bytes that came from the cache that is measured (hits) or reached it (fills).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached_bytes: Option<u64>,
}

/// The table, in order.
pub const CASES: [Case; 10] = [
    Case {
        name: "mem-ref-4k",
        what: "memory hit 4 KiB, zero-copy",
        limit: "RwLock<Vec<Option<Arc>>> lookup + Arc clone, an entry for each of the same pages",
        reach: Reach::AtMost(2.5),
        run: memory::by_reference,
    },
    Case {
        name: "mem-ref-4k-2t",
        what: "the same on two threads",
        limit: "the same on two threads",
        reach: Reach::AtMost(2.5),
        run: memory::by_reference_two_threads,
    },
    Case {
        name: "mem-copy-4k",
        what: "memory hit 4 KiB copied, 16 MiB hot set",
        limit: "the lookup + memcpy 4 KiB",
        reach: Reach::AtMost(1.5),
        run: memory::small_copies,
    },
    Case {
        name: "mem-copy-1m",
        what: "memory hit 1 MiB copied, 1 GiB set",
        limit: "memcpy of the same size and set",
        reach: Reach::AtLeast(0.85),
        run: memory::large_copies,
    },
    Case {
        name: "disk-1m",
        what: "disk hit 1 MiB sequential, memory bypassed, checksums on",
        limit: "pread of the same file",
        reach: Reach::AtLeast(0.75),
        run: disk::sequential,
    },
    Case {
        name: "disk-4k",
        what: "disk hit 4 KiB random, memory bypassed, checksums on",
        limit: "pread 4 KiB",
        reach: Reach::AtMost(1.5),
        run: disk::random,
    },
    Case {
        name: "disk-cold-1m",
        what: "disk-1m with the kernel's pages dropped",
        limit: "cold pread",
        reach: Reach::AtLeast(0.9),
        run: disk::cold,
    },
    Case {
        name: "miss-fill",
        what: "cold miss with cache fill (wait), origin limited to 1 GB/s",
        limit: "the same read without a cache",
        reach: Reach::AtLeast(0.85),
        run: fill::miss_fill,
    },
    Case {
        name: "open-scale",
        what: "open cache + first hit with 10^5 objects",
        limit: "the same with 10^3 objects",
        reach: Reach::AtMost(1.5),
        run: scale::open_scale,
    },
    Case {
        name: "idle",
        what: "system calls on the cache directory, 60 s of an idle open cache",
        limit: "none",
        reach: Reach::None,
        run: idle::idle,
    },
];

/// The table of writes, in order.
pub const WRITES: [Case; 6] = [
    Case {
        name: "buffered-1m",
        what: "buffered 1 MiB writes",
        limit: "memcpy into memory of the same kind",
        reach: Reach::AtLeast(0.8),
        run: write::buffered,
    },
    Case {
        name: "bytes-1m",
        what: "the same of Bytes, which are not copied",
        limit: "memcpy into memory of the same kind",
        reach: Reach::AtLeast(1.0),
        run: write::lent,
    },
    Case {
        name: "overwrite-4k",
        what: "4 KiB random overwrite of cached data",
        limit: "4 KiB copied hit read",
        reach: Reach::AtMost(2.0),
        run: write::overwrite,
    },
    Case {
        name: "sparse-small",
        what: "64 bytes every 4 KiB over 64 MiB: uploaded bytes, without an origin read",
        limit: "dirty bytes",
        reach: Reach::AtMost(1.05),
        run: write::sparse,
    },
    Case {
        name: "writeback",
        what: "writeback to an origin limited to 1 GB/s, cache copy on",
        limit: "the origin alone",
        reach: Reach::AtLeast(0.85),
        run: writeback::writeback,
    },
    Case {
        name: "read-under-write",
        what: "4 KiB hit, 99th percentile, while 1 GB/s is written back",
        limit: "the same idle",
        reach: Reach::AtMost(3.0),
        run: write::read_under_write,
    },
];

impl Case {
    /// The case of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Case> {
        CASES.iter().chain(&WRITES).find(|case| case.name == name)
    }

    /// Measures it.
    ///
    /// # Errors
    /// [`MicroError::NotDone`] if less was done than a figure would claim, [`MicroError::WrongBytes`]
    /// for a wrong byte, else what kept it from being measured.
    pub fn run(&self, settings: &Settings) -> Result<Outcome, MicroError> {
        (self.run)(settings)
    }

    /// Whether an outcome of this case reaches what it should.
    #[must_use]
    pub fn is_reached(&self, outcome: &Outcome) -> bool {
        match (self.reach, outcome.ratio) {
            (Reach::AtMost(most), Some(ratio)) => ratio <= most,
            (Reach::AtLeast(least), Some(ratio)) => ratio >= least,
            (Reach::None, _) => outcome.ours == 0.0,
            (_, None) => false,
        }
    }
}

impl Settings {
    /// `full`, or what a quick run does instead.
    fn or_quick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

impl Outcome {
    /// From measured turns and the bytes of all rounds, warming up included.
    ///
    /// # Errors
    /// [`MicroError::NotDone`] if the cache had no part in more than 2 % of the bytes.
    fn of(case: &'static str, unit: Unit, turns: Turns, work: Work) -> Result<Outcome, MicroError> {
        if work.moved == 0 || (work.cached as f64) < 0.98 * work.moved as f64 {
            return Err(MicroError::NotDone(format!(
                "{case}: of {} bytes only {} were cached",
                work.moved, work.cached
            )));
        }
        // Of the figures as they are printed, so that whoever divides them comes to the same.
        let turns = Turns { ours: rounded(turns.ours), limit: rounded(turns.limit), ..turns };
        Ok(Outcome {
            case,
            ours: turns.ours,
            limit: turns.limit,
            ratio: Some(rounded(turns.ratio())),
            unit,
            unsteady_ratio_by_round: (!turns.is_steady()).then(|| rounded(turns.by_round)),
            rounds: Some(turns.rounds),
            moved_bytes: Some(work.moved),
            cached_bytes: Some(work.cached),
        })
    }
}

impl Outcome {
    /// Two figures that were counted, not measured.
    fn plain(case: &'static str, ours: f64, limit: f64, unit: Unit) -> Outcome {
        Outcome {
            case,
            ours,
            limit,
            ratio: Some(rounded(ours / limit.max(f64::MIN_POSITIVE))),
            unit,
            unsteady_ratio_by_round: None,
            rounds: None,
            moved_bytes: None,
            cached_bytes: None,
        }
    }
}

/// What was done, for the check that it was.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
struct Work {
    moved: u64,
    cached: u64,
}

/// Four digits are more than the noise allows.
fn rounded(x: f64) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let unit = 10f64.powi(3 - x.abs().log10().floor() as i32);
    (x * unit).round() / unit
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURNS: Turns = Turns { ours: 12.3456, limit: 10.0, by_round: 1.3, rounds: 9 };

    #[test]
    fn an_outcome_has_the_documented_fields() {
        let work = Work { moved: 100, cached: 98 };
        let outcome = Outcome::of("disk-4k", Unit::Nanos, TURNS, work).expect("done");
        let json = serde_json::to_string(&outcome).expect("plain data");
        assert_eq!(
            json,
            "{\"case\":\"disk-4k\",\"ours\":12.35,\"limit\":10.0,\"ratio\":1.235,\"unit\":\"ns\",\
             \"rounds\":9,\"moved_bytes\":100,\"cached_bytes\":98}"
        );
    }

    #[test]
    fn a_ratio_is_that_of_the_printed_figures_and_says_if_it_is_unsteady() {
        let work = Work { moved: 100, cached: 98 };
        let outcome = |by_round| {
            let turns = Turns { ours: 60.96, limit: 4.754_9, by_round, rounds: 9 };
            Outcome::of("open-scale", Unit::Seconds, turns, work).expect("done")
        };
        assert_eq!(outcome(1.56).ratio, Some(rounded(60.96 / 4.755)));
        assert_eq!(outcome(1.56).unsteady_ratio_by_round, Some(1.56));
        assert_eq!(outcome(12.8).unsteady_ratio_by_round, None);
    }

    #[test]
    fn a_ratio_without_the_work_is_an_error() {
        for work in [Work { moved: 100, cached: 97 }, Work { moved: 0, cached: 0 }] {
            let outcome = Outcome::of("miss-fill", Unit::Nanos, TURNS, work);
            assert!(matches!(outcome, Err(MicroError::NotDone(_))), "{outcome:?}");
        }
    }

    #[test]
    fn a_reach_has_a_direction() {
        let outcome = |ratio, ours| Outcome {
            case: "",
            ours,
            limit: 0.0,
            ratio,
            unit: Unit::Seconds,
            unsteady_ratio_by_round: None,
            rounds: None,
            moved_bytes: None,
            cached_bytes: None,
        };
        let case = |name| Case::named(name).expect("in the table");
        assert!(case("disk-4k").is_reached(&outcome(Some(1.5), 1.0)));
        assert!(!case("disk-4k").is_reached(&outcome(Some(1.6), 1.0)));
        assert!(case("disk-1m").is_reached(&outcome(Some(0.75), 1.0)));
        assert!(!case("disk-1m").is_reached(&outcome(Some(0.7), 1.0)));
        assert!(case("idle").is_reached(&outcome(None, 0.0)));
        assert!(!case("idle").is_reached(&outcome(None, 1.0)));
        assert!(Case::named("none such").is_none());
    }

    #[test]
    fn four_digits_are_kept() {
        let all = [123_456.0, 0.012_345_6, 9.999_96, 0.0].map(rounded);
        assert_eq!(all, [123_500.0, 0.012_35, 10.0, 0.0]);
    }
}
