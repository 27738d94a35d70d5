//! The folios of one file.
//!
//! The index decides what is cached: a folio's bytes count only while this very folio is indexed. So
//! the one question at the end of a fetch, "may this be shown?", is answered under the index's lock
//! ([`publish_if`](FolioIndex::publish_if)): what was cleared meanwhile can never come back.
//!
//! Readers glance at it and change nothing but a folio's frequency bits; publishing takes it shared,
//! because it changes no slot, only excludes removal. Insertion and removal take it alone,
//! for as long as it takes to move pointers: folios are freed and waiters woken after it is released.

mod dirty_set;
mod first_read;
mod history;
mod in_place;
#[cfg(all(test, shuttle))]
mod interleavings;
mod known;
mod lookup;
#[cfg(all(test, not(shuttle)))]
mod model;
mod parked;
mod range;
mod slots;
#[cfg(all(test, not(shuttle)))]
mod stress;
#[cfg(all(test, not(shuttle)))]
mod tests;
mod write;
#[cfg(all(test, not(shuttle)))]
mod write_model;
mod writeback;

use std::ops::Range;

use crossbeam::utils::CachePadded;
use dirty_set::{DirtySet, Since};
pub(crate) use first_read::{AheadSoFar, count_origin};
use history::History;
pub(crate) use history::MissReason;
pub(crate) use lookup::Lookup;
#[cfg(test)]
use lookup::Slices;
use slots::Slots;
pub(crate) use write::{Piece, Step, Written};
pub(crate) use writeback::{Sent, Unit, Which};

use super::{
    budget::Account,
    cache::{FolioCache, NewFolio},
    memory::FillBuf,
    state::{Folio, Unlocked},
};
use crate::{
    policy::Entry,
    sync::{
        Arc, BiasedLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    writeback::room::Share,
};

/// A folio that was just locked, and the permission to fill it. Whoever has it must end it with
/// [`FolioIndex::publish_if`] or [`FolioIndex::fail`].
pub(crate) struct LockedFolio {
    /// The folio.
    pub(crate) folio: Arc<Folio>,
    /// All of its memory.
    pub(crate) fill: FillBuf,
}

/// What a removal took out.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Removed {
    /// Folios, uptodate and locked.
    pub(crate) folios: usize,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// How many were locked: their fetches go on, unpublishable.
    pub(crate) locked: usize,
}

/// One file's part of the page cache.
pub(crate) struct FolioIndex {
    id: u64,
    cache: Arc<FolioCache>,
    /// Its volume's part of what may be dirty.
    share: Arc<Share>,
    this: Weak<FolioIndex>,
    /// On lines of its own: those who have to use the plain lock write to it.
    content: CachePadded<BiasedLock<Content>>,
    data_gen: AtomicU64,
    /// Bytes that are dirty or on their way to the server.
    dirty_bytes: AtomicU64,
    /// Where the last of them ends. Changed while the content is held exclusively.
    dirty_end: AtomicU64,
    /// All that ever became dirty.
    dirtied_ever: AtomicU64,
    since: Since,
    /// Pages of published folios that no reader has had yet.
    unread: AtomicU64,
    /// Bytes that were fetched ahead of their readers.
    started_ahead: AtomicU64,
    /// Bytes of pages that were read ahead and evicted without a reader ever having had any of them.
    wasted_ahead: AtomicU64,
}

struct Content {
    slots: Slots,
    /// The folios with dirt.
    dirty: DirtySet,
    history: History,
}

impl FolioIndex {
    /// An empty index. `id` is unique within the cache.
    pub(super) fn new(cache: Arc<FolioCache>, id: u64, share: Arc<Share>) -> Arc<FolioIndex> {
        let dirty = DirtySet::new(Arc::clone(&share));
        let content = Content { slots: Slots::default(), dirty, history: History::default() };
        let content = BiasedLock::new(content, Arc::clone(cache.readers()));
        Arc::new_cyclic(|this| FolioIndex {
            id,
            this: Weak::clone(this),
            content: CachePadded::new(content),
            cache,
            share,
            data_gen: AtomicU64::new(0),
            dirty_bytes: AtomicU64::new(0),
            dirty_end: AtomicU64::new(0),
            dirtied_ever: AtomicU64::new(0),
            since: Since::new(),
            unread: AtomicU64::new(0),
            started_ahead: AtomicU64::new(0),
            wasted_ahead: AtomicU64::new(0),
        })
    }

    /// Its volume's part of what may be dirty.
    pub(crate) fn share(&self) -> &Arc<Share> {
        &self.share
    }

