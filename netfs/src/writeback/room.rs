//! How much may be dirty. Writers above it wait, in the order they came, until so much has been uploaded:
//! each write takes its bytes out of one allowance, and bytes that become clean go back into it.

use tokio::sync::Semaphore;

use crate::{
    error::{Errno, Error, Result},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

/// The allowance of one context, in bytes.
pub(crate) struct Room {
    limit: AtomicU64,
    free: Semaphore,
    dirty: AtomicU64,
    /// Dirtied without having been asked for: taken off what comes back.
    debt: Mutex<u64>,
}

/// Bytes taken for a write.
pub(crate) struct Taken(u64);

impl Room {
    pub(crate) fn new(limit: u64) -> Room {
        let limit = limit.min(Semaphore::MAX_PERMITS as u64).max(1);
        let free = Semaphore::new(limit as usize);
        Room { limit: AtomicU64::new(limit), free, dirty: AtomicU64::new(0), debt: Mutex::new(0) }
    }

    /// The most one write may take at a time.
    pub(crate) fn most(&self) -> u64 {
        self.limit.load(Ordering::Relaxed).min(u64::from(u32::MAX))
    }

    /// Another limit. A smaller one is paid off by what becomes clean. Not for callers at the same time.
    pub(crate) fn set_limit(&self, limit: u64) {
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

    /// Bytes that are dirty or on their way.
    pub(crate) fn dirty(&self) -> u64 {
        self.dirty.load(Ordering::Relaxed)
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
        self.dirty.fetch_sub(bytes, Ordering::Relaxed);
        self.give_back(bytes);
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

#[cfg(all(test, not(shuttle)))]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn writers_wait_in_order_and_get_what_became_clean() {
        let room = Room::new(100);
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
        let room = Room::new(100);
        let taken = room.try_take(80).expect("free");
        room.dirtied(80);
        room.settle(&taken, 80);
        room.set_limit(50);
        assert!(room.try_take(1).is_none());
        room.cleaned(40);
        assert!(room.try_take(11).is_none());
        let ten = room.try_take(10).expect("40 of 50 are dirty");
        room.settle(&ten, 0);
        room.set_limit(200);
        assert!(room.try_take(160).is_some());
        assert!(room.try_take(1).is_none());
    }

    #[test]
    fn bytes_dirtied_without_asking_are_taken_off_what_comes_back() {
        let room = Room::new(100);
        let taken = room.try_take(10).expect("free");
        room.dirtied(30);
        room.settle(&taken, 30);
        room.cleaned(30);
        assert!(room.try_take(101).is_some(), "as much as there is");
        assert!(room.try_take(1).is_none());
    }
}
