//! Why a missing byte is missing: two bits a granule of what was there and how it went.
//!
//! Only statistics depend on it, so it is coarse (the whole granule) and bounded: files beyond the
//! bound have their misses called cold.

use std::{collections::HashMap, ops::Range};

use super::slots::granule_of;

/// Why bytes are not in memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum MissReason {
    /// They never were there, as far as is known.
    Cold,
    /// They were evicted.
    Capacity,
    /// They were dropped because the file had changed, or might have.
    Coherency,
}

/// Granules per word: two bits each.
const PER_WORD: u64 = 32;
/// Words kept: 1 TiB of file in about 4 MiB.
const WORDS_MAX: usize = 1 << 17;
/// Granules looked at for one question.
const LOOK_MAX: u64 = 256;

/// The removals of one file.
#[derive(Default)]
pub(super) struct History {
    /// The first 8 MiB: all that small files need.
    low: u64,
    high: HashMap<u64, u64>,
}

impl History {
    /// Something of the granule at `offset` was removed.
    pub(super) fn note(&mut self, offset: u64, why: MissReason) {
        let granule = granule_of(offset);
        let (word, shift) = (granule / PER_WORD, granule % PER_WORD * 2);
        let bits = if word == 0 {
            &mut self.low
        } else if self.high.len() < WORDS_MAX || self.high.contains_key(&word) {
            self.high.entry(word).or_default()
        } else {
            return;
        };
        *bits = *bits & !(3 << shift) | (why as u64) << shift;
    }

    /// The gravest reason known for any granule of `range`.
    pub(super) fn reason(&self, range: Range<u64>) -> MissReason {
        let first = granule_of(range.start);
        let end = granule_of(range.end.saturating_sub(1)).min(first.saturating_add(LOOK_MAX)) + 1;
        (first..end).map(|g| self.of_granule(g)).max().unwrap_or(MissReason::Cold)
    }

    fn of_granule(&self, granule: u64) -> MissReason {
        let word = match granule / PER_WORD {
            0 => self.low,
            n => self.high.get(&n).copied().unwrap_or(0),
        };
        match word >> (granule % PER_WORD * 2) & 3 {
            1 => MissReason::Capacity,
            2 => MissReason::Coherency,
            _ => MissReason::Cold,
        }
    }
}
