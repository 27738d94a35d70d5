//! What is known of a volume as a whole: its event sequence, its events, its promise.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::{
    Epoch, StaleReason, Validity,
    promise::{Held, deadline, lasts},
};
use crate::{
    clock::BootTime,
    coherency::BreakReason,
    remote::{Promise, VolumeFacts},
};

/// How many breaks are told apart by key. More slots mean fewer promises not installed because of
/// another file's break; wrong answers cannot come of it.
const KEY_SLOTS: usize = 256;

/// The slot in which breaks of one key are remembered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct KeySlot(usize);

impl KeySlot {
    /// The slot of a key.
    pub(crate) fn of(key: &[u8]) -> KeySlot {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        KeySlot(usize::try_from(hasher.finish() % KEY_SLOTS as u64).unwrap_or(0))
    }
}

/// The volume half of the model (A1.03 to A1.07). Each `*_at` is the number of the last such event,
/// 0 = never.
#[derive(Debug)]
pub(crate) struct VolumeCoherency {
    seq: u64,
    /// Last volume break that a renewed volume promise settles for the files it covers.
    broken_at: u64,
    /// Last event after which each file has to be checked for itself.
    reset_at: u64,
    /// Last move to a newer snapshot.
    pub(in crate::coherency) snapshot_at: u64,
    /// Last scrub.
    pub(in crate::coherency) scrub_at: u64,
    /// Epoch of the newest reply that checked the volume (A1.04).
    checked_at: u64,
    /// The volume's own promise.
    promise: Option<Held>,
    /// Last break per key slot, whether the key was known or not. A promise in flight for a file
    /// that is not in the table yet (or again) is caught by it.
    key_breaks: Box<[u64; KEY_SLOTS]>,
}

impl VolumeCoherency {
    /// A volume about which nothing is known.
    pub(crate) fn new() -> VolumeCoherency {
        VolumeCoherency {
            seq: 0,
            broken_at: 0,
            reset_at: 0,
            snapshot_at: 0,
            scrub_at: 0,
            checked_at: 0,
            promise: None,
            key_breaks: Box::new([0; KEY_SLOTS]),
        }
    }

    /// The epoch of a request that is about to be issued.
    pub(crate) fn sample(&mut self, now: BootTime) -> Epoch {
        Epoch { seq: self.bump(), issued_at: now }
    }

    /// The next number of the sequence, for an event or a version change.
    pub(crate) fn bump(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    /// A break of one key, known or not (A1.19: counted even if no promise is held). Returns its
    /// number, for [`InodeCoherency::on_break`](super::InodeCoherency::on_break).
    pub(crate) fn on_key_break(&mut self, slot: KeySlot) -> u64 {
        let at = self.bump();
        self.key_breaks[slot.0] = at;
        at
    }

    /// A volume-wide break. A server that still knows what it promised lets one check settle it for
    /// all files under a volume promise; one that forgot, or events that were missed, do not (P-D14).
    pub(crate) fn on_break_all(&mut self, reason: BreakReason) -> u64 {
        let at = self.bump();
        self.promise = None;
        match reason {
            BreakReason::Callback | BreakReason::Notify | BreakReason::Recall => {
                self.broken_at = at;
            }
            BreakReason::ServerReset | BreakReason::Disconnected => self.reset_at = at,
        }
        at
    }

    /// The contents became untrustworthy (A1.05).
    pub(crate) fn on_scrub(&mut self) -> u64 {
        self.scrub_at = self.bump();
        self.scrub_at
    }

    /// The volume moved to a newer snapshot (A1.06).
    pub(crate) fn on_snapshot_moved(&mut self) -> u64 {
        self.snapshot_at = self.bump();
        self.snapshot_at
    }

    /// Applies what a reply said about the volume.
    pub(crate) fn apply(&mut self, facts: &VolumeFacts, epoch: &Epoch) {
        if facts.checked {
            // Only forward, and never past an event the reply cannot know of (P-D11, P-D12).
            self.checked_at = self.checked_at.max(epoch.seq);
        }
        let unsettled = self.broken_at.max(self.reset_at) > self.checked_at;
        let event_since = self.own_barrier() > epoch.seq;
        let newer_stands = self.promise.is_some_and(|held| held.seq > epoch.seq);
        if unsettled || event_since || newer_stands {
            return;
        }
        // A whole volume has no "found unchanged": an adaptive promise stays at its minimum.
        if let Some(deadline) = deadline(&facts.promise, epoch.issued_at, &mut None) {
            self.promise =
                Some(Held { seq: epoch.seq, deadline, covered: false, alone_since: None });
        }
    }

    /// Whether a file's promise holds at `now`, as far as the volume and the clock are concerned.
    pub(crate) fn check(&self, held: &Held, now: BootTime) -> Validity {
        let stale = |reason| Validity::Stale(reason);
        if held.seq < self.scrub_at {
            return stale(StaleReason::Scrubbed);
        }
        if held.seq < self.snapshot_at {
            return stale(StaleReason::SnapshotMoved);
        }
        if held.seq < self.reset_at || (!held.covered && held.seq < self.broken_at) {
            return stale(StaleReason::VolumeBroken);
        }
        if held.covered && !lasts(self.deadline(), now) {
            return stale(StaleReason::VolumeLapsed);
        }
        if lasts(held.deadline, now) { Validity::Valid } else { stale(StaleReason::Expired) }
    }

    /// A file's promise must be younger than this if the volume's promise does not cover it.
    pub(crate) fn own_barrier(&self) -> u64 {
        self.covered_barrier().max(self.broken_at)
    }

    /// A file's promise must be younger than this even if the volume's promise covers it.
    pub(crate) fn covered_barrier(&self) -> u64 {
        self.reset_at.max(self.snapshot_at).max(self.scrub_at)
    }

    /// When the volume's promise is over; [`BootTime::ZERO`] if there is none.
    pub(crate) fn deadline(&self) -> BootTime {
        self.promise.map_or(BootTime::ZERO, |held| held.deadline)
    }

    /// Whether a reply covers its file by a promise for the whole volume.
    pub(super) fn covers(facts: Option<&VolumeFacts>) -> bool {
        facts.is_some_and(|v| v.promise != Promise::None)
    }

    /// The last break of any key of this slot.
    pub(super) fn key_broken_at(&self, slot: KeySlot) -> u64 {
        self.key_breaks[slot.0]
    }

    /// Numbers for tests: (last volume break or reset, last check).
    #[cfg(test)]
    pub(super) fn break_and_check(&self) -> (u64, u64) {
        (self.broken_at.max(self.reset_at), self.checked_at)
    }
}
