//! How much may be dirty. Writers above it wait, in the order they came to their volume, until so much has been
//! uploaded: each write takes its bytes out of its volume's [`Share`], and bytes that become clean go back.
//!
//! **No volume has all of it** ([`shares`]). What one has is at most eight times what is still free: alone it has 8/9 of
//! the limit, several busy ones come to the same, and one whose server hangs leaves the others something to go on
//! with, of which the next may again have 8/9. (As the buffer of a switch is shared between its ports: a
//! threshold that follows what is free needs to know neither who is there nor who is sick.) A volume that has
//! nothing may always have a page, even above the limit. So whoever waits waits for bytes of its own volume.
//!
//! A writer gets less than it wants where its volume may not have more, but waits for half of the most that the
//! volume could have, or all it wants: so writes stay large.
//!
//! The memory of folios with dirty bytes is shared in the same way ([`Share::may_hold`]): one dirty byte keeps all of
//! a folio. Fetches have such a part, too ([`Room::may_fetch`]): those that a server does not answer keep theirs.
//!
//! Bytes that could not be uploaded for good (parked) give back what they took: nobody waits for what may
//! never come. Their memory stays in the byte budget; past half of it the volumes that have any take no
//! more writes ([`park`](super::park)).

#[cfg(all(test, shuttle))]
mod interleavings;
mod shares;
#[cfg(all(test, not(shuttle)))]
mod tests;

use shares::{Place, Shares, part, signed};
use tokio::sync::oneshot;

use crate::{
    error::{Errno, Error, Result},
    folio::{
        PAGE_SIZE,
        budget::{Accounts, cost},
    },
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

/// What may be dirty in one context.
pub(crate) struct Room {
    shares: Mutex<Shares>,
    /// As in `shares`, for who does not lock them.
    limit: AtomicU64,
    /// The byte budget of memory, and what fetches take of it.
    accounts: Arc<Accounts>,
    dirty: AtomicU64,
    /// Dirty bytes of parked files.
    parked: AtomicU64,
    /// What the folios with dirty bytes cost of the budget, without those of parked files.
    memory: AtomicU64,
    parked_memory: AtomicU64,
}

/// One volume's part of it.
pub(crate) struct Share {
    room: Arc<Room>,
    place: Place,
    /// What its folios with dirty bytes cost of the budget, without those of parked files.
    memory: AtomicU64,
    /// Bytes that ever became clean, not those that were parked.
    cleaned_ever: AtomicU64,
}

/// Bytes taken for a write.
#[derive(Debug)]
pub(crate) struct Taken(u64);

impl Taken {
    /// How many, at most what was asked for.
    pub(crate) fn bytes(&self) -> u64 {
        self.0
    }
}

impl Room {
    /// At most `limit` bytes are dirty, in memory that counts in `accounts`.
    pub(crate) fn new(limit: u64, accounts: Arc<Accounts>) -> Arc<Room> {
        Arc::new(Room {
            shares: Mutex::new(Shares::new(limit)),
            limit: AtomicU64::new(limit),
            accounts,
            dirty: AtomicU64::new(0),
            parked: AtomicU64::new(0),
            memory: AtomicU64::new(0),
            parked_memory: AtomicU64::new(0),
        })
    }

    /// Another limit. A smaller one is paid off by what becomes clean; who waits waits for what it allows.
    pub(crate) fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
        self.shares.lock().set_limit(limit);
        self.serve();
    }

    /// The part of one more volume.
    pub(crate) fn share(self: &Arc<Room>) -> Arc<Share> {
        let place = self.shares.lock().begin();
        let (memory, cleaned_ever) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Share { room: Arc::clone(self), place, memory, cleaned_ever })
    }

    /// What a long write asks for at a time: not so much that it would have to wait for all the others; but then
    /// uploads come in large pieces, too.
    pub(crate) fn step(&self) -> u64 {
        (self.limit.load(Ordering::Relaxed) / 2).max(PAGE_SIZE as u64)
    }

    /// Bytes that are dirty or on their way, without the parked ones.
    pub(crate) fn dirty(&self) -> u64 {
        count(&self.dirty)
    }

    /// Dirty bytes of parked files.
    pub(crate) fn parked(&self) -> u64 {
        count(&self.parked)
    }

    /// Whether parked bytes take more memory than they may.
    pub(crate) fn parked_too_much(&self) -> bool {
        count(&self.parked_memory) > self.accounts.budget() / 2
    }

    /// Memory of the budget that is neither a fetch's nor holds dirty bytes: it is free, or can be evicted.
    fn evictable(&self) -> i64 {
        let held = count(&self.memory) + count(&self.parked_memory) + self.accounts.fetching();
        signed(self.accounts.budget()) - signed(held)
    }

    /// Whether fetches may take `more` bytes of memory: at most eight times what they leave. Nobody gets that
    /// back before they have ended.
    pub(crate) fn may_fetch(&self, more: u64) -> bool {
        signed(more) <= part(self.evictable(), signed(self.accounts.fetching()), 0)
    }

    /// Nothing will be uploaded any more: who waits has waited in vain.
    pub(crate) fn close(&self) {
        let waiting = self.shares.lock().close();
        drop(waiting);
    }

    /// Whether nobody has taken anything, or waits.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.shares.lock().is_empty()
    }

    /// Gives whoever waits what there is.
    fn serve(&self) {
        loop {
            // Who is told is told without the lock: wakers are foreign code.
            let next = self.shares.lock().next();
            let Some(grant) = next else { return };
            if let Err(bytes) = grant.tell.send(grant.bytes) {
                // It went away just now.
                self.shares.lock().give_back(grant.place, bytes);
            }
        }
    }
}