    /// Counts clears and removals (not evictions). If it has not moved between two looks, nothing was
    /// dropped for coherency in between.
    pub(crate) fn data_gen(&self) -> u64 {
        self.data_gen.load(Ordering::Acquire)
    }

    /// Indexes a window of new memory as locked folios. Pieces that overlap a folio which is there
    /// already (someone else was faster) are dropped: look again for what is still missing.
    pub(crate) fn lock_window(&self, window: Vec<NewFolio>) -> Vec<LockedFolio> {
        let mut locked = Vec::with_capacity(window.len());
        // Outlives the guard: memory is freed outside the lock.
        let mut overlapping = Vec::new();
        let mut content = self.content.write();
        for NewFolio { offset, mem } in window {
            let len = mem.len();
            let range = offset..offset + len as u64;
            let partial = content.slots.get(offset).cloned();
            let partial = partial.filter(|f| f.is_partial() && f.range() == range);
            if partial.is_none() && !content.slots.is_free(range) {
                overlapping.push(mem);
                continue;
            }
            let (fill, mem) = FillBuf::whole(mem, len);
            let folio = Folio::locked(offset, mem, self.id, Weak::clone(&self.this));
            if let Some(partial) = partial {
                content.fill_over(&partial, &folio);
            }
            content.slots.insert(&folio);
            locked.push(LockedFolio { folio, fill });
        }
        drop(content);
        locked
    }

    #[cfg(test)]
    /// Makes a filled folio visible and unlocks it: see [`publish_if`](FolioIndex::publish_if).
    pub(crate) fn publish(&self, folio: &Arc<Folio>) -> bool {
        self.publish_if(folio, || true)
    }

    /// Makes a filled folio visible iff it is still indexed, wholly filled, and `current` says so;
    /// otherwise fails it. Either way it ends up unlocked. `current` is evaluated while no removal can
    /// happen: if it looks at a version that is changed before or [with](FolioIndex::clear_with) the
    /// clear that goes with the change, a folio of the old version is never left behind. It MUST NOT
    /// use the index.
    #[cfg(test)]
    pub(crate) fn publish_if(&self, folio: &Arc<Folio>, current: impl FnOnce() -> bool) -> bool {
        self.publish_letting_go(folio, &mut None::<()>, current)
    }

    /// The same where the caller holds a slice of the folio's memory on its way to the disk cache, taken
    /// before anybody could write to it. If the folio has been written to meanwhile, that is laid over the
    /// memory, so the slice is dropped first: what is stored is what was fetched, or nothing (W6).
    pub(crate) fn publish_letting_go<H>(
        &self,
        folio: &Arc<Folio>,
        held: &mut Option<H>,
        current: impl FnOnce() -> bool,
    ) -> bool {
        let content = self.content.read();
        if folio.is_dirty() {
            drop(content);
            *held = None;
            return self.publish_over(folio, current);
        }
        let may = content.slots.holds(folio) && folio.mem().is_complete() && current();
        if may {
            // Before anybody can read it: what readers take off must have been added.
            self.unread_added(folio);
        }
        let published = may && folio.settle(Unlocked::Uptodate);
        if may && !published {
            self.unread_gone(folio);
        }
        if published {
            if let Some(charge) = folio.mem().charge() {
                charge.move_to(Account::Indexed);
            }
            self.cache.admit(folio);
        }
        drop(content);
        if published {
            folio.wake();
        } else {
            self.fail(folio);
        }
        published
    }

    /// [`publish_if`](FolioIndex::publish_if) of a folio that was written to while it was being filled:
    /// what was written is laid over what arrived.
    fn publish_over(&self, folio: &Arc<Folio>, current: impl FnOnce() -> bool) -> bool {
        let mut content = self.content.write();
        let may = content.slots.holds(folio) && folio.mem().is_complete() && current();
        let laid = may && content.lay_dirt_over(folio);
        let published = laid && folio.settle(Unlocked::Uptodate);
        if published {
            if let Some(charge) = folio.mem().charge() {
                charge.move_to(Account::Indexed);
            }
            self.unread_added(folio);
            self.settle_overlay(&mut content, folio);
        }
        drop(content);
        if published {
            folio.wake();
        } else {
            self.fail(folio);
        }
        published
    }

    /// Gives up a locked folio: out of the index, unlocked, not uptodate. Its waiters plan again. No
    /// effect on a folio that was published, except that the bytes of one failed before are accounted
    /// as free of their fetch.
    pub(crate) fn fail(&self, folio: &Arc<Folio>) {
        let mut content = self.content.write();
        if folio.is_locked() && content.slots.holds(folio) {
            content.slots.remove(folio);
            // What was written meanwhile stays.
            self.keep_dirt(&mut content, &mut vec![Arc::clone(folio)]);
        }
        folio.settle(Unlocked::Failed);
        drop(content);
        if !folio.is_uptodate() {
            folio.account_removed();
        }
        folio.wake();
    }

