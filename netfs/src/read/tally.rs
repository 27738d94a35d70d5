//! Where the bytes of a read came from, until it is known that the reader gets them.
//!
//! A read outside the page cache may find at its end that the file has changed and start again. So that
//! every byte a reader got is counted once, it is counted only then.

use std::ops::Range;

use smallvec::SmallVec;

use crate::{
    folio::{Origin, count_origin},
    stats::Counters,
};

/// Bytes by what brought them.
#[derive(Default, Debug)]
pub(crate) struct Tally {
    memory: u64,
    brought: SmallVec<[(Origin, u64); 4]>,
}

impl Tally {
    /// Of what a read outside the page cache brought, the part in `range`.
    pub(crate) fn of(sources: &[(Range<u64>, Origin)], range: &Range<u64>) -> Tally {
        let mut tally = Tally::default();
        for (at, origin) in sources {
            let n = at.end.min(range.end).saturating_sub(at.start.max(range.start));
            tally.add(*origin, n);
        }
        tally
    }

    /// Found in memory.
    pub(crate) fn memory(&mut self, bytes: u64) {
        self.memory += bytes;
    }

    /// Brought for this read.
    pub(crate) fn add(&mut self, origin: Origin, bytes: u64) {
        if bytes > 0 {
            self.brought.push((origin, bytes));
        }
    }

    /// All of another one.
    pub(crate) fn append(&mut self, other: Tally) {
        self.memory += other.memory;
        self.brought.extend(other.brought);
    }

    /// The reader has got them.
    pub(crate) fn count(self, counters: &Counters) {
        counters.memory_hit_bytes.add(self.memory);
        for (origin, bytes) in self.brought {
            count_origin(counters, origin, bytes);
        }
    }
}
