//! How much may be dirty. Writers above it wait, in the order they came, until so much has been uploaded:
//! each write takes its bytes out of one allowance, and bytes that become clean go back into it.
//!
//! Bytes that could not be uploaded for good (parked) give back what they took: nobody waits for what may
//! never come. Their memory stays in the byte budget; past half of it the volumes that have any take no
//! more writes ([`park`](super::park)).

use tokio::sync::Semaphore;

use crate::{
    error::{Errno, Error, Result},
    folio::PAGE_SIZE,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

/// The allowance of one context, in bytes.
pub(crate) struct Room {
    limit: AtomicU64,
    free: Semaphore,
    dirty: AtomicU64,
    /// Bytes that have ever become clean.
    cleaned: AtomicU64,
    /// Dirtied without having been asked for: taken off what comes back.
    debt: Mutex<u64>,
    /// Dirty bytes of parked files.
    parked: AtomicU64,
    /// The memory they take.
    parked_memory: Arc<AtomicU64>,
    parked_max: AtomicU64,
}

/// Bytes taken for a write.
pub(crate) struct Taken(u64);

impl Room {
    /// At most `limit` bytes are dirty; parked ones take at most about `parked_max` bytes of memory.
    pub(crate) fn new(limit: u64, parked_max: u64) -> Room {
        let limit = limit.min(Semaphore::MAX_PERMITS as u64).max(1);
        let free = Semaphore::new(limit as usize);
        Room {
            limit: AtomicU64::new(limit),
            free,
            dirty: AtomicU64::new(0),
            cleaned: AtomicU64::new(0),
            debt: Mutex::new(0),
            parked: AtomicU64::new(0),
            parked_memory: Arc::default(),
            parked_max: AtomicU64::new(parked_max),
        }
    }

    /// The most one write may take at a time.
    pub(crate) fn most(&self) -> u64 {
        self.limit.load(Ordering::Relaxed).min(u64::from(u32::MAX))
    }

    /// Other limits. A smaller one is paid off by what becomes clean. Not for callers at the same time.
    pub(crate) fn set_limit(&self, limit: u64, parked_max: u64) {
        self.parked_max.store(parked_max, Ordering::Relaxed);
        let limit = limit.min(Semaphore::MAX_PERMITS as u64).max(1);
        let before = self.limit.swap(limit, Ordering::Relaxed);
        if limit > before {
            self.give_back(limit - before);
        } else {
            let less = before - limit;
            let taken = self.free.forget_permits(usize::try_from(less).unwrap_or(usize::MAX));
            *self.debt.lock() += less - taken as u64;
        }
    }

    /// What a long write takes at a time: not so much that it would have to wait for all the others, one of
    /// which may hang; but then uploads come in large pieces, too.
    pub(crate) fn step(&self) -> u64 {
        (self.most() / 2).max(PAGE_SIZE as u64).min(self.most())
    }

    /// Bytes that are dirty or on their way, without the parked ones.
    pub(crate) fn dirty(&self) -> u64 {
        count(&self.dirty)
    }

    /// Dirty bytes of parked files.
    pub(crate) fn parked(&self) -> u64 {
        count(&self.parked)
    }

    /// Where the memory of parked files is counted.
    pub(crate) fn parked_memory(&self) -> &Arc<AtomicU64> {
        &self.parked_memory
    }

    /// Whether parked bytes take more memory than they may.
    pub(crate) fn parked_too_much(&self) -> bool {
        count(&self.parked_memory) > count(&self.parked_max)
    }

    /// Bytes that could be taken now.
    #[cfg(all(test, shuttle))]
    pub(crate) fn free(&self) -> u64 {
        self.free.available_permits() as u64
    }

    /// Takes `bytes` if they are free and nobody waits.
    pub(crate) fn try_take(&self, bytes: u64) -> Option<Taken> {
        let permit = self.free.try_acquire_many(self.count(bytes)).ok()?;
        permit.forget();
        Some(Taken(self.count(bytes).into()))
    }

    /// The same after whoever came before.
    pub(crate) async fn take(&self, bytes: u64) -> Result<Taken> {
        let permit = self.free.acquire_many(self.count(bytes)).await;
        let over = |_| Error::new(Errno::ESHUTDOWN, "this Netfs has been shut down");
        permit.map_err(over)?.forget();
        Ok(Taken(self.count(bytes).into()))
    }

    /// Nothing will be uploaded any more: who waits has waited in vain.
    pub(crate) fn close(&self) {
        self.free.close();
    }

    fn count(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.min(self.most())).unwrap_or(u32::MAX)
    }

    /// Of what was taken `dirtied` bytes are dirty now that were not before.
    pub(crate) fn settle(&self, &Taken(taken): &Taken, dirtied: u64) {
        if dirtied < taken {
            self.give_back(taken - dirtied);
        } else if dirtied > taken {
            *self.debt.lock() += dirtied - taken;
        }
    }

    pub(crate) fn dirtied(&self, bytes: u64) {
        self.dirty.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn cleaned(&self, bytes: u64) {
        self.cleaned.fetch_add(bytes, Ordering::Relaxed);
        self.dirty.fetch_sub(bytes, Ordering::Relaxed);
        self.give_back(bytes);
    }

    /// Bytes that have ever become clean: grows as long as there is any use in waiting.
    pub(crate) fn cleaned_ever(&self) -> u64 {
        self.cleaned.load(Ordering::Relaxed)
    }

    /// Becomes dirty in a file that is parked: what its writer took is not needed.
    pub(crate) fn dirtied_parked(&self, bytes: u64) {
        self.parked.fetch_add(bytes, Ordering::Relaxed);
        self.give_back(bytes);
    }

    /// Nothing goes back: that was done when it was parked.
    pub(crate) fn cleaned_parked(&self, bytes: u64) {
        self.cleaned.fetch_add(bytes, Ordering::Relaxed);
        self.parked.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Dirty bytes of a file are parked from now on.
    pub(crate) fn park(&self, bytes: u64) {
        self.parked.fetch_add(bytes, Ordering::Relaxed);
        self.dirty.fetch_sub(bytes, Ordering::Relaxed);
        self.give_back(bytes);
    }

    /// They are not any more, and still dirty.
    pub(crate) fn unpark(&self, bytes: u64) {
        self.parked.fetch_sub(bytes, Ordering::Relaxed);
        self.dirtied(bytes);
        *self.debt.lock() += bytes;
    }

    fn give_back(&self, bytes: u64) {
        let mut debt = self.debt.lock();
        let paid = bytes.min(*debt);
        *debt -= paid;
        drop(debt);
        if bytes > paid {
            self.free.add_permits((bytes - paid) as usize);
        }
    }
}

/// Additions and subtractions may overtake each other: then a sum is below zero for an instant.
fn count(of: &AtomicU64) -> u64 {
    i64::try_from(of.load(Ordering::Relaxed)).unwrap_or(0).unsigned_abs()
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn writers_wait_in_order_and_get_what_became_clean() {
        let room = Room::new(100, 50);
        let first = room.try_take(80).expect("free");
        room.dirtied(80);
        room.settle(&first, 80);
        let (mut large, mut small) = (Box::pin(room.take(60)), Box::pin(room.take(10)));
        assert!((&mut large).now_or_never().is_none());
        assert!((&mut small).now_or_never().is_none(), "the small one does not overtake");
        assert!(room.try_take(1).is_none());
        room.cleaned(40);
        let taken = large.now_or_never().expect("its turn").expect("open");
        assert!((&mut small).now_or_never().is_none());
        // It dirtied nothing new: all goes back.
        room.settle(&taken, 0);
        assert!(small.now_or_never().is_some());
        assert_eq!(room.dirty(), 40);
    }

    #[test]
    fn another_limit_counts_what_is_dirty_already() {
        let room = Room::new(100, 50);
        let taken = room.try_take(80).expect("free");
        room.dirtied(80);
        room.settle(&taken, 80);
        room.set_limit(50, 25);
        assert!(room.try_take(1).is_none());
        room.cleaned(40);
        assert!(room.try_take(11).is_none());
        let ten = room.try_take(10).expect("40 of 50 are dirty");
        room.settle(&ten, 0);
        room.set_limit(200, 100);
        assert!(room.try_take(160).is_some());
        assert!(room.try_take(1).is_none());
    }

    #[test]
    fn bytes_dirtied_without_asking_are_taken_off_what_comes_back() {
        let room = Room::new(100, 50);
        let taken = room.try_take(10).expect("free");
        room.dirtied(30);
        room.settle(&taken, 30);
        room.cleaned(30);
        assert!(room.try_take(101).is_some(), "as much as there is");
        assert!(room.try_take(1).is_none());
    }

    #[test]
    fn parked_bytes_give_back_their_room_once() {
        let room = Room::new(100, 50);
        let taken = room.try_take(90).expect("free");
        room.dirtied(90);
        room.settle(&taken, 90);
        room.park(90);
        assert_eq!((room.dirty(), room.parked()), (0, 90));
        // A write that was under way.
        let taken = room.try_take(100).expect("all of it is back");
        room.dirtied_parked(100);
        room.settle(&taken, 100);
        room.cleaned_parked(150);
        assert_eq!((room.dirty(), room.parked()), (0, 40));
        let all = room.try_take(100).expect("still all, and not more");
        assert!(room.try_take(1).is_none());
        room.settle(&all, 0);
        room.unpark(40);
        room.cleaned(40);
        assert_eq!((room.dirty(), room.parked()), (0, 0));
        assert!(room.try_take(100).is_some(), "the debt is paid");
        assert!(room.try_take(1).is_none());
    }
}