impl Share {
    /// Takes up to `wanted` bytes, if the volume may have them now and nobody of it waits.
    pub(crate) fn try_take(&self, wanted: u64) -> Option<Taken> {
        self.room.shares.lock().try_take(self.place, wanted).map(Taken)
    }

    /// The same after whoever came before.
    pub(crate) async fn take(&self, wanted: u64) -> Result<Taken> {
        let (tell, answer) = oneshot::channel();
        let ticket = self.room.shares.lock().queue(self.place, wanted, tell);
        let mut waiting = Waiting { share: self, ticket, answer };
        self.room.serve();
        let answer = (&mut waiting.answer).await;
        waiting.ticket = None;
        let over = |_| Error::new(Errno::ESHUTDOWN, "this Netfs has been shut down");
        answer.map(Taken).map_err(over)
    }

    /// Of what was taken `dirtied` bytes are dirty now that were not before.
    pub(crate) fn settle(&self, &Taken(taken): &Taken, dirtied: u64) {
        if dirtied < taken {
            self.give_back(taken - dirtied);
        } else if dirtied > taken {
            self.room.shares.lock().take(self.place, dirtied - taken);
        }
    }

    pub(crate) fn dirtied(&self, bytes: u64) {
        self.room.dirty.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn cleaned(&self, bytes: u64) {
        self.cleaned_ever.fetch_add(bytes, Ordering::Relaxed);
        self.less_dirty(bytes);
    }

    /// How many bytes ever became clean.
    pub(crate) fn cleaned_ever(&self) -> u64 {
        self.cleaned_ever.load(Ordering::Relaxed)
    }

    fn less_dirty(&self, bytes: u64) {
        self.room.dirty.fetch_sub(bytes, Ordering::Relaxed);
        self.give_back(bytes);
    }

    /// Becomes dirty in a file that is parked: what its writer took is not needed.
    pub(crate) fn dirtied_parked(&self, bytes: u64) {
        self.room.parked.fetch_add(bytes, Ordering::Relaxed);
        self.give_back(bytes);
    }

    /// Nothing goes back: that was done when it was parked.
    pub(crate) fn cleaned_parked(&self, bytes: u64) {
        self.cleaned_ever.fetch_add(bytes, Ordering::Relaxed);
        self.room.parked.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Dirty bytes of a file are parked from now on.
    pub(crate) fn park(&self, bytes: u64) {
        self.room.parked.fetch_add(bytes, Ordering::Relaxed);
        self.less_dirty(bytes);
    }

    /// They are not any more, and still dirty.
    pub(crate) fn unpark(&self, bytes: u64) {
        self.room.parked.fetch_sub(bytes, Ordering::Relaxed);
        self.dirtied(bytes);
        self.room.shares.lock().take(self.place, bytes);
    }

    fn give_back(&self, bytes: u64) {
        if bytes > 0 && self.room.shares.lock().give_back(self.place, bytes) {
            self.room.serve();
        }
    }

    /// Folios with dirty bytes of a file cost `now`, and not `before` any more.
    pub(crate) fn holds(&self, parked: bool, before: u64, now: u64) {
        let more = now.wrapping_sub(before);
        if more == 0 {
            return;
        }
        if parked {
            self.room.parked_memory.fetch_add(more, Ordering::Relaxed);
        } else {
            self.memory.fetch_add(more, Ordering::Relaxed);
            self.room.memory.fetch_add(more, Ordering::Relaxed);
        }
    }

    /// Whether none of its folios has dirty bytes, but for those of parked files.
    pub(crate) fn holds_nothing(&self) -> bool {
        count(&self.memory) == 0
    }

    /// Whether folios of `more` bytes more may have dirty bytes: at most eight times the memory that nobody
    /// holds so or fetches into, or a page. Many at once may get a bit above.
    pub(crate) fn may_hold(&self, more: u64) -> bool {
        let least = signed(cost(PAGE_SIZE as u64));
        signed(more) <= part(self.room.evictable(), signed(count(&self.memory)), least)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.room.shares.lock().end(self.place);
    }
}

/// Somebody who waits. Whoever goes away leaves its place, and what it was given meanwhile.
struct Waiting<'a> {
    share: &'a Share,
    /// None once it has had its turn.
    ticket: Option<u64>,
    answer: oneshot::Receiver<u64>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        // What is not here by now finds nobody, and is taken back by whoever gave it.
        self.answer.close();
        let Share { room, place, .. } = self.share;
        let mut shares = room.shares.lock();
        let left = shares.leave(*place, ticket);
        if let Ok(bytes) = self.answer.try_recv() {
            shares.give_back(*place, bytes);
        }
        drop(shares);
        drop(left);
        // Those behind it may be able to have what it could not.
        room.serve();
    }
}

/// Additions and subtractions may overtake each other: then a sum is below zero for an instant.
fn count(of: &AtomicU64) -> u64 {
    i64::try_from(of.load(Ordering::Relaxed)).unwrap_or(0).unsigned_abs()
}
