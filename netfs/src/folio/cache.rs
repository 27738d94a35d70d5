//! The folio cache of one context: the arena, the budget, and the policy that decides who leaves.
//!
//! Lock order: an index's lock, then the policy's, then the arena's. Reclaim picks a victim under the
//! policy's lock, lets go of it, and only then takes the victim's index lock, where it looks again.

use std::ops::Range;

use bytes::Bytes;

use super::{
    GRANULE,
    arena::{Arena, Block},
    budget::{self, Account, Accounts, FOLIO_OVERHEAD, Reservation},
    index::FolioIndex,
    lent::Returned,
    memory::NewMem,
    state::Folio,
    window::folio_sizes,
};
use crate::{
    policy::{Policy, S3Fifo, Token},
    stats::Counters,
    sync::{
        Arc, Mutex, Readers,
        atomic::{AtomicU64, Ordering},
    },
    writeback::room::{Room, Share},
};

/// Memory of one context, in bytes. `budgeted` never exceeds `budget`; `pinned` and `transient`
/// are outside it, because no eviction can get them back.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryUsage {
    /// The budget.
    pub budget: u64,
    /// What counts in it now: `indexed`, `in_flight`, `abandoned` and `metadata`.
    pub budgeted: u64,
    /// Uptodate content.
    pub indexed: u64,
    /// Allocated for fetches under way.
    pub in_flight: u64,
    /// Memory of fetches that nobody waits for any more but that have not ended.
    pub abandoned: u64,
    /// Estimated bookkeeping of the folios.
    pub metadata: u64,
    /// Evicted or invalidated, but still held by slices.
    pub pinned: u64,
    /// Of `indexed`: written and not on the server yet, or on its way there.
    pub dirty: u64,
    /// Of `dirty`: what the server refused for good, kept until an upload succeeds or it is discarded. Writers
    /// do not wait for it.
    pub parked: u64,
    /// Read past the cache because the budget was exhausted or the caller asked for it.
    pub transient: u64,
    /// Mapped by the arena, in use or kept for reuse.
    pub mapped: u64,
    /// Folios that count in the budget.
    pub folios: u64,
}

/// Memory for one folio that is not in an index yet.
pub(crate) struct NewFolio {
    /// Where in the file it belongs.
    pub(crate) offset: u64,
    /// Its memory.
    pub(crate) mem: NewMem,
}

/// The page cache's shared part. Each inode has its own [`FolioIndex`].
pub(crate) struct FolioCache {
    arena: Arc<Arena>,
    returned: Arc<Returned>,
    accounts: Arc<Accounts>,
    policy: Mutex<S3Fifo<Arc<Folio>>>,
    counters: Arc<Counters>,
    readers: Arc<Readers>,
    next_index: AtomicU64,
    /// What is dirty or on its way to a server, of all files.
    room: Arc<Room>,
}

impl FolioCache {
    /// A cache that keeps at most `budget` bytes, half of them dirty.
    #[cfg(test)]
    pub(crate) fn new(budget: u64, counters: Arc<Counters>) -> Arc<FolioCache> {
        FolioCache::with_dirty_limit(budget, budget / 2, counters)
    }

    /// A cache that keeps at most `budget` bytes, at most `dirty_limit` of them dirty.
    pub(crate) fn with_dirty_limit(
        budget: u64,
        dirty_limit: u64,
        counters: Arc<Counters>,
    ) -> Arc<FolioCache> {
        let accounts = Accounts::new(budget);
        Arc::new(FolioCache {
            // An eighth is kept against the cost of mapping and first touch when load comes in waves.
            arena: Arena::new(budget / 8),
            returned: Arc::default(),
            room: Room::new(dirty_limit, Arc::clone(&accounts)),
            accounts,
            policy: Mutex::new(S3Fifo::new(budget, budget::cost(GRANULE as u64))),
            counters,
            readers: Readers::new(),
            next_index: AtomicU64::new(0),
        })
    }

