//! The origin in a test's hands: looking, changing, misbehaving, counting.

use std::{fmt, sync::Arc};

use netfs::{
    Errno, Error, Result,
    coherency::{BreakReason, LocalState, RecallTicket, Ticket},
    remote::{FileKind, PromiseKind},
};
use parking_lot::Mutex;

use crate::{
    builder::Builder,
    change::Change,
    content::{Content, Mismatch},
    fault::{Fault, FaultPlan, Injected},
    file::MemoryFile,
    ledger::{Call, Counts, Event, Opens},
    origin::{Client, EventSlot, Origin, key_bytes},
    settings::{FileSettings, Settings},
    tree::{Node, Snapshot, display},
};

/// An in-process origin, as one client sees it, with everything a test needs to drive it.
///
/// It is a connection to the server behind it: [`client`](MemoryFs::client) makes another one to the same
/// files, with events of its own. Everything else is shared between the clients.
///
/// See the [crate](crate) for an overview and an example.
pub struct MemoryFs {
    pub(crate) origin: Arc<Origin>,
    pub(crate) events: Arc<EventSlot>,
}

impl MemoryFs {
    /// Starts an empty origin.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) fn connect(origin: Arc<Origin>) -> Arc<MemoryFs> {
        let events = Arc::new(Mutex::new(None));
        origin.add_client(&events);
        Arc::new(MemoryFs { origin, events })
    }

    /// This client, as its calls name it.
    pub(crate) fn as_client(&self) -> Client {
        Arc::downgrade(&self.events)
    }

    /// Another client of the same server.
    #[must_use]
    pub fn client(&self) -> Arc<MemoryFs> {
        MemoryFs::connect(Arc::clone(&self.origin))
    }
}

impl fmt::Debug for MemoryFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryFs({})", self.origin.volume_id.as_str())
    }
}

/// Looking at the files as the server sees them; none of this counts as a call.
impl MemoryFs {
    /// The file at `path`, to call [`RemoteFile`](netfs::remote::RemoteFile) methods on.
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn file(&self, path: impl AsRef<[u8]>) -> Result<Arc<MemoryFile>> {
        self.node(path.as_ref(), |node| MemoryFile::new(&self.origin, self.as_client(), node))
    }

    /// The current version of a file, with its content.
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn snapshot(&self, path: impl AsRef<[u8]>) -> Result<Arc<Snapshot>> {
        self.node(path.as_ref(), |node| Arc::clone(&node.now))
    }

    /// A version that a file had at some time; `None` if it is more than 64 changes old.
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn snapshot_of(
        &self,
        path: impl AsRef<[u8]>,
        version: u64,
    ) -> Result<Option<Arc<Snapshot>>> {
        self.node(path.as_ref(), |node| node.version(version).map(Arc::clone))
    }

    /// What a restart of the server would leave of a file: what is on its stable storage.
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn durable(&self, path: impl AsRef<[u8]>) -> Result<Content> {
        self.node(path.as_ref(), Node::durable)
    }

    /// The content a file should have in a range; zeros past its end.
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn expected(&self, path: impl AsRef<[u8]>, offset: u64, len: usize) -> Result<Vec<u8>> {
        Ok(self.snapshot(path)?.content.read(offset, len))
    }

    /// Checks bytes read at `offset` against the file's current version; zeros are expected past its
    /// end.
    ///
    /// # Errors
    /// The first wrong byte, as `EIO` with a sentence; `ENOENT`.
    pub fn verify(&self, path: impl AsRef<[u8]>, offset: u64, bytes: &[u8]) -> Result<()> {
        let snapshot = self.snapshot(path.as_ref())?;
        let report = |wrong: Mismatch| {
            let path = display(path.as_ref());
            let sentence = format!("{path:?}, version {}: {wrong}", snapshot.version);
            Error::new(Errno::EIO, sentence)
        };
        snapshot.content.verify(offset, bytes).map_err(report)
    }

    /// A file's size.
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn size(&self, path: impl AsRef<[u8]>) -> Result<u64> {
        self.node(path.as_ref(), |node| node.now.content.size())
    }

    /// A file's key.
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn key(&self, path: impl AsRef<[u8]>) -> Result<Vec<u8>> {
        self.node(path.as_ref(), |node| node.key.to_vec())
    }

    /// What kind of file `path` is.
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn kind(&self, path: impl AsRef<[u8]>) -> Result<FileKind> {
        self.node(path.as_ref(), |node| node.kind)
    }

