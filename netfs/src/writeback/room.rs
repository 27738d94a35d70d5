//! How much may be dirty. Writers above it wait, in the order they came to their volume, until so much has been
//! uploaded: each write takes its bytes out of one allowance, and bytes that become clean go back into it.
//!
//! **No volume has all of it.** What one has taken is at most [`SHARE`] times what is still free, so a volume
//! alone gets 8/9 of the limit, and one whose server hangs leaves the others something to go on with: of that
//! the next may have 8/9 again. A writer gets less than it wants where its volume may not have more, but never
//! less than half of the most that its volume could have (or all it wants): so writes stay large.
//!
//! Bytes that could not be uploaded for good (parked) give back what they took: nobody waits for what may
//! never come. Their memory stays in the byte budget; past half of it the volumes that have any take no
//! more writes ([`park`](super::park)).

use std::collections::{HashMap, VecDeque};

use tokio::sync::oneshot;

use crate::{
    error::{Errno, Error, Result},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

/// How many times what is free a volume may have taken.
const SHARE: u64 = 8;

/// A volume's share in the allowance, by number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Share(pub(crate) u64);

/// The allowance of one context, in bytes.
pub(crate) struct Room {
    state: Mutex<State>,
    dirty: AtomicU64,
    /// Dirty bytes of parked files.
    parked: AtomicU64,
    /// The memory they take.
    parked_memory: Arc<AtomicU64>,
    parked_max: AtomicU64,
}

#[derive(Default)]
struct State {
    limit: u64,
    /// Of all volumes. More than the limit where that became smaller, or where more became dirty than was asked
    /// for.
    used: i64,
    shares: HashMap<Share, Volume>,
    /// In the order they came, all volumes' together.
    tickets: u64,
    waiting: usize,
    closed: bool,
}

/// What one volume has.
#[derive(Default)]
struct Volume {
    /// Negative for a moment: what a writer dirties may be clean before it has said so.
    used: i64,
    queue: VecDeque<Waiter>,
}

struct Waiter {
    ticket: u64,
    wanted: u64,
    granted: oneshot::Sender<u64>,
}

/// Bytes taken for a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Taken {
    share: Share,
    bytes: u64,
}

impl Taken {
    /// How many.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl State {
    fn used_by(&self, share: Share) -> i64 {
        self.shares.get(&share).map_or(0, |volume| volume.used)
    }

    /// How much of `wanted` the volume may have now; 0 if it is to wait.
    fn grantable(&self, share: Share, wanted: u64) -> u64 {
        let own = count(self.used_by(share));
        let free = self.limit.saturating_sub(count(self.used));
        let part = |bytes: u64| bytes.saturating_mul(SHARE) / (SHARE + 1);
        // With `n` more it has `own + n`, and the others leave `free - n`.
        let now = free.saturating_mul(SHARE).saturating_sub(own) / (SHARE + 1);
        let most = part(free.saturating_add(own)).max(1).min(free.saturating_add(own));
        // The last bytes: a volume that has nothing never waits for the others of as little.
        let now = if own == 0 { now.max(free.min(1)) } else { now };
        let least = wanted.min((most / 2).max(1));
        if now >= least { now.min(wanted) } else { 0 }
    }

    fn take(&mut self, share: Share, bytes: u64) {
        self.change(share, signed(bytes));
    }

    fn give_back(&mut self, share: Share, bytes: u64) {
        self.change(share, -signed(bytes));
    }

    fn change(&mut self, share: Share, more: i64) {
        self.used += more;
        let volume = self.shares.entry(share).or_default();
        volume.used += more;
        if volume.used == 0 && volume.queue.is_empty() {
            self.shares.remove(&share);
        }
    }

    /// Who is first at some volume and can have something now, longest waiting first; what that is, taken.
    fn next(&mut self) -> Option<(Share, Waiter, u64)> {
        if self.waiting == 0 {
            return None;
        }
        self.forget_who_left();
        let first = |(share, volume): (&Share, &Volume)| {
            let waiter = volume.queue.front()?;
            let bytes = self.grantable(*share, waiter.wanted);
            (bytes > 0).then_some((waiter.ticket, *share, bytes))
        };
        let (_, share, bytes) = self.shares.iter().filter_map(first).min_by_key(|(at, ..)| *at)?;
        let waiter = self.shares.get_mut(&share)?.queue.pop_front()?;
        self.waiting -= 1;
        self.take(share, bytes);
        Some((share, waiter, bytes))
    }

    fn forget_who_left(&mut self) {
        let State { shares, waiting, .. } = self;
        shares.retain(|_, volume| {
            let before = volume.queue.len();
            volume.queue.retain(|waiter| !waiter.granted.is_closed());
            *waiting -= before - volume.queue.len();
            volume.used != 0 || !volume.queue.is_empty()
        });
    }
}

/// Somebody who waits. Whoever goes away does not keep what came in the meantime.
struct Waiting<'a> {
    room: &'a Room,
    share: Share,
    granted: oneshot::Receiver<u64>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.granted.close();
        if let Ok(bytes) = self.granted.try_recv() {
            self.room.give_back(self.share, bytes);
        } else {
            // Those behind it may be able to have what it could not.
            self.room.serve();
        }
    }
}

impl Room {
    /// At most `limit` bytes are dirty; parked ones take at most about `parked_max` bytes of memory.
    pub(crate) fn new(limit: u64, parked_max: u64) -> Room {
        Room {
            state: Mutex::new(State { limit: limit.max(1), ..State::default() }),
            dirty: AtomicU64::new(0),
            parked: AtomicU64::new(0),
            parked_memory: Arc::default(),
            parked_max: AtomicU64::new(parked_max),
        }
    }

