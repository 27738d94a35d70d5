//! Which pages of a folio no reader has had yet.
//!
//! Whoever reads some of a page first, however little, takes the whole page: what that reader got of it
//! is the page's first read, and all that anybody gets of it later is a memory hit. So a byte that a
//! reader got is counted once, without a word on which bytes of a page were read; and a page is wasted
//! only if nobody ever read any of it.

use std::ops::Range;

use super::{GRANULE, PAGE_SIZE};
use crate::sync::atomic::{AtomicU64, Ordering};

// A bit a page.
const _: () = assert!(GRANULE / PAGE_SIZE <= u64::BITS as usize);

/// One bit a page of the folio: nobody has had it.
pub(super) struct Unread(AtomicU64);

impl Unread {
    /// Nothing to read yet.
    pub(super) fn none() -> Unread {
        Unread(AtomicU64::new(0))
    }

    /// The first `readable` bytes are there and nobody has had them.
    pub(super) fn set(&self, readable: usize) {
        self.0.store(pages_of(&(0..readable)), Ordering::Relaxed);
    }

    /// Takes the pages of `range` (within the folio) off; returns which of them were still on. Writes
    /// nothing if all have been read, so that a hot folio's line stays shared.
    pub(super) fn take(&self, range: &Range<usize>) -> u64 {
        let pages = pages_of(range);
        if self.0.load(Ordering::Relaxed) & pages == 0 {
            return 0;
        }
        // Of two that come at once each bit falls to one.
        self.0.fetch_and(!pages, Ordering::Relaxed) & pages
    }

    /// Another's pages are this one's from now on.
    pub(super) fn take_over(&self, from: &Unread) {
        self.0.store(from.0.swap(0, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// How many pages nobody has had.
    pub(super) fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed).count_ones()
    }
}

/// The pages that `range` touches. `range` ends within a granule.
fn pages_of(range: &Range<usize>) -> u64 {
    let (first, end) = (range.start / PAGE_SIZE, range.end.div_ceil(PAGE_SIZE));
    let below = |page: usize| if page < 64 { (1u64 << page) - 1 } else { u64::MAX };
    below(end) & !below(first)
}

/// How many bytes of `range` lie in `pages`, which all touch it.
pub(super) fn bytes_in(pages: u64, range: &Range<usize>) -> u64 {
    if pages == 0 {
        return 0;
    }
    let (first, last) = (range.start / PAGE_SIZE, (range.end - 1) / PAGE_SIZE);
    let has = |page: usize| pages >> page & 1 != 0;
    let before = if has(first) { range.start % PAGE_SIZE } else { 0 };
    let after = if has(last) { (last + 1) * PAGE_SIZE - range.end } else { 0 };
    (pages.count_ones() as usize * PAGE_SIZE - before - after) as u64
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_page_counts_only_as_far_as_it_can_be_read() {
        let unread = Unread::none();
        unread.set(2 * PAGE_SIZE + 5);
        assert_eq!(unread.count(), 3);
        let rest = unread.take(&(0..GRANULE));
        assert_eq!(bytes_in(rest, &(0..2 * PAGE_SIZE + 5)), 2 * PAGE_SIZE as u64 + 5);
        assert_eq!((unread.count(), unread.take(&(0..GRANULE))), (0, 0));
    }

    proptest! {
        /// Against a plain list of pages.
        #[test]
        fn first_reads_are_what_of_a_read_lies_in_pages_nobody_had(
            readable in 0..=GRANULE,
            reads in proptest::collection::vec((0..GRANULE, 1..40_000usize), 0..40)
        ) {
            let unread = Unread::none();
            unread.set(readable);
            let mut had: Vec<bool> = (0..64).map(|page| page * PAGE_SIZE >= readable).collect();
            for (at, len) in reads {
                let range = at..(at + len).min(readable);
                if range.is_empty() {
                    continue;
                }
                let bytes = bytes_in(unread.take(&range), &range);
                let first = range.clone().filter(|byte| !had[byte / PAGE_SIZE]).count();
                prop_assert_eq!(bytes, first as u64);
                range.for_each(|byte| had[byte / PAGE_SIZE] = true);
                prop_assert_eq!(unread.count() as usize, had.iter().filter(|h| !**h).count());
            }
        }
    }
}
