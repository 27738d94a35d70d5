//! Which folios of a file have dirt, what memory they take, and since when the oldest waits.

use std::{collections::BTreeMap, ops::RangeBounds};

use crate::{
    clock::BootTime,
    folio::state::Folio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// The folios with dirt, by offset. Guarded by the index's lock.
#[derive(Default)]
pub(super) struct DirtySet {
    /// With their lengths.
    folios: BTreeMap<u64, usize>,
    memory: u64,
    /// Where their memory counts while the file is parked: what could not be uploaded for good.
    parked: Option<Arc<AtomicU64>>,
}

impl DirtySet {
    pub(super) fn insert(&mut self, folio: &Folio) {
        let before = self.folios.insert(folio.offset(), folio.len());
        self.count(before.unwrap_or(0), folio.len());
    }

    pub(super) fn remove(&mut self, offset: u64) {
        if let Some(len) = self.folios.remove(&offset) {
            self.count(len, 0);
        }
    }

    fn count(&mut self, before: usize, now: usize) {
        let (before, now) = (before as u64, now as u64);
        self.memory = self.memory + now - before;
        if let Some(parked) = &self.parked {
            parked.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
        }
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
        self.parked.is_some()
    }

    /// From now on the folios' memory counts in `parked`, or no longer.
    pub(super) fn park(&mut self, parked: Option<Arc<AtomicU64>>) {
        if let Some(old) = &self.parked {
            old.fetch_sub(self.memory, Ordering::Relaxed);
        }
        if let Some(new) = &parked {
            new.fetch_add(self.memory, Ordering::Relaxed);
        }
        self.parked = parked;
    }
}

impl Drop for DirtySet {
    fn drop(&mut self) {
        self.park(None);
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
