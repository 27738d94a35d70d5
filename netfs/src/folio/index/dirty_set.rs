//! Which folios of a file have dirt, what memory they take, and since when the oldest waits.

use std::{collections::BTreeMap, ops::RangeBounds};

use crate::{
    clock::BootTime,
    folio::{budget::cost, state::Folio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    writeback::room::Share,
};

/// The folios with dirt, by offset. Guarded by the index's lock.
pub(super) struct DirtySet {
    /// With their lengths.
    folios: BTreeMap<u64, usize>,
    /// What they cost of the budget; counted in the share, too.
    memory: u64,
    share: Arc<Share>,
    /// Could not be uploaded for good.
    parked: bool,
}

impl DirtySet {
    pub(super) fn new(share: Arc<Share>) -> DirtySet {
        DirtySet { folios: BTreeMap::new(), memory: 0, share, parked: false }
    }

    pub(super) fn insert(&mut self, folio: &Folio) {
        let before = self.folios.insert(folio.offset(), folio.len());
        self.count(before, Some(folio.len()));
    }

    pub(super) fn remove(&mut self, offset: u64) {
        let before = self.folios.remove(&offset);
        self.count(before, None);
    }

    fn count(&mut self, before: Option<usize>, now: Option<usize>) {
        let cost = |len: Option<usize>| len.map_or(0, |len| cost(len as u64));
        let (before, now) = (cost(before), cost(now));
        self.memory = self.memory + now - before;
        self.share.holds(self.parked, before, now);
    }

    /// The offsets, ascending.
    pub(super) fn range(
        &self,
        range: impl RangeBounds<u64>,
    ) -> impl DoubleEndedIterator<Item = &u64> {
        self.folios.range(range).map(|(offset, _)| offset)
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &u64> {
        self.folios.keys()
    }

    pub(super) fn is_parked(&self) -> bool {
        self.parked
    }

    /// From now on the folios' memory counts as that of a parked file, or no longer.
    pub(super) fn park(&mut self, parked: bool) {
        self.share.holds(self.parked, self.memory, 0);
        self.share.holds(parked, 0, self.memory);
        self.parked = parked;
    }
}

impl Drop for DirtySet {
    fn drop(&mut self) {
        self.share.holds(self.parked, self.memory, 0);
    }
}

/// Since when the oldest dirty bytes of a file wait: never later than it is, so that no byte is forgotten,
/// but after a part of the file was uploaded perhaps earlier.
pub(super) struct Since(AtomicU64);

impl Since {
    pub(super) fn new() -> Since {
        Since(AtomicU64::new(BootTime::NEVER.as_nanos()))
    }

    pub(super) fn dirty(&self, since: BootTime) {
        self.0.fetch_min(since.as_nanos(), Ordering::Relaxed);
    }

    /// The index's lock is held: `since` is exact.
    pub(super) fn is(&self, since: BootTime) {
        self.0.store(since.as_nanos(), Ordering::Relaxed);
    }

    pub(super) fn bound(&self) -> BootTime {
        BootTime::from_nanos(self.0.load(Ordering::Relaxed))
    }
}
