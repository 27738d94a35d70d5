//! A set of bytes of a file, as disjoint ranges.

use std::{collections::BTreeMap, ops::Range};

/// Disjoint ranges in order, none empty, none touching the next.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub(crate) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn into_vec(self) -> Vec<Range<u64>> {
        self.0.into_iter().map(|(start, end)| start..end).collect()
    }

    /// Adds a range; joined with what it overlaps or touches.
    pub(crate) fn insert(&mut self, range: Range<u64>) {
        let Range { mut start, mut end } = range;
        if start >= end {
            return;
        }
        while let Some((&s, &e)) = self.0.range(..=end).next_back().filter(|(_, e)| **e >= start) {
            (start, end) = (start.min(s), end.max(e));
            self.0.remove(&s);
        }
        self.0.insert(start, end);
    }

    /// Makes one range of all, with the gaps between them.
    pub(crate) fn join_all(&mut self) {
        let start = self.0.first_key_value().map(|(start, _)| *start);
        let end = self.0.last_key_value().map(|(_, end)| *end);
        self.0.clear();
        self.0.extend(start.zip(end));
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_are_the_bytes_inserted_and_stay_disjoint(
            inserted in proptest::collection::vec((0u64..60, 0u64..20), 0..20),
        ) {
            let (mut ranges, mut bytes) = (Ranges::default(), [false; 80]);
            for (start, len) in inserted {
                ranges.insert(start..start + len);
                bytes[start as usize..(start + len) as usize].fill(true);
            }
            let mut told = [false; 80];
            let mut at = None;
            for range in ranges.clone().into_vec() {
                prop_assert!(range.start < range.end && at.is_none_or(|at| at < range.start));
                at = Some(range.end);
                told[range.start as usize..range.end as usize].fill(true);
            }
            prop_assert_eq!(told, bytes);
            ranges.join_all();
            prop_assert!(ranges.count() <= 1);
        }
    }
}