    /// Other limits. A smaller one is paid off by what becomes clean; who waits waits for what it allows.
    pub(crate) fn set_limit(&self, limit: u64, parked_max: u64) {
        self.parked_max.store(parked_max, Ordering::Relaxed);
        self.state.lock().limit = limit.max(1);
        self.serve();
    }

    /// Bytes that are dirty or on their way, without the parked ones.
    pub(crate) fn dirty(&self) -> u64 {
        load(&self.dirty)
    }

    /// Dirty bytes of parked files.
    pub(crate) fn parked(&self) -> u64 {
        load(&self.parked)
    }

    /// Where the memory of parked files is counted.
    pub(crate) fn parked_memory(&self) -> &Arc<AtomicU64> {
        &self.parked_memory
    }

    /// Whether parked bytes take more memory than they may.
    pub(crate) fn parked_too_much(&self) -> bool {
        load(&self.parked_memory) > load(&self.parked_max)
    }

    /// Whether nobody has taken anything, or waits.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        let state = self.state.lock();
        state.used == 0 && state.waiting == 0 && state.shares.is_empty()
    }

    /// Takes up to `wanted` bytes, at least one, if the volume may have them now and nobody of it waits.
    pub(crate) fn try_take(&self, share: Share, wanted: u64) -> Option<Taken> {
        let mut state = self.state.lock();
        let waited_for = state.shares.get(&share).is_some_and(|volume| !volume.queue.is_empty());
        let bytes = if waited_for || state.closed { 0 } else { state.grantable(share, wanted) };
        if bytes == 0 {
            return None;
        }
        state.take(share, bytes);
        Some(Taken { share, bytes })
    }

    /// The same after whoever came before.
    pub(crate) async fn take(&self, share: Share, wanted: u64) -> Result<Taken> {
        let (granted, receiver) = oneshot::channel();
        let mut waiting = Waiting { room: self, share, granted: receiver };
        {
            let mut state = self.state.lock();
            if !state.closed {
                state.tickets += 1;
                state.waiting += 1;
                let waiter = Waiter { ticket: state.tickets, wanted: wanted.max(1), granted };
                state.shares.entry(share).or_default().queue.push_back(waiter);
            } else {
                drop(granted);
            }
        }
        self.serve();
        let over = |_| Error::new(Errno::ESHUTDOWN, "this Netfs has been shut down");
        let bytes = (&mut waiting.granted).await.map_err(over)?;
        Ok(Taken { share, bytes })
    }

    /// Nothing will be uploaded any more: who waits has waited in vain.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.waiting = 0;
        let waiting: Vec<_> =
            state.shares.values_mut().map(|v| std::mem::take(&mut v.queue)).collect();
        drop(state);
        drop(waiting);
    }

    /// Of what was taken `dirtied` bytes are dirty now that were not before.
    pub(crate) fn settle(&self, taken: Taken, dirtied: u64) {
        if dirtied > taken.bytes {
            self.state.lock().take(taken.share, dirtied - taken.bytes);
        } else if dirtied < taken.bytes {
            self.give_back(taken.share, taken.bytes - dirtied);
        }
    }

    pub(crate) fn dirtied(&self, bytes: u64) {
        self.dirty.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn cleaned(&self, share: Share, bytes: u64) {
        self.dirty.fetch_sub(bytes, Ordering::Relaxed);
        self.give_back(share, bytes);
    }

    /// Becomes dirty in a file that is parked: what its writer took is not needed.
    pub(crate) fn dirtied_parked(&self, share: Share, bytes: u64) {
        self.parked.fetch_add(bytes, Ordering::Relaxed);
        self.give_back(share, bytes);
    }

    /// Nothing goes back: that was done when it was parked.
    pub(crate) fn cleaned_parked(&self, bytes: u64) {
        self.parked.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Dirty bytes of a file are parked from now on.
    pub(crate) fn park(&self, share: Share, bytes: u64) {
        self.parked.fetch_add(bytes, Ordering::Relaxed);
        self.cleaned(share, bytes);
    }

    /// They are not any more, and still dirty.
    pub(crate) fn unpark(&self, share: Share, bytes: u64) {
        self.parked.fetch_sub(bytes, Ordering::Relaxed);
        self.dirtied(bytes);
        self.state.lock().take(share, bytes);
    }

    fn give_back(&self, share: Share, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let mut state = self.state.lock();
        state.give_back(share, bytes);
        let waited_for = state.waiting > 0;
        drop(state);
        if waited_for {
            self.serve();
        }
    }

    /// Gives whoever waits what there is.
    fn serve(&self) {
        // Who is told is told outside the lock.
        loop {
            let next = self.state.lock().next();
            let Some((share, waiter, bytes)) = next else { return };
            if waiter.granted.send(bytes).is_err() {
                // It went away just now.
                self.state.lock().give_back(share, bytes);
            }
        }
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Negative for a moment only.
fn count(bytes: i64) -> u64 {
    u64::try_from(bytes).unwrap_or(0)
}

/// Additions and subtractions may overtake each other: then a sum is below zero for an instant.
fn load(bytes: &AtomicU64) -> u64 {
    count(bytes.load(Ordering::Relaxed).cast_signed())
}

#[cfg(all(test, shuttle))]
#[path = "room_interleavings.rs"]
mod interleavings;
#[cfg(all(test, not(shuttle)))]
#[path = "room_tests.rs"]
mod tests;