    /// Most bytes kept.
    pub(crate) fn budget(&self) -> u64 {
        self.accounts.budget()
    }

    /// Another budget, at most a half of which may be dirty: evicts what is too much, as far as it is clean and
    /// nobody holds it locked. Returns the budget there is now, which is larger where that was not enough: a
    /// granule above what cannot go, for without any who writes next would wait for what may hang.
    pub(crate) fn set_budget(&self, budget: u64, dirty_limit: u64) -> u64 {
        self.room.set_limit(dirty_limit);
        self.policy.lock().set_capacity(budget, budget::cost(GRANULE as u64));
        self.arena.keep(budget / 8);
        // First: nobody takes what is being freed.
        self.accounts.set_budget(budget);
        // Each folio is chosen once and those that come meanwhile fit: this ends.
        while self.accounts.charged() > budget && self.evict_one().is_some() {}
        self.returned.let_go();
        let stays = self.accounts.charged().saturating_sub(self.policy.lock().weight());
        let now = budget.max(stays + GRANULE as u64).max(self.accounts.charged());
        self.accounts.set_budget(now);
        now
    }

    /// An index for one more inode of the volume whose `share` it is.
    pub(crate) fn new_index_of(self: &Arc<Self>, share: &Arc<Share>) -> Arc<FolioIndex> {
        let id = self.next_index.fetch_add(1, Ordering::Relaxed);
        FolioIndex::new(Arc::clone(self), id, Arc::clone(share))
    }

    #[cfg(test)]
    pub(crate) fn new_index(self: &Arc<Self>) -> Arc<FolioIndex> {
        self.new_index_of(&self.room.share())
    }

    /// Allocates memory for all of `runs` (page-aligned, not overlapping), cut by [`folio_sizes`],
    /// evicting others to make room. Nothing is locked or indexed yet. Never waits; `None` if the
    /// budget is exhausted by what cannot be evicted: then read through [`transient`] memory.
    ///
    /// [`transient`]: FolioCache::transient
    pub(crate) fn alloc_window(
        &self,
        runs: &[Range<u64>],
        file_size: u64,
        cap: usize,
    ) -> Option<Vec<NewFolio>> {
        self.alloc_lent(runs, file_size, cap, |_| None)
    }

    /// The same for a fetch; `None` also if fetches have their part of the memory.
    pub(crate) fn alloc_fetch(
        &self,
        runs: &[Range<u64>],
        file_size: u64,
        cap: usize,
    ) -> Option<Vec<NewFolio>> {
        let bytes = runs.iter().map(|run| run.end - run.start).sum();
        self.room.may_fetch(bytes).then(|| self.alloc_window(runs, file_size, cap))?
    }

    /// The same as [`alloc_window`](FolioCache::alloc_window), where some folios may be of a caller's bytes: what
    /// `lend` has of a folio's place, all of it. They count in the budget as any memory does.
    pub(crate) fn alloc_lent(
        &self,
        runs: &[Range<u64>],
        file_size: u64,
        cap: usize,
        lend: impl Fn(Range<u64>) -> Option<Bytes>,
    ) -> Option<Vec<NewFolio>> {
        self.returned.let_go();
        let sizes = || runs.iter().flat_map(|run| folio_sizes(run.clone(), file_size, cap));
        let mut total = 0u64;
        let mut count = 0;
        for (_, len) in sizes() {
            total += budget::cost(len as u64);
            count += 1;
            // Ends the loop early on a window out of all proportion.
            if total > self.accounts.budget() {
                return None;
            }
        }
        let mut room = self.make_room(total)?;
        let mut window = Vec::with_capacity(count);
        for (offset, len) in sizes() {
            let charge = room.charge(len as u64);
            let block = match lend(offset..offset + len as u64) {
                Some(bytes) => Block::foreign(bytes, Some(Arc::clone(&self.returned))),
                None => self.arena.alloc(len)?,
            };
            let mem = NewMem::new(block, Some(charge));
            window.push(NewFolio { offset, mem });
        }
        Some(window)
    }

