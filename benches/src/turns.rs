//! Measuring against a limit, honestly.
//!
//! On a shared machine an absolute figure means little. So each measurement here is a ratio: our
//! operation and the limit it is compared with run in the same process, in turns, for several rounds.
//! The ratio is that of the two medians, everywhere. The median of the rounds' own ratios is the check
//! on it: where the figures of a side fall into two heaps, or drift, the two differ, and neither is to
//! be believed ([`Turns::is_steady`]).
//!
//! ```
//! use netfs_bench::turns::{in_turns, nanos_each};
//! let data = vec![1u8; 4096];
//! let ours = || Ok::<_, ()>(nanos_each(200, |_| data.iter().map(|b| u64::from(*b)).sum::<u64>()));
//! let limit = || Ok(nanos_each(200, |_| data.len()));
//! let turns = in_turns(7, ours, limit)?;
//! assert!(turns.rounds == 7 && turns.ratio() > 0.0);
//! # Ok::<(), ()>(())
//! ```

use std::{hint::black_box, time::Instant};

/// What came of measuring in turns: medians of the rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Turns {
    /// Our figure.
    pub ours: f64,
    /// The limit's.
    pub limit: f64,
    /// Median of the rounds' own `ours / limit`: neighbours that slow down a round slow down both sides.
    pub by_round: f64,
    /// Rounds that counted.
    pub rounds: usize,
}

/// How far the two ways to come to a ratio may be apart.
const STEADY_WITHIN: f64 = 1.2;

impl Turns {
    /// `ours / limit`.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.ours / self.limit.max(f64::MIN_POSITIVE)
    }

    /// Whether the median of the rounds' ratios says the same, within 20 %.
    #[must_use]
    pub fn is_steady(&self) -> bool {
        let (ratio, by_round) = (self.ratio(), self.by_round);
        ratio <= by_round * STEADY_WITHIN && by_round <= ratio * STEADY_WITHIN
    }
}

/// Measures `ours` and `limit` in turns, `rounds` times (at least once) after a round of warming up
/// that does not count. Each returns one figure.
///
/// # Errors
/// The first error of either side.
pub fn in_turns<E>(
    rounds: usize,
    mut ours: impl FnMut() -> Result<f64, E>,
    mut limit: impl FnMut() -> Result<f64, E>,
) -> Result<Turns, E> {
    let rounds = rounds.max(1);
    let mut pairs = Vec::with_capacity(rounds);
    for round in 0..=rounds {
        let pair = (ours()?, limit()?);
        if round > 0 {
            pairs.push(pair);
        }
    }
    Ok(Turns {
        ours: median(pairs.iter().map(|p| p.0).collect()),
        limit: median(pairs.iter().map(|p| p.1).collect()),
        by_round: median(pairs.iter().map(|p| p.0 / p.1.max(f64::MIN_POSITIVE)).collect()),
        rounds,
    })
}

/// Nanoseconds an operation, over `count` of them; `op` gets the number of its call.
pub fn nanos_each<T>(count: usize, mut op: impl FnMut(usize) -> T) -> f64 {
    let start = Instant::now();
    for i in 0..count {
        black_box(&op(i));
    }
    start.elapsed().as_secs_f64() * 1e9 / count.max(1) as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn both_sides_run_in_turns_and_the_first_round_does_not_count() {
        let turns = RefCell::new(String::new());
        let side = |name: char, figures: [f64; 4]| {
            let (turns, mut round) = (&turns, 0);
            move || {
                turns.borrow_mut().push(name);
                round += 1;
                Ok::<_, ()>(figures[round - 1])
            }
        };
        let row = in_turns(3, side('o', [1e9, 2.0, 8.0, 3.0]), side('l', [1.0, 1.0, 2.0, 3.0]));
        assert_eq!(row, Ok(Turns { ours: 3.0, limit: 2.0, by_round: 2.0, rounds: 3 }));
        assert_eq!(*turns.borrow(), "olololol");
    }

    #[test]
    fn a_ratio_that_depends_on_how_it_is_made_is_not_steady() {
        let turns = |by_round| Turns { ours: 3.0, limit: 2.0, by_round, rounds: 9 };
        for (by_round, steady) in
            [(1.5, true), (1.26, true), (1.79, true), (1.2, false), (2.0, false)]
        {
            assert_eq!(turns(by_round).ratio(), 1.5);
            assert_eq!(turns(by_round).is_steady(), steady, "{by_round}");
        }
    }

    #[test]
    fn an_error_ends_the_measurement() {
        assert_eq!(in_turns(3, || Ok(1.0), || Err("no")), Err("no"));
    }

    #[test]
    fn each_call_knows_its_number() {
        let mut seen = Vec::new();
        assert!(nanos_each(3, |i| seen.push(i)).is_finite());
        assert_eq!(seen, [0, 1, 2]);
    }
}