    /// The paths of all regular files, sorted: of a file with several names the first one it had.
    #[must_use]
    pub fn files(&self) -> Vec<Vec<u8>> {
        let files = self.origin.state.lock().tree.files();
        files.iter().map(|path| path.to_vec()).collect()
    }

    fn node<T>(&self, path: &[u8], look: impl FnOnce(&Node) -> T) -> Result<T> {
        let state = self.origin.state.lock();
        state.tree.at(path).map(look)
    }
}

/// Changing the files and telling about it.
impl MemoryFs {
    /// Begins a change of `path` by a third party; the returned value's method does it.
    pub fn change(&self, path: impl AsRef<[u8]>) -> Change<'_> {
        Change::new(self, path.as_ref())
    }

    /// Tells every client that a file may have changed, whether or not it did.
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn send_break(&self, path: impl AsRef<[u8]>) -> Result<Vec<Ticket>> {
        let key = self.node(path.as_ref(), |node| key_bytes(&node.key))?;
        Ok(self.origin.send(&Event::Break { key }, BreakReason::Callback))
    }

    /// Wants whatever promise of a file each client has back.
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn recall(&self, path: impl AsRef<[u8]>, kind: PromiseKind) -> Result<Vec<RecallTicket>> {
        let key = self.node(path.as_ref(), |node| key_bytes(&node.key))?;
        Ok(self.recall_key(&key, kind))
    }

    /// The same for the file with this key: any bytes.
    pub fn recall_key(&self, key: &[u8], kind: PromiseKind) -> Vec<RecallTicket> {
        let handles = self.origin.handles(None);
        handles.iter().map(|client| client.server_recall(key, kind)).collect()
    }

    /// What each client says that it has of a file and the server may not have.
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn local_states(&self, path: impl AsRef<[u8]>) -> Result<Vec<LocalState>> {
        let key = self.node(path.as_ref(), |node| key_bytes(&node.key))?;
        let handles = self.origin.handles(None);
        Ok(handles.iter().filter_map(|client| client.local_state(&key)).collect())
    }

    /// Tells every client that the file with this key may have changed: any bytes, so that a break of a
    /// file nobody knows can be sent.
    pub fn send_break_key(&self, key: &[u8], reason: BreakReason) -> Vec<Ticket> {
        self.origin.send(&Event::Break { key: bytes::Bytes::copy_from_slice(key) }, reason)
    }

    /// Tells every client that the file with this key was deleted (after a silent removal, say).
    pub fn send_deleted(&self, key: &[u8]) {
        let event = Event::Deleted { key: bytes::Bytes::copy_from_slice(key) };
        self.origin.send(&event, BreakReason::Callback);
    }

    /// Tells every client that anything in the volume may have changed.
    pub fn break_all(&self, reason: BreakReason) -> Vec<Ticket> {
        self.origin.send(&Event::BreakAll, reason)
    }

    /// Tells every client that the volume's contents are untrustworthy.
    pub fn scrub(&self, reason: BreakReason) {
        self.origin.send(&Event::Scrub, reason);
    }

    /// From now on changes go to the next snapshot of the volume, which nobody sees before
    /// [`publish`](MemoryFs::publish): a read-only volume that is released.
    pub fn stage(&self) {
        let mut state = self.origin.state.lock();
        if state.staged.is_none() {
            state.staged = Some(state.tree.clone());
        }
    }

    /// Switches to the staged snapshot at once and, if `tell`, tells every client. Without a staged
    /// snapshot it only tells.
    pub fn publish(&self, tell: bool) {
        {
            let mut state = self.origin.state.lock();
            if let Some(tree) = state.staged.take() {
                let before = std::mem::replace(&mut state.tree, tree);
                state.tree.succeed(before);
            }
        }
        if tell {
            self.origin.send(&Event::SnapshotMoved, BreakReason::Callback);
        }
    }
}

/// Restarting.
impl MemoryFs {
    /// Restarts the server: the bytes of [unstable](Settings::unstable) writes that were not committed are
    /// lost, as a new version of each file that had some; commits answer with another verifier from now
    /// on; every promise is gone, which every client is told ([`BreakReason::ServerReset`]). Calls already
    /// under way are answered as decided before.
    pub fn restart_server(&self) -> Vec<Ticket> {
        {
            let mut state = self.origin.state.lock();
            state.starts += 1;
            state.tree.restart();
        }
        self.origin.send(&Event::BreakAll, BreakReason::ServerReset)
    }