    /// Lets go of callers' buffers that are no folio's memory any more. No lock may be held.
    pub(crate) fn let_go_returned(&self) {
        self.returned.let_go();
    }

    /// Zeroed memory of any length outside index and budget, counted apart.
    pub(crate) fn transient(&self, len: usize) -> NewMem {
        NewMem::new(Block::heap(len), Some(self.accounts.transient(len as u64)))
    }

    /// What is used for what. The figures are read one by one and may be apart by what happens
    /// meanwhile.
    pub(crate) fn usage(&self) -> MemoryUsage {
        let folios = self.accounts.folios();
        MemoryUsage {
            budget: self.accounts.budget(),
            budgeted: self.accounts.charged(),
            indexed: self.accounts.bytes(Account::Indexed),
            in_flight: self.accounts.bytes(Account::InFlight),
            abandoned: self.accounts.bytes(Account::Abandoned),
            metadata: folios * FOLIO_OVERHEAD,
            pinned: self.accounts.bytes(Account::Pinned),
            dirty: self.room.dirty() + self.room.parked(),
            parked: self.room.parked(),
            transient: self.accounts.bytes(Account::Transient),
            mapped: self.arena.usage().mapped,
            folios,
        }
    }

    /// What is dirty, and how much may be.
    pub(crate) fn room(&self) -> &Arc<Room> {
        &self.room
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Who is looking at which index.
    pub(super) fn readers(&self) -> &Arc<Readers> {
        &self.readers
    }

    /// Hands a folio that has just become uptodate to the policy.
    pub(super) fn admit(&self, folio: &Arc<Folio>) {
        let mut policy = self.policy.lock();
        folio.set_token(policy.insert(Arc::clone(folio)));
    }

    /// Takes folios that have left their index out of the policy.
    pub(super) fn withdraw(&self, folios: &[Arc<Folio>]) {
        let mut policy = self.policy.lock();
        for folio in folios {
            // No token: never admitted, or being evicted right now.
            policy.remove(folio.token());
            folio.set_token(Token::NONE);
        }
    }

    /// Reserves `bytes`, evicting as needed. Bounded: under contention for the room it makes it gives
    /// up after having evicted several times what it needs.
    fn make_room(&self, bytes: u64) -> Option<Reservation> {
        if let Some(room) = self.accounts.reserve(bytes) {
            return Some(room);
        }
        // Nothing is evicted for a window that would not fit even then.
        let evictable = self.policy.lock().weight();
        if self.accounts.charged().saturating_sub(evictable) + bytes > self.accounts.budget() {
            return None;
        }
        let mut evicted = 0;
        loop {
            if let Some(room) = self.accounts.reserve(bytes) {
                return Some(room);
            }
            if evicted > 4 * bytes + GRANULE as u64 {
                return None;
            }
            match self.evict_one() {
                Some(freed) => evicted += freed,
                // Another thread may have made or given back room in between.
                None => return self.accounts.reserve(bytes),
            }
        }
    }

    /// Evicts one folio as if its room were needed; false if there is none.
    #[cfg(all(test, shuttle))]
    pub(crate) fn reclaim_one(&self) -> bool {
        self.evict_one().is_some()
    }

    /// Evicts one folio; returns its bytes, 0 if the chosen one was gone already.
    fn evict_one(&self) -> Option<u64> {
        let victim = {
            let mut policy = self.policy.lock();
            let victim = policy.evict()?;
            victim.set_token(Token::NONE);
            victim
        };
        // No index: its inode is going away, and with it the memory.
        let Some(index) = victim.index().upgrade() else { return Some(0) };
        if !index.evict(&victim) {
            return Some(0);
        }
        let bytes = victim.len() as u64;
        self.counters.evictions.inc();
        self.counters.evicted_bytes.add(bytes);
        Some(bytes)
    }
}
