//! A fill's share of the queue, and what is counted at its end.

use super::Shared;
use crate::sync::Arc;

/// What became of a queued fill.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// It is not in the cache: no object, a refusal, or a driver that stopped.
    Lost,
    /// What it is true of had gone.
    Stale,
    /// It is in the cache.
    Stored,
}

/// Held by a fill from the moment it is queued; gives its bytes back however it ends, and counts them
/// once: those that a shutdown [gave up](Shared::give_up) have been counted there.
pub(super) struct Ticket {
    shared: Arc<Shared>,
    round: u64,
    bytes: u64,
    end: End,
}

impl Ticket {
    /// The caller has added `bytes` to the queue's, and one to the pending of `round`.
    pub(super) fn new(shared: Arc<Shared>, round: u64, bytes: u64) -> Ticket {
        Ticket { shared, round, bytes, end: End::Lost }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Lost, unless this says otherwise.
    pub(super) fn set_end(&mut self, end: End) {
        self.end = end;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let counters = self.shared.fscache.counters();
        let mut state = self.shared.state.lock();
        state.bytes -= self.bytes;
        if let Some(n) = state.pending.get_mut(&self.round) {
            *n -= 1;
            if *n == 0 {
                state.pending.remove(&self.round);
            }
        }
        // Under the lock: a shutdown counts either what is here or what has been counted, not both.
        if !state.given_up {
            match self.end {
                End::Lost => counters.fill_dropped_bytes.add(self.bytes),
                End::Stale => counters.fill_stale_bytes.add(self.bytes),
                End::Stored => {}
            }
        }
        drop(state);
        self.shared.ended.notify_waiters();
    }
}

impl Shared {
    /// Counts what has not ended as dropped; returns how many bytes that is.
    pub(super) fn give_up(&self) -> u64 {
        let mut state = self.state.lock();
        state.given_up = true;
        self.fscache.counters().fill_dropped_bytes.add(state.bytes);
        state.bytes
    }
}