    /// Whether any file has bytes that a restart would lose.
    #[must_use]
    pub fn has_uncommitted(&self) -> bool {
        self.origin.state.lock().tree.has_uncommitted()
    }
}

/// Settings and faults.
impl MemoryFs {
    /// Changes the settings; calls already under way keep what they saw.
    pub fn configure(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.origin.state.lock().settings);
    }

    /// A copy of the settings.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.origin.state.lock().settings.clone()
    }

    /// Changes the settings of one file.
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn configure_file(
        &self,
        path: impl AsRef<[u8]>,
        change: impl FnOnce(&mut FileSettings),
    ) -> Result<()> {
        let mut state = self.origin.state.lock();
        let id = state.tree.at(path.as_ref())?.id;
        change(&mut state.tree.node_mut(id)?.settings);
        Ok(())
    }

    /// Adds a fault after those in force.
    pub fn inject(&self, fault: Fault) -> Injected {
        self.origin.state.lock().faults.add(fault)
    }

    /// Removes one fault. Calls it holds stay held until its gate is released.
    pub fn remove_fault(&self, fault: &Injected) {
        self.origin.state.lock().faults.remove(fault.id);
    }

    /// Replaces all faults, releasing the gates of the old ones.
    pub fn set_faults(&self, plan: FaultPlan) {
        let old = std::mem::replace(&mut self.origin.state.lock().faults, plan);
        old.release();
    }

    /// Removes all faults and releases their gates.
    pub fn clear_faults(&self) {
        self.set_faults(FaultPlan::new());
    }
}

/// Counting.
impl MemoryFs {
    /// Calls and bytes since the origin was built.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.origin.state.lock().ledger.counts
    }

    /// Calls and bytes of one file (for lookups and readdir: of the directory).
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn file_counts(&self, path: impl AsRef<[u8]>) -> Result<Counts> {
        let state = self.origin.state.lock();
        let id = state.tree.at(path.as_ref())?.id;
        Ok(state.ledger.of_file(id))
    }

    /// Calls that have begun and not ended. Whoever has seen a call's result sees it gone from here.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.origin.state.lock().ledger.in_flight
    }

    /// Opens granted and given back.
    #[must_use]
    pub fn opens(&self) -> Opens {
        self.origin.state.lock().ledger.opens
    }

    /// The calls since the last time, oldest first (at most the last 65,536).
    #[must_use]
    pub fn take_calls(&self) -> Vec<Call> {
        self.origin.state.lock().ledger.take_calls()
    }

    /// The events sent since the last time, oldest first.
    #[must_use]
    pub fn take_events(&self) -> Vec<Event> {
        self.origin.state.lock().ledger.take_events()
    }

    /// What the core did against the adapter contract since the last time: reads and writes longer than any
    /// stated limit, empty ones, ones without asking limits; writes past the largest size, of bytes that
    /// another write in flight has too, on an open that is not for writing that file. A core's tests should
    /// find it empty.
    #[must_use]
    pub fn take_breaches(&self) -> Vec<String> {
        self.origin.state.lock().ledger.take_breaches()
    }

    /// Blocks the calling thread until `done` says so, asking it again after each call that begins or
    /// ends and each open that is given back. It gets the counts and the number of calls in flight; it
    /// runs under the origin's lock, so it must not use the origin itself.
    ///
    /// # Panics
    /// If nothing moves for a minute: the test would hang for ever.
    pub fn wait_until(&self, mut done: impl FnMut(&Counts, usize) -> bool) {
        let mut state = self.origin.state.lock();
        while !done(&state.ledger.counts, state.ledger.in_flight) {
            let late = self.origin.moved.wait_for(&mut state, crate::fault::WATCHDOG).timed_out();
            let (counts, in_flight) = (state.ledger.counts, state.ledger.in_flight);
            assert!(
                !late || done(&counts, in_flight),
                "nothing moved at the origin for a minute: {counts:?}, {in_flight} in flight"
            );
        }
    }

    /// Blocks the calling thread until no call is in flight. A read counts until just before its
    /// [`finish`](netfs::remote::ReadSub::finish), so the core may still be collecting the last ones.
    ///
    /// # Panics
    /// If nothing moves for a minute.
    pub fn wait_idle(&self) {
        self.wait_until(|_, in_flight| in_flight == 0);
    }
}
