//! Measuring against a limit, honestly.
//!
//! On a shared machine an absolute figure means little. So each measurement here is a ratio: our
//! operation and the limit it is compared with run in the same process, in turns, for several rounds,
//! and the median of the rounds' ratios counts.
//!
//! ```
//! use netfs_bench::compare;
//! let data = vec![1u8; 4096];
//! let row = compare("sum", 5, 200, || data.iter().map(|b| u64::from(*b)).sum::<u64>(),
//!     || std::hint::black_box(&data).len() as u64);
//! assert!(row.ratio > 0.0 && row.case == "sum");
//! ```

pub mod replay;
pub mod trace;

use std::{fmt::Write as _, hint::black_box, time::Instant};

/// One case's outcome.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its name.
    pub case: &'static str,
    /// Nanoseconds an operation of ours, median of the rounds.
    pub ours: f64,
    /// Nanoseconds an operation of the limit, median of the rounds.
    pub limit: f64,
    /// Median of the rounds' `ours / limit`.
    pub ratio: f64,
}

impl Row {
    /// One JSON object, for machines.
    #[must_use]
    pub fn json(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = write!(
            out,
            "{{\"case\":\"{}\",\"ours\":{:.1},\"limit\":{:.1},\"ratio\":{:.3},\"unit\":\"ns\"}}",
            self.case, self.ours, self.limit, self.ratio
        );
        out
    }
}

/// Runs `ours` and `limit` in turns, `batch` operations at a time, for `rounds` rounds (at least one)
/// after a round of warming up.
pub fn compare<A, B>(
    case: &'static str,
    rounds: usize,
    batch: u32,
    mut ours: impl FnMut() -> A,
    mut limit: impl FnMut() -> B,
) -> Row {
    let mut rows = Vec::new();
    for round in 0..=rounds.max(1) {
        let pair = (time(batch, &mut ours), time(batch, &mut limit));
        if round > 0 {
            rows.push(pair);
        }
    }
    let median = |values: Vec<f64>| {
        let mut values = values;
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Row {
        case,
        ours: median(rows.iter().map(|r| r.0).collect()),
        limit: median(rows.iter().map(|r| r.1).collect()),
        ratio: median(rows.iter().map(|r| r.0 / r.1.max(0.001)).collect()),
    }
}

/// Nanoseconds an operation.
fn time<T>(batch: u32, op: &mut impl FnMut() -> T) -> f64 {
    let start = Instant::now();
    for _ in 0..batch.max(1) {
        black_box(op());
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(batch.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_run_in_turns_and_equally_often() {
        let turns = std::cell::RefCell::new(String::new());
        let row = compare(
            "turns",
            2,
            3,
            || turns.borrow_mut().push('o'),
            || turns.borrow_mut().push('l'),
        );
        assert_eq!(turns.into_inner(), "ooolll".repeat(3), "a warm-up round and two that count");
        assert!(row.ratio.is_finite() && row.json().starts_with("{\"case\":\"turns\","));
    }
}
