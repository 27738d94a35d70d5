//! Ranges of a file: zeros put there, clean folios taken out.

use std::ops::Range;

use super::{FolioIndex, MissReason, Removed};
use crate::{
    clock::BootTime,
    folio::{budget::Account, cache::NewFolio, dirt::Dirt, memory::FillBuf, state::Folio},
    sync::Weak,
};

impl FolioIndex {
    /// Indexes new folios of zeros where there are none. Whoever calls this knows, and keeps others from
    /// changing, what the file has there.
    pub(crate) fn insert_zeros(&self, window: Vec<NewFolio>) {
        let mut taken = Vec::new();
        let zeroed: Vec<_> = window.into_iter().map(zeroed).collect();
        let mut content = self.content.write();
        for (offset, mem) in zeroed {
            if !content.slots.is_free(offset..offset + mem.len() as u64) {
                taken.push(mem);
                continue;
            }
            if let Some(charge) = mem.charge() {
                charge.move_to(Account::Indexed);
            }
            let this = Weak::clone(&self.this);
            let none = Box::new(Dirt::new(BootTime::ZERO, None));
            let folio = Folio::written(offset, mem, self.id, this, true, none);
            folio.change_dirt(|dirt| *dirt = None);
            content.slots.insert(&folio);
            self.cache.admit(&folio);
        }
        drop(content);
        // Memory is freed outside the lock.
        drop(taken);
    }

    /// Evicts the clean folios that end in `range`: a folio of several pages goes with its last one, so that
    /// who lets go of a file piece by piece, from the front, lets go of all of it.
    pub(crate) fn evict_range(&self, range: &Range<u64>) -> Removed {
        self.remove_with(MissReason::Capacity, |slots| {
            let (gone, kept): (Vec<_>, Vec<_>) = slots
                .take(range.clone())
                .into_iter()
                .partition(|f| f.is_uptodate() && !f.is_dirty() && f.range().end <= range.end);
            kept.iter().for_each(|folio| slots.insert(folio));
            gone
        })
    }
}

fn zeroed(
    NewFolio { offset, mem }: NewFolio,
) -> (u64, crate::sync::Arc<crate::folio::memory::FolioMem>) {
    let len = mem.len();
    let (mut fill, mem) = FillBuf::whole(mem, len);
    fill.zero(len);
    fill.advance(len);
    drop(fill);
    (offset, mem)
}
