//! Which bytes of a folio were written: disjoint ranges, as many as there are writes.
//!
//! The kernel keeps one extent a folio and flushes when a second one would be needed (rows 57, 58).
//! Here a folio has as many as its writes left (N-C24, N-C25): four without an allocation, and never
//! fewer than two a page ([`Extents::limit`]). Each remembers whose it is: it goes to the server with that
//! writer's credentials.

use std::ops::Range;

use smallvec::SmallVec;

use super::PAGE_SIZE;

/// Bytes `start..end` within a folio, written by `writer`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Extent {
    start: u32,
    end: u32,
    writer: Writer,
}

impl Extent {
    fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// A writer's number within its inode.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(crate) struct Writer(pub(crate) u32);

/// Disjoint ranges in order, none empty; two that touch have different writers.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Extents(SmallVec<[Extent; 4]>);

impl Extents {
    /// No range.
    pub(crate) fn new() -> Extents {
        Extents::default()
    }

    /// One range.
    pub(crate) fn of(range: Range<usize>, writer: Writer) -> Extents {
        let mut extents = Extents::new();
        extents.insert(range, writer);
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
        self.iter().map(|(r, _)| r.len()).sum()
    }

    /// The ranges in order.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (Range<usize>, Writer)> + '_ {
        self.0.iter().map(|e| (e.range(), e.writer))
    }

    /// Whether every byte of `range` is in.
    pub(crate) fn covers(&self, range: &Range<usize>) -> bool {
        let mut at = range.start;
        for e in &self.0[self.reached_by(range)] {
            if e.start as usize > at {
                break;
            }
            at = at.max(e.end as usize);
        }
        at >= range.end
    }

    /// Whether any byte of `range` is in.
    pub(crate) fn touches(&self, range: &Range<usize>) -> bool {
        let inside = |e: &Extent| (e.start as usize) < range.end && range.start < e.end as usize;
        !range.is_empty() && self.0[self.reached_by(range)].iter().any(inside)
    }

    /// How many ranges there may be at most after [`insert`](Extents::insert).
    pub(crate) fn count_with(&self, range: &Range<usize>, writer: Writer) -> usize {
        let joined = self.reached_by(range);
        let (start, end) = (range.start, range.end);
        // Of others' ranges a piece may stay on each side.
        let sides =
            |e: &Extent| usize::from(e.range().start < start) + usize::from(e.range().end > end);
        let others = self.0[joined.clone()].iter().filter(|e| e.writer != writer);
        self.0.len() - joined.len() + 1 + others.map(sides).sum::<usize>()
    }

    /// Adds a range: what others wrote of it is `writer`'s now. Joined with the writer's own neighbours.
    /// Returns how many bytes were not in before.
    pub(crate) fn insert(&mut self, range: Range<usize>, writer: Writer) -> usize {
        if range.is_empty() {
            return 0;
        }
        let joined = self.reached_by(&range);
        if joined.is_empty() {
            let (start, end) = (range.start as u32, range.end as u32);
            self.0.insert(joined.start, Extent { start, end, writer });
            return range.len();
        }
        let overlap = |e: &Extent| e.range().end.min(range.end) - e.range().start.max(range.start);
        let known: usize = self.0[joined.clone()].iter().map(overlap).sum();
        let added = range.len() - known;
        let mut new = Extent { start: range.start as u32, end: range.end as u32, writer };
        // At most one piece of another's range stays on each side.
        let (mut before, mut after) = (None, None);
        for e in &self.0[joined.clone()] {
            if e.writer == writer {
                new.start = new.start.min(e.start);
                new.end = new.end.max(e.end);
                continue;
            }
            if e.start < new.start {
                before = Some(Extent { end: e.end.min(range.start as u32), ..*e });
            }
            if e.end > range.end as u32 {
                after = Some(Extent { start: e.start.max(range.end as u32), ..*e });
            }
        }
        let pieces: SmallVec<[Extent; 3]> =
            [before, Some(new), after].into_iter().flatten().collect();
        if let ([only], 1) = (&pieces[..], joined.len()) {
            self.0[joined.start] = *only;
        } else {
            self.0.drain(joined.clone());
            self.0.insert_many(joined.start, pieces);
        }
        added
    }

    /// Adds all ranges of another set.
    pub(crate) fn union(&mut self, other: &Extents) {
        for (range, writer) in other.iter() {
            self.insert(range, writer);
        }
    }

    /// Adds of another set what is not in yet: where both are, this one is the newer.
    pub(crate) fn union_under(&mut self, other: &Extents) {
        let mut below = other.clone();
        below.subtract(self);
        self.union(&below);
    }

    /// Takes the bytes of `range` out.
    pub(crate) fn remove(&mut self, range: &Range<usize>) {
        if !self.touches(range) {
            return;
        }
        let (start, end) = (range.start as u32, range.end as u32);
        let old = std::mem::take(&mut self.0);
        for e in old {
            let before = Extent { end: e.end.min(start), ..e };
            let after = Extent { start: e.start.max(end), ..e };
            self.0.extend([before, after].into_iter().filter(|e| e.start < e.end));
        }
    }

