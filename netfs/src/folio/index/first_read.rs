//! Whose hit or miss a read byte is.
//!
//! What readahead or a neighbour's miss brought is told from what was asked for again: bytes from the
//! server that were in memory before anybody asked for their page are readahead hits, bytes from the disk
//! cache disk hits; but only as far as they belong to the page's first read, whoever makes it and however
//! short it is (see [`unread`](crate::folio)). From then on bytes of that page are memory hits. So every
//! byte a reader got is counted once, re-reading one page says nothing of its neighbours, and a scan of a
//! cold file does not pass for a well-chosen cache.

use std::ops::Range;

use super::FolioIndex;
use crate::{
    folio::{
        Held, shares,
        state::{Folio, Origin},
    },
    stats::Counters,
    sync::atomic::Ordering,
};

/// What has come of reading a file ahead.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct AheadSoFar {
    /// Bytes that were fetched ahead because they were missing.
    pub(crate) started: u64,
    /// Bytes of them that were evicted before anybody had read any of their page.
    pub(crate) wasted: u64,
}

impl FolioIndex {
    /// Whether anything in memory has not been read yet. If not, a hit is nobody's first read.
    #[inline]
    pub(crate) fn has_unread(&self) -> bool {
        self.unread.load(Ordering::Relaxed) != 0
    }

    /// Counts the bytes of a read of `range`, all of which was found in folios of this index. Returns
    /// how many of them were first reads.
    pub(crate) fn count_first_read(&self, range: Range<u64>) -> u64 {
        let len = range.end - range.start;
        let memory = self.content.glance(|content| {
            let (mut at, mut memory) = (range.start, 0);
            while at < range.end {
                let folio = content.slots.get(at).filter(|f| f.is_uptodate());
                let end = folio.map_or(range.end, |f| f.range().end.min(range.end));
                memory += end - at - folio.map_or(0, |f| self.take(f, &(at..end), true));
                at = end;
            }
            memory
        });
        self.cache.counters().memory_hit_bytes.add(memory);
        len - memory
    }

    /// What has come of reading this file ahead so far, by whichever of its readers.
    pub(crate) fn ahead_so_far(&self) -> AheadSoFar {
        let started = self.started_ahead.load(Ordering::Relaxed);
        AheadSoFar { started, wasted: self.wasted_ahead.load(Ordering::Relaxed) }
    }

    /// So many bytes more are being read ahead.
    pub(crate) fn count_ahead(&self, bytes: u64) {
        self.started_ahead.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The same as [`count_first_read`](FolioIndex::count_first_read) for a reader that held the folios
    /// while it waited for them.
    pub(crate) fn count_held(&self, held: &[Held], range: &Range<u64>) {
        let mut memory = 0;
        for (held, share) in shares(held, range) {
            memory += share.end - share.start - self.take(&held.folio, &share, held.found);
        }
        self.cache.counters().memory_hit_bytes.add(memory);
    }

    /// Takes the first read of the folio's part `share` of the file and counts it; returns its bytes.
    /// `found`: they were there when they were asked for.
    fn take(&self, folio: &Folio, share: &Range<u64>, found: bool) -> u64 {
        // Both within the folio: at most a granule.
        let within = |at: u64| (at - folio.offset()) as usize;
        let range = within(share.start)..within(share.end);
        let Some(first) = folio.take_first_read(&range) else { return 0 };
        self.unread.fetch_sub(u64::from(first.pages), Ordering::Relaxed);
        if found && !matches!(first.origin, Origin::Zero | Origin::Disk) {
            self.cache.counters().readahead_hit_bytes.add(first.bytes);
        } else {
            count_origin(self.cache.counters(), first.origin, first.bytes);
        }
        first.bytes
    }

    pub(super) fn unread_added(&self, folio: &Folio) {
        self.unread.fetch_add(u64::from(folio.unread_pages()), Ordering::Relaxed);
    }

    /// A folio leaves that was published: pages that nobody has read will never be. Returns how many
    /// bytes readers could have got of them.
    pub(super) fn unread_gone(&self, folio: &Folio) -> u64 {
        let Some(rest) = folio.take_rest() else { return 0 };
        self.unread.fetch_sub(u64::from(rest.pages), Ordering::Relaxed);
        rest.bytes
    }

    /// The same for one that is evicted: a sign of having fetched too much.
    pub(super) fn count_wasted(&self, folio: &Folio) {
        let wasted = self.unread_gone(folio);
        if wasted > 0 {
            if folio.was_ahead() {
                self.wasted_ahead.fetch_add(wasted, Ordering::Relaxed);
            }
            self.cache.counters().wasted_bytes.add(wasted);
        }
    }
}

/// Counts bytes a reader got for the first time.
pub(crate) fn count_origin(counters: &Counters, origin: Origin, bytes: u64) {
    match origin {
        Origin::Zero => counters.zero_bytes.add(bytes),
        Origin::Disk => counters.disk_hit_bytes.add(bytes),
        Origin::Cold => counters.miss_cold_bytes.add(bytes),
        Origin::Capacity => counters.miss_capacity_bytes.add(bytes),
        Origin::Coherency => counters.miss_coherency_bytes.add(bytes),
        Origin::Corruption => counters.miss_corruption_bytes.add(bytes),
        Origin::Bypass => counters.miss_bypass_bytes.add(bytes),
        Origin::Fault => counters.miss_fault_bytes.add(bytes),
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::{super::tests::*, *};
    use crate::{folio::PAGE_SIZE, sync::Arc};

    const PAGE: u64 = PAGE_SIZE as u64;

    /// A folio of 16 pages that readahead brought, the last one readable for 5 bytes.
    fn ahead() -> (Arc<crate::folio::FolioCache>, Arc<FolioIndex>, Arc<Folio>) {
        let cache = cache(16 << 20);
        let index = cache.new_index();
        let [locked] = lock(&index, &cache, 0..16 * PAGE).try_into().ok().expect("one folio");
        let folio = fill(locked, 1);
        folio.set_origin(Origin::Cold, 15 * 4096 + 5, true);
        assert!(index.publish(&folio));
        (cache, index, folio)
    }

    #[test]
    fn reading_a_page_again_takes_nothing_of_its_neighbours() {
        let (cache, index, folio) = ahead();
        assert_eq!(index.count_first_read(10..20), 10);
        for _ in 0..100 {
            assert_eq!(index.count_first_read(0..PAGE), 0);
        }
        assert_eq!(index.count_first_read(PAGE - 1..PAGE + 1), 1);
        let stats = cache.counters().snapshot();
        assert_eq!((stats.readahead_hit_bytes, stats.memory_hit_bytes), (11, 100 * PAGE + 1));
        assert!(index.has_unread() && index.evict(&folio));
        let wasted = 13 * PAGE + 5;
        assert_eq!(cache.counters().snapshot().wasted_bytes, wasted, "whole pages, to the end");
        assert_eq!((index.ahead_so_far().wasted, index.has_unread()), (wasted, false));
    }

    #[test]
    fn once_all_pages_have_been_read_nothing_is_unread_or_wasted() {
        let (cache, index, folio) = ahead();
        assert_eq!(index.count_first_read(0..15 * PAGE + 5), 15 * PAGE + 5);
        assert!(!index.has_unread() && index.evict(&folio));
        let wasted = (cache.counters().snapshot().wasted_bytes, index.ahead_so_far().wasted);
        assert_eq!(wasted, (0, 0));
    }
}
