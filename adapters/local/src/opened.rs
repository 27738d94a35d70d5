//! Files that somebody has open: they are read, written and asked about as long as they are, with or without a name.

use std::{
    collections::HashMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use rustix::fs::{AtFlags, StatxFlags};

use crate::handles::Handles;

/// A descriptor that an open keeps, so that the file can be used after its last name is gone.
///
/// It is never one for writing: with those around the kernel cannot tell us of other writers. Each write
/// opens one from it, so the mode bits must let this process do that then.
pub(crate) struct OpenFile {
    pub(crate) fd: Arc<OwnedFd>,
    key: Arc<[u8]>,
    /// Open for reading; else `O_PATH`.
    reads: bool,
    writes: bool,
    handles: Arc<Handles>,
    /// Given back with the descriptor.
    _seat: Seat,
}

impl OpenFile {
    pub(crate) fn new(
        handles: &Arc<Handles>,
        fd: OwnedFd,
        key: Arc<[u8]>,
        (reads, writes): (bool, bool),
        seat: Seat,
    ) -> OpenFile {
        let fd = Arc::new(fd);
        handles.opened.add(&key, &fd);
        OpenFile { fd, key, reads, writes, handles: Arc::clone(handles), _seat: seat }
    }

    /// Whether its descriptor can be read from.
    pub(crate) fn reads(&self) -> bool {
        self.reads
    }

    /// Whether it was opened for writing the file `key`.
    pub(crate) fn writes(&self, key: &[u8]) -> bool {
        self.writes && *self.key == *key
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if self.handles.opened.remove(&self.key) {
            // Nobody can come back to it, whoever took its name: what is kept of it keeps only its blocks.
            self.handles.forget(&self.key);
        }
    }
}

/// Which files are open, by key, with a descriptor of each. Calls on a file may come on behalf of others than who
/// opened it (the core shares its checks), so none of them must need the open's own.
#[derive(Default)]
pub(crate) struct Opened {
    files: Mutex<HashMap<Arc<[u8]>, Entry>>,
}

struct Entry {
    /// The first open's: it stays until the last one is closed.
    fd: Arc<OwnedFd>,
    opens: usize,
}

impl Opened {
    fn add(&self, key: &Arc<[u8]>, fd: &Arc<OwnedFd>) {
        let mut files = self.files.lock();
        let new = || Entry { fd: Arc::clone(fd), opens: 0 };
        files.entry(Arc::clone(key)).or_insert_with(new).opens += 1;
    }

    /// True if that was the last open of a file without a name.
    fn remove(&self, key: &Arc<[u8]>) -> bool {
        let mut files = self.files.lock();
        let Some(entry) = files.get_mut(key) else { return false };
        entry.opens -= 1;
        if entry.opens > 0 {
            return false;
        }
        let last = files.remove(key);
        drop(files);
        // Closed outside the lock: on a network mount a close may wait.
        last.is_some_and(|entry| nameless(entry.fd.as_fd()))
    }

    /// A descriptor of the file, for whatever `O_PATH` is good for.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Arc<OwnedFd>> {
        self.files.lock().get(key).map(|entry| Arc::clone(&entry.fd))
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.files.lock().contains_key(key)
    }
}

/// Whether the file's last name is gone, by what is known here: no server is asked, for nobody waits for it. Where it
/// cannot be known, nothing need be kept.
fn nameless(fd: BorrowedFd<'_>) -> bool {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    rustix::fs::statx(fd, c"", flags, StatxFlags::NLINK).map_or(true, |stx| stx.stx_nlink == 0)
}

/// The right to one descriptor of the opens' share.
pub(crate) struct Seat(Arc<AtomicUsize>);

impl Seat {
    /// One of `max`; `None` if all are taken.
    pub(crate) fn take(taken: &Arc<AtomicUsize>, max: usize) -> Option<Seat> {
        taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < max).then_some(n + 1))
            .is_ok()
            .then(|| Seat(Arc::clone(taken)))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