    /// Takes the bytes of another set out.
    pub(crate) fn subtract(&mut self, other: &Extents) {
        other.iter().for_each(|(r, _)| self.remove(&r));
    }

    /// The part of the set that is in `range`.
    pub(crate) fn within(&self, range: &Range<usize>) -> Extents {
        let cut = |e: &Extent| Extent {
            start: e.start.max(range.start as u32),
            end: e.end.min(range.end as u32),
            ..*e
        };
        Extents(self.0.iter().map(cut).filter(|e| e.start < e.end).collect())
    }

    /// The bytes of `range` that are not in, in order.
    pub(crate) fn gaps(&self, range: &Range<usize>) -> Extents {
        let mut gaps = Extents::of(range.clone(), Writer::default());
        gaps.subtract(self);
        gaps
    }

    /// Joins the two neighbours with the smallest gap between them; its bytes then count as written, by
    /// the first one's writer. Only where those bytes are known.
    pub(crate) fn join_nearest(&mut self) {
        let gap = |i: &usize| self.0[*i].start - self.0[*i - 1].end;
        if let Some(i) = (1..self.0.len()).min_by_key(gap) {
            let joined = self.0[i - 1].start as usize..self.0[i].end as usize;
            self.insert(joined, self.0[i - 1].writer);
        }
    }

    /// Indices of the ranges that `range` overlaps or touches.
    fn reached_by(&self, range: &Range<usize>) -> Range<usize> {
        let first = self.0.partition_point(|e| (e.end as usize) < range.start);
        let last = self.0.partition_point(|e| (e.start as usize) <= range.end);
        first..last.max(first)
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEN: usize = 64;
    type Bytes = [Option<Writer>; LEN];

    fn set(extents: &Extents) -> Bytes {
        let mut bytes = [None; LEN];
        extents.iter().for_each(|(r, writer)| bytes[r].fill(Some(writer)));
        bytes
    }

    fn well_formed(extents: &Extents) {
        let list = &extents.0;
        assert!(list.iter().all(|e| e.start < e.end), "{list:?}");
        let apart =
            |a: &Extent, b: &Extent| a.end < b.start || a.end == b.start && a.writer != b.writer;
        assert!(list.windows(2).all(|w| apart(&w[0], &w[1])), "{list:?}");
    }

    fn looks(extents: &Extents, model: &Bytes, range: &Range<usize>) {
        let (part, gaps) = (extents.within(range), extents.gaps(range));
        well_formed(&part);
        well_formed(&gaps);
        for (i, writer) in model.iter().enumerate() {
            let asked = range.contains(&i);
            assert_eq!(set(&part)[i], writer.filter(|_| asked));
            assert_eq!(set(&gaps)[i].is_some(), asked && writer.is_none());
        }
        assert_eq!(extents.covers(range), gaps.is_empty());
        assert_eq!(extents.touches(range), !part.is_empty());
    }

    proptest! {
        #[test]
        fn n_c24_the_extents_are_exactly_the_bytes_written_by_whom(
            steps in prop::collection::vec((0u8..7, 0..LEN, 0..LEN), 0..40)
        ) {
            let mut extents = Extents::new();
            let mut model: Bytes = [None; LEN];
            for (what, a, b) in steps {
                let range = a.min(b)..a.max(b);
                let writer = Writer(u32::from(what % 2));
                match what {
                    0..4 => {
                        let most = extents.count_with(&range, writer);
                        let new = model[range.clone()].iter().filter(|b| b.is_none()).count();
                        prop_assert_eq!(extents.insert(range.clone(), writer), new);
                        prop_assert!(extents.count() <= most, "{} of {most}", extents.count());
                        model[range].fill(Some(writer));
                    }
                    4 => {
                        extents.remove(&range);
                        model[range].fill(None);
                    }
                    5 => {
                        extents.union_under(&Extents::of(range.clone(), Writer(9)));
                        model[range].iter_mut().for_each(|w| *w = w.or(Some(Writer(9))));
                    }
                    _ => looks(&extents, &model, &range),
                }
                well_formed(&extents);
                prop_assert_eq!(set(&extents), model);
                prop_assert_eq!(extents.bytes(), model.iter().filter(|b| b.is_some()).count());
            }
        }
    }

    #[test]
    fn the_nearest_two_are_joined() {
        let mut extents = Extents::new();
        for range in [0..1, 10..12, 13..20, 40..41] {
            extents.insert(range, Writer(1));
        }
        extents.join_nearest();
        let ranges: Vec<_> = extents.iter().map(|(r, _)| r).collect();
        assert_eq!(ranges, [0..1, 10..20, 40..41]);
    }

    #[test]
    fn a_granule_may_have_two_ranges_a_page_and_a_page_four() {
        assert_eq!(Extents::limit(256 * 1024), 128);
        assert_eq!(Extents::limit(4096), 4);
    }
}
