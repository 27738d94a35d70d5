//! Who may have how much of what may be dirty, and who is next: the decisions, without locks and wakers.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use crate::folio::PAGE_SIZE;

/// How many times what is free a volume may have.
const TIMES: i64 = 8;

/// Larger limits are this one: sums and multiples of it do not overflow.
const LIMIT_MAX: u64 = 1 << 56;

/// How much more a volume that has `own` may have where `free` is free: so much that it has at most [`TIMES`]
/// what it leaves, or `least`. Below zero if it has more already.
pub(super) fn part(free: i64, own: i64, least: i64) -> i64 {
    let (free, own) = (free.max(0), own.max(0));
    ((TIMES * free - own) / (TIMES + 1)).max(least - own)
}

/// A volume's place among the [`Shares`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place(usize);

/// The allowance of one context, by volume.
#[derive(Default)]
pub(super) struct Shares {
    limit: i64,
    /// Of all volumes.
    used: i64,
    volumes: Vec<Volume>,
    vacant: Vec<Place>,
    /// One for each that ever waited.
    tickets: u64,
    /// Where somebody waits.
    lines: Vec<Place>,
    closed: bool,
}

#[derive(Default)]
struct Volume {
    /// Below zero for a moment: what a writer has dirtied without having asked for it may be clean before it
    /// says so.
    used: i64,
    queue: VecDeque<Waiter>,
}

struct Waiter {
    ticket: u64,
    wanted: u64,
    tell: oneshot::Sender<u64>,
}

/// Bytes that somebody has waited for; they are taken.
pub(super) struct Grant {
    pub(super) place: Place,
    pub(super) bytes: u64,
    pub(super) tell: oneshot::Sender<u64>,
}

impl Shares {
    pub(super) fn new(limit: u64) -> Shares {
        let mut shares = Shares::default();
        shares.set_limit(limit);
        shares
    }

    pub(super) fn set_limit(&mut self, limit: u64) {
        self.limit = signed(limit);
    }

    pub(super) fn begin(&mut self) -> Place {
        self.vacant.pop().unwrap_or_else(|| {
            self.volumes.push(Volume::default());
            Place(self.volumes.len() - 1)
        })
    }

    /// Nobody of the volume is left. What it still has, if anything, is everybody's again.
    pub(super) fn end(&mut self, place: Place) {
        let left = std::mem::take(&mut self.volumes[place.0]);
        self.used -= left.used;
        self.lines.retain(|line| *line != place);
        self.vacant.push(place);
    }

    /// How much of `wanted` the volume may have now; 0 if it is to wait: never for more than half of the most
    /// it could have if all of its own were clean, so this ends once that has become clean.
    fn grantable(&self, own: i64, wanted: u64) -> u64 {
        let (own, free) = (own.max(0), (self.limit - self.used).max(0));
        let page = PAGE_SIZE as i64;
        let (now, most) = (part(free, own, page), part(free + own, 0, page));
        let wanted = signed(wanted.max(1));
        if now >= wanted.min(most / 2) { now.min(wanted).unsigned_abs() } else { 0 }
    }

    /// Takes up to `wanted` bytes, if the volume may have them now and nobody of it waits.
    pub(super) fn try_take(&mut self, place: Place, wanted: u64) -> Option<u64> {
        let volume = &self.volumes[place.0];
        if self.closed || !volume.queue.is_empty() {
            return None;
        }
        let bytes = Some(self.grantable(volume.used, wanted)).filter(|bytes| *bytes > 0)?;
        self.take(place, bytes);
        Some(bytes)
    }

    pub(super) fn take(&mut self, place: Place, bytes: u64) {
        self.used += signed(bytes);
        self.volumes[place.0].used += signed(bytes);
    }

    /// Returns whether somebody waits who might get them.
    pub(super) fn give_back(&mut self, place: Place, bytes: u64) -> bool {
        self.used -= signed(bytes);
        self.volumes[place.0].used -= signed(bytes);
        !self.lines.is_empty()
    }

    /// The end of the volume's queue. `tell` is dropped where nobody will be told any more.
    pub(super) fn queue(
        &mut self,
        place: Place,
        wanted: u64,
        tell: oneshot::Sender<u64>,
    ) -> Option<u64> {
        if self.closed {
            return None;
        }
        self.tickets += 1;
        let (ticket, queue) = (self.tickets, &mut self.volumes[place.0].queue);
        if queue.is_empty() {
            self.lines.push(place);
        }
        queue.push_back(Waiter { ticket, wanted, tell });
        Some(ticket)
    }

    /// Who waits no longer. Nobody, if it has had its turn.
    pub(super) fn leave(&mut self, place: Place, ticket: u64) -> Option<oneshot::Sender<u64>> {
        let queue = &self.volumes[place.0].queue;
        let at = queue.iter().position(|waiter| waiter.ticket == ticket)?;
        self.out_of(place, at).map(|waiter| waiter.tell)
    }

    fn out_of(&mut self, place: Place, at: usize) -> Option<Waiter> {
        let queue = &mut self.volumes[place.0].queue;
        let waiter = queue.remove(at);
        if queue.is_empty() {
            self.lines.retain(|line| *line != place);
        }
        waiter
    }

    /// The next one that gets something: of those that are first at their volumes and can have it, the one
    /// that has waited longest.
    pub(super) fn next(&mut self) -> Option<Grant> {
        let first = |place: &Place| {
            let volume = &self.volumes[place.0];
            let waiter = volume.queue.front()?;
            let bytes = self.grantable(volume.used, waiter.wanted);
            (bytes > 0).then_some((waiter.ticket, *place, bytes))
        };
        let firsts = self.lines.iter().filter_map(first);
        let (_, place, bytes) = firsts.min_by_key(|(ticket, ..)| *ticket)?;
        let waiter = self.out_of(place, 0)?;
        self.take(place, bytes);
        Some(Grant { place, bytes, tell: waiter.tell })
    }

    /// Nobody gets anything any more. Returns those that waited, to be dropped without a lock.
    pub(super) fn close(&mut self) -> Vec<oneshot::Sender<u64>> {
        self.closed = true;
        self.lines.clear();
        let queues = self.volumes.iter_mut().flat_map(|volume| volume.queue.drain(..));
        queues.map(|waiter| waiter.tell).collect()
    }

    /// Whether nobody has taken anything, or waits.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let idle = |volume: &Volume| volume.used == 0 && volume.queue.is_empty();
        self.used == 0 && self.lines.is_empty() && self.volumes.iter().all(idle)
    }
}

pub(super) fn signed(bytes: u64) -> i64 {
    bytes.min(LIMIT_MAX).cast_signed()
}
