//! Who waits for what, and since when (N-C78): so that "it hangs" has an answer.
//!
//! Only what cannot go on at once is listed, so a hit pays nothing. Not listed: calls about names and
//! attributes once they are sent, which are bounded by `remote_timeout`. A wait is entered when it begins and leaves with
//! its guard, however it ends. Cookies have a listing of their own
//! ([`Netfs::list_cookies`](crate::Netfs::list_cookies)): what state keeps a
//! [`CacheLookup`](WaitKind::CacheLookup) waiting.

use std::{collections::BTreeMap, ops::Range};

use bytes::Bytes;

use crate::{
    clock::BootTime,
    remote::VolumeId,
    sync::{Arc, Mutex},
};

/// What is being waited for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum WaitKind {
    /// A reader waits for pages that are being fetched, by its own request or another's.
    Folio,
    /// A read request waits for the server or the disk cache. Bounded by `remote_timeout` or
    /// `cache_read_timeout`.
    Request,
    /// A file is being checked with the server. Bounded by `remote_timeout`.
    Validate,
    /// A reader waits until a change of the file has been carried out: sizes, pages and cookie belong to
    /// different versions meanwhile. Nothing but local work is between.
    Change,
    /// A buffered reader waits until direct I/O on the file has ended, or the other way round. Bounded
    /// by the caller's deadline, else by what the others wait for; direct I/O gives up after some `remote_timeout`s.
    IoMode,
    /// A reader waits for the disk cache to open the file's object. Bounded by `cache_wait`.
    CacheLookup,
    /// A request that has downloaded these bytes waits for room in the queue that copies them to the
    /// disk cache. Bounded by [`FillWhenFull::Wait`](crate::FillWhenFull::Wait).
    FillRoom,
    /// A writer waits for room among the bytes that may be dirty
    /// ([`Builder::dirty_bytes`](crate::Builder::dirty_bytes)): until so much of its volume has been uploaded.
    /// Bounded by its deadline.
    DirtyRoom,
    /// A writer waits for memory: until what is dirty has become clean. Bounded by its deadline, and by
    /// `remote_timeout` from the last byte that became clean.
    Memory,
    /// A writer waits until another write to the file, or a change of its size, has ended. Bounded by its
    /// deadline, else by what the other one waits for.
    WriteLock,
    /// An upload, or a change that must not meet one, waits until the one under way has ended. Who asked for it
    /// waits until its deadline.
    Turn,
    /// Bytes are on their way to the server, which has not acknowledged them on stable storage. Not bounded: what
    /// was sent is never given up. Whoever waits for them waits until its deadline.
    Upload,
    /// An fsync, or a change that makes older records void, waits until the log of dirty bytes is durable. Bounded:
    /// five seconds.
    Log,
    /// Nobody waits any more: a server read that was given up, whose reply may still come and whose
    /// memory is kept for it.
    AbandonedRead,
    /// Nobody waits any more: a read of the disk cache that was given up. Until it returns, this file's
    /// readers do not ask the disk.
    HungCacheRead,
}

/// One line of [`Netfs::waits`](crate::Netfs::waits).
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct WaitInfo {
    /// What is being waited for.
    pub kind: WaitKind,
    /// The file's volume.
    pub volume: VolumeId,
    /// The file, by the adapter's key.
    pub key: Bytes,
    /// The bytes of the file it is about; empty where it is about the whole file.
    pub range: Range<u64>,
    /// Since when, on the context's clock.
    pub since: BootTime,
}

/// All waits of one context.
#[derive(Default)]
pub(crate) struct Waits(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    next: u64,
    /// By number, which is the order they began in.
    waits: BTreeMap<u64, WaitInfo>,
}

impl Waits {
    /// Enters a wait, until the guard is dropped.
    pub(crate) fn enter(self: &Arc<Self>, info: WaitInfo) -> Wait {
        let mut entries = self.0.lock();
        let number = entries.next;
        entries.next += 1;
        entries.waits.insert(number, info);
        drop(entries);
        Wait { waits: Arc::clone(self), number }
    }

    /// Those under way, the oldest first.
    pub(crate) fn list(&self) -> Vec<WaitInfo> {
        self.0.lock().waits.values().cloned().collect()
    }
}

/// A wait under way.
#[must_use = "the wait is listed only while this lives"]
pub(crate) struct Wait {
    waits: Arc<Waits>,
    number: u64,
}

impl Drop for Wait {
    fn drop(&mut self) {
        let ended = self.waits.0.lock().waits.remove(&self.number);
        // Freed outside the lock.
        drop(ended);
    }
}