    /// Removes everything, uptodate and locked alike. Fetches under way can no longer be published;
    /// their waiters plan again at once. Slices handed out stay as they are.
    pub(crate) fn clear(&self) -> Removed {
        self.clear_with(|| ())
    }

    /// The same, with `change` made while nobody looks: a version that only changes here and is asked
    /// by [`publish_if`](FolioIndex::publish_if) moves in one step with the content, so the index never
    /// holds folios of two versions. `change` MUST NOT use the index.
    pub(crate) fn clear_with(&self, change: impl FnOnce()) -> Removed {
        self.remove_with(MissReason::Coherency, |slots| {
            change();
            slots.take_all()
        })
    }

    /// Removes everything but `keep`: folios of the request whose reply brought a new version, whose
    /// bytes are judged when they are published.
    pub(crate) fn clear_keeping(&self, keep: &[Arc<Folio>]) -> Removed {
        if keep.is_empty() {
            return self.clear();
        }
        self.remove_with(MissReason::Coherency, |slots| {
            let (kept, taken): (Vec<_>, Vec<_>) = slots
                .take_all()
                .into_iter()
                .partition(|f| f.is_locked() && keep.iter().any(|k| Arc::ptr_eq(k, f)));
            kept.iter().for_each(|folio| slots.insert(folio));
            taken
        })
    }

    /// Removes everything as if evicted: the file has not changed.
    pub(crate) fn evict_all(&self) -> Removed {
        self.remove_with(MissReason::Capacity, |slots| {
            let (kept, taken): (Vec<_>, Vec<_>) =
                slots.take_all().into_iter().partition(|f| f.is_dirty());
            kept.iter().for_each(|folio| slots.insert(folio));
            taken
        })
    }

    /// Removes every folio that overlaps `range`, as [`clear`](FolioIndex::clear) does.
    pub(crate) fn remove_range(&self, range: Range<u64>) -> Removed {
        self.remove_with(MissReason::Coherency, |slots| slots.take(range))
    }

    /// Why `range` is not in memory, as far as is known.
    pub(crate) fn miss_reason(&self, range: Range<u64>) -> MissReason {
        self.content.read().history.reason(range)
    }

    /// Evicts a folio the policy has let go of; false if it is not there or not evictable any more.
    pub(super) fn evict(&self, folio: &Arc<Folio>) -> bool {
        let mut content = self.content.write();
        if !content.slots.holds(folio) {
            return false;
        }
        if !folio.evictable() {
            // Became dirty since it was chosen: the policy gets it back when it is clean.
            return false;
        }
        content.slots.remove(folio);
        content.history.note(folio.offset(), MissReason::Capacity);
        drop(content);
        // It may have become dirty and clean again since it was chosen: the policy has it again then.
        self.cache.withdraw(std::slice::from_ref(folio));
        self.count_wasted(folio);
        folio.account_removed();
        true
    }

    fn remove_with(
        &self,
        why: MissReason,
        take: impl FnOnce(&mut Slots) -> Vec<Arc<Folio>>,
    ) -> Removed {
        let mut content = self.content.write();
        let mut taken = take(&mut content.slots);
        for folio in &taken {
            content.history.note(folio.offset(), why);
        }
        let demoted = self.keep_dirt(&mut content, &mut taken);
        self.data_gen.fetch_add(1, Ordering::Release);
        drop(content);
        let removed = self.let_go(&taken);
        self.let_go_demoted(&demoted);
        removed
    }

    /// Ends folios that were taken out of the slots. Nobody can find them any more, so this needs no
    /// lock: a publisher that comes now does not find its folio indexed.
    fn let_go(&self, taken: &[Arc<Folio>]) -> Removed {
        let mut removed = Removed::default();
        self.cache.withdraw(taken);
        for folio in taken {
            removed.folios += 1;
            removed.bytes += folio.len() as u64;
            let locked = folio.settle(Unlocked::Failed);
            removed.locked += usize::from(locked);
            if !locked && folio.is_uptodate() {
                self.unread_gone(folio);
            }
            folio.account_removed();
            folio.wake();
        }
        removed
    }
}

impl Drop for FolioIndex {
    fn drop(&mut self) {
        let mut content = self.content.write();
        let taken = content.slots.take_all();
        let left = self.clean(&content, self.dirty_bytes() as usize);
        drop(content);
        self.let_go(&taken);
        self.cleaned(left);
    }
}
