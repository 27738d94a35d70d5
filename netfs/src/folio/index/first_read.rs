//! Whose hit or miss a read byte is.
//!
//! What readahead or a neighbour's miss brought counts as what it was (a disk hit, a cold miss) the
//! first time a reader gets it, and as a memory hit from then on; so a scan of a cold file shows a hit
//! ratio of zero, not of one minus a window.

use std::ops::Range;

use super::FolioIndex;
use crate::{
    folio::{
        shares,
        state::{Folio, Origin},
    },
    stats::Counters,
    sync::{Arc, atomic::Ordering},
};

impl FolioIndex {
    /// Whether anything in memory has not been read yet. If not, a hit is nobody's first read.
    #[inline]
    pub(crate) fn has_unread(&self) -> bool {
        self.unread.load(Ordering::Relaxed) != 0
    }

    /// Counts the bytes of a read of `range`, all of which was answered from folios of this index.
    pub(crate) fn count_first_read(&self, range: Range<u64>) {
        let counters = self.cache.counters();
        let content = self.content.read();
        let mut at = range.start;
        let mut memory = 0;
        while at < range.end {
            let folio = content.slots.get(at).filter(|f| f.is_uptodate());
            let end = folio.map_or(range.end, |f| f.range().end.min(range.end));
            let first = folio.map_or(0, |f| self.take(f, end - at));
            memory += end - at - first;
            at = end;
        }
        counters.memory_hit_bytes.add(memory);
    }

    /// The same for a reader that held the folios while it waited for them.
    pub(crate) fn count_held(&self, held: &[Arc<Folio>], range: &Range<u64>) {
        let mut memory = 0;
        for (folio, share) in shares(held, range) {
            let n = share.end - share.start;
            memory += n - self.take(folio, n);
        }
        self.cache.counters().memory_hit_bytes.add(memory);
    }

    /// Takes up to `n` bytes of a folio's first read and counts them; returns how many.
    fn take(&self, folio: &Folio, n: u64) -> u64 {
        let (first, origin) = folio.take_first_read(u32::try_from(n).unwrap_or(u32::MAX));
        let Some(origin) = origin else { return 0 };
        let first = u64::from(first);
        self.unread.fetch_sub(first, Ordering::Relaxed);
        count_origin(self.cache.counters(), origin, first);
        first
    }

    pub(super) fn unread_added(&self, folio: &Folio) {
        self.unread.fetch_add(u64::from(folio.unread()), Ordering::Relaxed);
    }

    /// A folio leaves that was published: what nobody has read of it never will be.
    pub(super) fn unread_gone(&self, folio: &Folio) {
        let (rest, _) = folio.take_first_read(u32::MAX);
        self.unread.fetch_sub(u64::from(rest), Ordering::Relaxed);
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
