//! Bytes that the server acknowledged and still keeps in memory only.

use std::ops::Range;

use crate::content::Content;

/// A file's uncommitted bytes, as a difference: what a restart would leave, and where that differs.
///
/// Invariant: outside `pending` the durable content equals the current one, up to the shorter of both.
#[derive(Clone)]
pub(crate) struct Unstable {
    /// What the disk holds.
    pub(super) durable: Content,
    pub(super) pending: Ranges,
}

impl Unstable {
    /// Nothing pending on a file whose content is durable.
    pub(super) fn new(durable: Content) -> Unstable {
        Unstable { durable, pending: Ranges::default() }
    }

    /// Brings the pending bytes of `range` to the disk; the size too, if it reaches so far.
    pub(super) fn commit(&mut self, now: &Content, range: &Range<u64>) {
        for part in self.pending.inside(range) {
            self.durable.copy_range(now, part);
        }
        self.pending.remove(range);
        if range.end >= now.size() {
            self.durable.resize(now.size());
        }
    }

    /// Nothing is left that a restart would lose. (Bytes that grew the file may have been punched out; then
    /// the size alone is left.)
    pub(super) fn settled(&self, now: &Content) -> bool {
        self.pending.is_empty() && self.durable.size() == now.size()
    }
}

/// Sorted ranges that neither overlap nor touch.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Ranges(Vec<Range<u64>>);

impl Ranges {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The parts inside `range`.
    pub(super) fn inside(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let clip = |r: &Range<u64>| r.start.max(range.start)..r.end.min(range.end);
        self.0[self.overlapping(range)].iter().map(clip).collect()
    }

    /// Adds `range`, joined with what it touches.
    pub(super) fn add(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let first = self.0.partition_point(|r| r.end < range.start);
        let last = self.0.partition_point(|r| r.start <= range.end);
        let joined = self.0[first..last]
            .iter()
            .fold(range, |all, r| all.start.min(r.start)..all.end.max(r.end));
        self.0.splice(first..last, [joined]);
    }

    /// Takes `range` away.
    pub(super) fn remove(&mut self, range: &Range<u64>) {
        let touched = self.overlapping(range);
        let left = self.0[touched.clone()].first().map(|r| r.start..range.start.min(r.end));
        let right = self.0[touched.clone()].last().map(|r| range.end.max(r.start)..r.end);
        let rest = left.into_iter().chain(right).filter(|r| !r.is_empty());
        self.0.splice(touched, rest.collect::<Vec<_>>());
    }

    fn overlapping(&self, range: &Range<u64>) -> Range<usize> {
        let first = self.0.partition_point(|r| r.end <= range.start);
        let last = self.0.partition_point(|r| r.start < range.end);
        // An empty range, or one that ends before it starts, overlaps nothing.
        first..if range.is_empty() { first } else { last.max(first) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn ranges_are_a_set_of_offsets(
            steps in vec((any::<bool>(), 0u64..60, 0u64..20), 1..30), ask in (0u64..60, 0u64..20)
        ) {
            let (mut ranges, mut plain) = (Ranges::default(), [false; 100]);
            for (add, at, n) in steps {
                if add { ranges.add(at..at + n) } else { ranges.remove(&(at..at + n)) }
                plain[at as usize..(at + n) as usize].fill(add);
                let covers = |o: u64| ranges.0.iter().any(|r| r.contains(&o));
                prop_assert!((0..100).all(|o| covers(o) == plain[o as usize]));
                prop_assert!(ranges.0.windows(2).all(|w| w[0].end < w[1].start));
                prop_assert!(ranges.0.iter().all(|r| !r.is_empty()));
            }
            let asked = ask.0..ask.0 + ask.1;
            let found: u64 = ranges.inside(&asked).iter().map(|r| r.end - r.start).sum();
            prop_assert_eq!(found, asked.filter(|o| plain[*o as usize]).count() as u64);
        }
    }
}
