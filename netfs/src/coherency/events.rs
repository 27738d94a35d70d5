//! What adapters report: the server's events.

use std::fmt;

use super::{
    cell::{InodeCell, VolumeCell},
    recall::{LocalState, RecallTicket},
    zap::Ticket,
};
use crate::{clock::SystemClock, remote::PromiseKind, stats::Counters, sync::Arc};

/// Why the server took a promise back (for statistics and logs).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum BreakReason {
    /// A callback or lease break from the server.
    Callback,
    /// The server wants a delegation back.
    Recall,
    /// The server lost or reset its callback state.
    ServerReset,
    /// The adapter saw a change by other means (inotify, polling).
    Notify,
    /// The connection was lost, so events may have been missed.
    Disconnected,
}

/// The core's inode table, as far as events need it.
///
/// An implementation MUST insert a new inode into the table *before* it applies the facts it was
/// found with. A break records its key first and searches the table afterwards; so either the search
/// finds the inode, or the inode's `apply` finds the record.
pub(crate) trait InodeTable: Send + Sync + 'static {
    /// The inode with this key, if it is in the table.
    fn find(&self, key: &[u8]) -> Option<Arc<InodeCell>>;

    /// Begins to give back the promise of this inode, whose fronts have been asked to `zap`; `None` if it is
    /// not in the table. Never waits.
    fn recall(&self, key: &[u8], zap: Ticket) -> Option<RecallTicket> {
        let _ = (key, zap);
        None
    }

    /// Does `work` soon, on a thread of the context's: not within the caller's locks.
    fn later(&self, work: Box<dyn FnOnce() + Send>) {
        work();
    }

    /// What is known here of this inode.
    fn local_state(&self, key: &[u8]) -> Option<LocalState> {
        let _ = key;
        None
    }
}

/// The handle through which an adapter reports server events for its volume.
///
/// Every method bumps counters and queues work: none blocks, does an RPC, or takes a lock that is
/// held across an await, so all may be called from a packet handler. An adapter answers its server
/// right after the call and never waits for the [`Ticket`] first (A1.23, P-D27): the server may be
/// holding back our own write until that answer.
///
/// ```
/// use netfs::coherency::{BreakReason, VolumeEvents};
/// let events = VolumeEvents::detached();
/// let ticket = events.server_break(b"file-1", BreakReason::Callback);
/// assert!(ticket.is_done()); // nothing is mapped
/// ```
#[derive(Clone)]
pub struct VolumeEvents {
    volume: Arc<VolumeCell>,
}

impl VolumeEvents {
    pub(crate) fn new(volume: Arc<VolumeCell>) -> VolumeEvents {
        VolumeEvents { volume }
    }

    /// The server may have changed the file `key`. For a name that appeared, vanished or moved, break
    /// the *directory's* key: names, found and not found, are cached under their directory.
    ///
    /// Always counted, even if the file is unknown: a
    /// lookup of it may be in flight. Cached data stays; the next access asks the server.
    pub fn server_break(&self, key: &[u8], reason: BreakReason) -> Ticket {
        tracing::debug!(volume = %self.volume.name(), ?reason, "break of one file");
        self.volume.on_break(key)
    }

    /// The server may have changed anything in the volume.
    ///
    /// After [`ServerReset`](BreakReason::ServerReset) and
    /// [`Disconnected`](BreakReason::Disconnected) every file is checked for itself; after the
    /// others, files under a volume promise are settled together by one reply that renews it (A1.36).
    pub fn server_break_all(&self, reason: BreakReason) -> Ticket {
        tracing::debug!(volume = %self.volume.name(), ?reason, "break of the whole volume");
        self.volume.on_break_all(reason)
    }

    /// The server wants the promise for `key` back. Writes become write-through, what fronts have mapped is
    /// taken away, what was written is uploaded, and then
    /// [`release_promise`](crate::remote::RemoteFile::release_promise) is called through the last opener of the
    /// file of each mount of the volume. What cannot be uploaded within [`Builder::recall_timeout`](crate::Builder::recall_timeout) is
    /// kept, and the promise given back without it. Recalls of one file share their work.
    ///
    /// For a file that nobody knows there is nothing to give back.
    pub fn server_recall(&self, key: &[u8], kind: PromiseKind) -> RecallTicket {
        tracing::debug!(volume = %self.volume.name(), ?kind, "recall of one file");
        self.volume.on_recall(key)
    }

    /// What this client has of the file `key` that the server may not have; `None` if it knows nothing of
    /// it. Answered from memory, at once.
    #[must_use]
    pub fn local_state(&self, key: &[u8]) -> Option<LocalState> {
        self.volume.local_state(key)
    }

    /// The volume's contents are untrustworthy (restored from a backup, regressed): everything
    /// cached is dropped at the next access.
    pub fn scrub(&self, reason: BreakReason) {
        tracing::warn!(volume = %self.volume.name(), ?reason, "volume scrubbed");
        // Nobody waits: what is unmapped is fetched anew whenever that is done.
        drop(self.volume.on_scrub());
    }

    /// A read-only volume moved to a newer snapshot: every file is checked at its next access.
    pub fn snapshot_moved(&self) {
        tracing::debug!(volume = %self.volume.name(), "volume moved to another snapshot");
        drop(self.volume.on_snapshot_moved());
    }

    /// The file `key` was deleted on the server: further accesses through what is open fail with
    /// `ESTALE`. Break the directory's key too. A file found under the key again later is another file.
    pub fn deleted(&self, key: &[u8]) {
        tracing::debug!(volume = %self.volume.name(), "file deleted on the server");
        drop(self.volume.on_deleted(key));
    }

    /// For tests of an adapter: events go nowhere.
    #[must_use]
    pub fn detached() -> VolumeEvents {
        let counters = Arc::new(Counters::default());
        VolumeEvents::new(VolumeCell::new("detached", Arc::new(SystemClock), counters))
    }
}

impl fmt::Debug for VolumeEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VolumeEvents({})", self.volume.name())
    }
}
