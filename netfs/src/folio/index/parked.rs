//! What a file has dirty is booked in one of two places: in the room that writers wait for, or, once it has
//! failed for good, apart from it. Booked is under the index's lock by where the file stands then, so that
//! every byte is taken off where it was added.

use super::{Content, FolioIndex};
use crate::sync::atomic::Ordering;

/// Bytes that have become clean, to be taken off once the lock is let go of.
#[must_use]
pub(super) struct Cleaned {
    bytes: u64,
    parked: bool,
}

impl FolioIndex {
    /// All bytes that ever became dirty: the write lock's holder sees how many are its own.
    pub(crate) fn dirtied_ever(&self) -> u64 {
        self.dirtied_ever.load(Ordering::Relaxed)
    }

    pub(super) fn dirtied(&self, content: &Content, bytes: usize) {
        let bytes = bytes as u64;
        self.dirty_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.dirtied_ever.fetch_add(bytes, Ordering::Relaxed);
        if content.dirty.is_parked() {
            self.share.dirtied_parked(bytes);
        } else {
            self.share.dirtied(bytes);
        }
    }

    pub(super) fn clean(&self, content: &Content, bytes: usize) -> Cleaned {
        self.dirty_bytes.fetch_sub(bytes as u64, Ordering::Relaxed);
        Cleaned { bytes: bytes as u64, parked: content.dirty.is_parked() }
    }

    /// Whoever waits for room is woken, so outside the index's lock.
    pub(super) fn cleaned(&self, Cleaned { bytes, parked }: Cleaned) {
        if parked {
            self.share.cleaned_parked(bytes);
        } else {
            self.share.cleaned(bytes);
        }
    }

    /// What is dirty, and what becomes so, counts apart from what writers wait for; or as usual again.
    pub(crate) fn set_parked(&self, parked: bool) {
        let mut content = self.content.write();
        if content.dirty.is_parked() == parked {
            return;
        }
        content.dirty.park(parked);
        let bytes = self.dirty_bytes();
        drop(content);
        if parked {
            self.share.park(bytes);
        } else {
            self.share.unpark(bytes);
        }
    }
}
