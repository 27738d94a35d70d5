//! Validity of cached data: one pure model for TTLs, etags, change attributes, delegations and
//! callbacks.

use bytes::Bytes;

/// The handle through which an adapter reports server events for its volume.
///
/// Every method bumps counters and queues work: none blocks, does an RPC, or takes a lock that is
/// held across an await, so all may be called from a packet handler. An adapter answers its server
/// right after the call and never waits for the [`Ticket`] first.
#[derive(Clone)]
pub struct VolumeEvents {}

/// Why the server took a promise back (for statistics and logs).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum BreakReason {
    /// A callback or lease break from the server.
    Callback,
    /// The server lost or reset its callback state.
    ServerReset,
    /// The adapter saw a change by other means (inotify, polling).
    Notify,
    /// The connection was lost, so events may have been missed.
    Disconnected,
}

/// Resolves when every front has dropped what it had mapped of the broken files.
pub struct Ticket {}

impl VolumeEvents {
    /// The server may have changed the file `key`. Always counted, even if the file is unknown.
    pub fn server_break(&self, key: &[u8], reason: BreakReason) -> Ticket {
        let _ = (key, reason);
        Ticket {}
    }

    /// The server may have changed anything in the volume.
    pub fn server_break_all(&self, reason: BreakReason) -> Ticket {
        let _ = reason;
        Ticket {}
    }

    /// The volume's contents are untrustworthy (restored from a backup, regressed): everything
    /// cached is dropped at the next access.
    pub fn scrub(&self, reason: BreakReason) {
        let _ = reason;
    }

    /// A read-only volume moved to a newer snapshot: every file is checked at its next access.
    pub fn snapshot_moved(&self) {}

    /// The file `key` was deleted on the server: further accesses fail with `ESTALE`.
    pub fn deleted(&self, key: &[u8]) {
        let _ = key;
    }

    /// For tests of an adapter: events go nowhere.
    #[must_use]
    pub fn detached() -> VolumeEvents {
        let _ = Bytes::new();
        VolumeEvents {}
    }
}
