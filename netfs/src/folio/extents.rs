//! Which bytes of a folio were written: disjoint ranges, as many as there are writes.
//!
//! The kernel keeps one extent a folio and flushes when a second one would be needed (rows 57, 58).
//! Here a folio has as many as its writes left (N-C24, N-C25): four without an allocation, and never
//! fewer than two a page ([`Extents::limit`]).

use std::ops::Range;

use smallvec::SmallVec;

use super::PAGE_SIZE;

/// Bytes `start..end` within a folio.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Extent {
    start: u32,
    end: u32,
}

impl Extent {
    fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// Disjoint ranges in order, none empty, no two touching.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Extents(SmallVec<[Extent; 4]>);

impl Extents {
    /// No range.
    pub(crate) fn new() -> Extents {
        Extents(SmallVec::new())
    }

    /// One range.
    pub(crate) fn of(range: Range<usize>) -> Extents {
        let mut extents = Extents::new();
        extents.insert(range);
        extents
    }

    /// How many ranges a folio of `len` bytes may have.
    pub(crate) fn limit(len: usize) -> usize {
        (2 * len / PAGE_SIZE).max(4)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of ranges.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Bytes in all ranges.
    pub(crate) fn bytes(&self) -> usize {
        self.iter().map(|r| r.len()).sum()
    }

    /// The ranges in order.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = Range<usize>> + '_ {
        self.0.iter().map(|e| e.range())
    }

    /// The end of the last range, 0 if there is none.
    pub(crate) fn end(&self) -> usize {
        self.0.last().map_or(0, |e| e.end as usize)
    }

    /// Whether every byte of `range` is in.
    pub(crate) fn covers(&self, range: &Range<usize>) -> bool {
        range.is_empty() || self.iter().any(|r| r.start <= range.start && range.end <= r.end)
    }

    /// Whether any byte of `range` is in.
    pub(crate) fn touches(&self, range: &Range<usize>) -> bool {
        !range.is_empty() && self.iter().any(|r| r.start < range.end && range.start < r.end)
    }

    /// How many ranges there would be after [`insert`](Extents::insert).
    pub(crate) fn count_with(&self, range: &Range<usize>) -> usize {
        if range.is_empty() {
            return self.count();
        }
        let (first, last) = self.joined_by(range);
        self.0.len() - (last - first) + 1
    }

    /// Adds a range, joined with those it overlaps or touches.
    pub(crate) fn insert(&mut self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let (first, last) = self.joined_by(&range);
        let mut new = Extent { start: range.start as u32, end: range.end as u32 };
        if first == last {
            self.0.insert(first, new);
            return;
        }
        new.start = new.start.min(self.0[first].start);
        new.end = new.end.max(self.0[last - 1].end);
        self.0[first] = new;
        self.0.drain(first + 1..last);
    }

    /// Adds all ranges of another set.
    pub(crate) fn union(&mut self, other: &Extents) {
        other.iter().for_each(|r| self.insert(r));
    }

    /// Takes the bytes of `range` out.
    pub(crate) fn remove(&mut self, range: &Range<usize>) {
        if range.is_empty() || !self.touches(range) {
            return;
        }
        let (start, end) = (range.start as u32, range.end as u32);
        let old = std::mem::take(&mut self.0);
        for e in old {
            let before = Extent { start: e.start, end: e.end.min(start) };
            let after = Extent { start: e.start.max(end), end: e.end };
            self.0.extend([before, after].into_iter().filter(|e| e.start < e.end));
        }
    }

    /// Takes the bytes of another set out.
    pub(crate) fn subtract(&mut self, other: &Extents) {
        other.iter().for_each(|r| self.remove(&r));
    }

    /// The part of the set that is in `range`.
    pub(crate) fn within(&self, range: &Range<usize>) -> Extents {
        let cut = |r: Range<usize>| r.start.max(range.start)..r.end.min(range.end);
        let parts = self.iter().map(cut).filter(|r| r.start < r.end);
        Extents(parts.map(|r| Extent { start: r.start as u32, end: r.end as u32 }).collect())
    }

    /// The bytes of `range` that are not in, in order.
    pub(crate) fn gaps(&self, range: &Range<usize>) -> Extents {
        let mut gaps = Extents::of(range.clone());
        gaps.subtract(self);
        gaps
    }

    /// Joins the two neighbours with the smallest gap between them, whose bytes then count as written.
    /// Only where those bytes are known.
    pub(crate) fn join_nearest(&mut self) {
        let gap = |i: &usize| self.0[*i].start - self.0[*i - 1].end;
        if let Some(i) = (1..self.0.len()).min_by_key(gap) {
            self.0[i - 1].end = self.0[i].end;
            self.0.remove(i);
        }
    }

    /// Indices of the ranges that `range` overlaps or touches.
    fn joined_by(&self, range: &Range<usize>) -> (usize, usize) {
        let first = self.0.partition_point(|e| (e.end as usize) < range.start);
        let last = self.0.partition_point(|e| (e.start as usize) <= range.end);
        (first, last.max(first))
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEN: usize = 64;

    fn set(extents: &Extents) -> [bool; LEN] {
        let mut bytes = [false; LEN];
        extents.iter().for_each(|r| bytes[r].fill(true));
        bytes
    }

    fn well_formed(extents: &Extents) {
        let ranges: Vec<_> = extents.iter().collect();
        assert!(ranges.iter().all(|r| !r.is_empty()), "{ranges:?}");
        assert!(ranges.windows(2).all(|w| w[0].end < w[1].start), "{ranges:?}");
    }

    proptest! {
        #[test]
        fn n_c24_the_extents_are_exactly_the_bytes_written(
            steps in prop::collection::vec((0u8..5, 0..LEN, 0..LEN), 0..40)
        ) {
            let mut extents = Extents::new();
            let mut model = [false; LEN];
            for (what, a, b) in steps {
                let range = a.min(b)..a.max(b);
                match what {
                    0..3 => {
                        let count = extents.count_with(&range);
                        extents.insert(range.clone());
                        prop_assert_eq!(count, extents.count());
                        model[range].fill(true);
                    }
                    3 => {
                        extents.remove(&range);
                        model[range].fill(false);
                    }
                    _ => {
                        let part = extents.within(&range);
                        well_formed(&part);
                        let gaps = extents.gaps(&range);
                        well_formed(&gaps);
                        let here = range.clone();
                        for (i, inside) in model.iter().enumerate() {
                            let asked = here.contains(&i);
                            prop_assert_eq!(set(&part)[i], asked && *inside);
                            prop_assert_eq!(set(&gaps)[i], asked && !*inside);
                        }
                        prop_assert_eq!(extents.covers(&range), gaps.is_empty());
                        prop_assert_eq!(extents.touches(&range), !part.is_empty());
                    }
                }
                well_formed(&extents);
                prop_assert_eq!(set(&extents), model);
                prop_assert_eq!(extents.bytes(), model.iter().filter(|b| **b).count());
            }
        }
    }

    #[test]
    fn the_nearest_two_are_joined() {
        let mut extents = Extents::new();
        [0..1, 10..12, 13..20, 40..41].into_iter().for_each(|r| extents.insert(r));
        extents.join_nearest();
        assert_eq!(extents.iter().collect::<Vec<_>>(), [0..1, 10..20, 40..41]);
    }

    #[test]
    fn a_granule_may_have_two_ranges_a_page_and_a_page_four() {
        assert_eq!(Extents::limit(256 * 1024), 128);
        assert_eq!(Extents::limit(4096), 4);
    }
}
