//! Whose hit or miss a read byte is.
//!
//! What readahead or a neighbour's miss brought is told from what was asked for again: bytes from the
//! server that were in memory before anybody asked are readahead hits the first time a reader gets them,
//! and memory hits from then on; bytes from the disk cache are disk hits the first time. So every byte a
//! reader got is counted once, and a scan of a cold file does not pass for a well-chosen cache.

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

impl FolioIndex {
    /// Whether anything in memory has not been read yet. If not, a hit is nobody's first read.
    #[inline]
    pub(crate) fn has_unread(&self) -> bool {
        self.unread.load(Ordering::Relaxed) != 0
    }

    /// Counts the bytes of a read of `range`, all of which was found in folios of this index. Returns
    /// how many of them nobody had read before.
    pub(crate) fn count_first_read(&self, range: Range<u64>) -> u64 {
        let counters = self.cache.counters();
        let len = range.end - range.start;
        let content = self.content.read();
        let mut at = range.start;
        let mut memory = 0;
        while at < range.end {
            let folio = content.slots.get(at).filter(|f| f.is_uptodate());
            let end = folio.map_or(range.end, |f| f.range().end.min(range.end));
            let first = folio.map_or(0, |f| self.take(f, end - at, true));
            memory += end - at - first;
            at = end;
        }
        counters.memory_hit_bytes.add(memory);
        len - memory
    }

    /// Bytes of this file that were read ahead for nothing so far.
    pub(crate) fn wasted_ahead(&self) -> u64 {
        self.wasted_ahead.load(Ordering::Relaxed)
    }

    /// The same for a reader that held the folios while it waited for them.
    pub(crate) fn count_held(&self, held: &[Held], range: &Range<u64>) {
        let mut memory = 0;
        for (held, share) in shares(held, range) {
            let n = share.end - share.start;
            memory += n - self.take(&held.folio, n, held.found);
        }
        self.cache.counters().memory_hit_bytes.add(memory);
    }

    /// Takes up to `n` bytes of a folio's first read and counts them; returns how many. `found`: they
    /// were there when they were asked for.
    fn take(&self, folio: &Folio, n: u64, found: bool) -> u64 {
        let (first, origin) = folio.take_first_read(u32::try_from(n).unwrap_or(u32::MAX));
        let Some(origin) = origin else { return 0 };
        let first = u64::from(first);
        self.unread.fetch_sub(first, Ordering::Relaxed);
        if found && !matches!(origin, Origin::Zero | Origin::Disk) {
            self.cache.counters().readahead_hit_bytes.add(first);
        } else {
            count_origin(self.cache.counters(), origin, first);
        }
        first
    }

    pub(super) fn unread_added(&self, folio: &Folio) {
        self.unread.fetch_add(u64::from(folio.unread()), Ordering::Relaxed);
    }

    /// A folio leaves that was published: what nobody has read of it never will be. Returns how much
    /// that is.
    pub(super) fn unread_gone(&self, folio: &Folio) -> u64 {
        let rest = u64::from(folio.take_first_read(u32::MAX).0);
        self.unread.fetch_sub(rest, Ordering::Relaxed);
        rest
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
