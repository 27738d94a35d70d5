//! What a disk cache implements: [`CacheBackend`], [`CacheVolume`], [`CacheObject`] (kernel: cache,
//! volume cookie, data cookie's object).
//!
//! The contract:
//!
//! - A backend may refuse anything, with a [`Refusal`] that reaches the statistics. A refusal or an
//!   error never changes what a reader sees: the core asks the server instead.
//! - No call panics on what it finds on disk, and none hands out a byte it cannot prove to be the
//!   byte that was written under the object's current identity.
//! - [`CacheObject::extents`] and [`CacheObject::try_read`] answer from memory (and one non-blocking
//!   disk read); they never wait. Everything else that may wait runs on the backend's own threads and
//!   reports through a future or the sub it was given; a hung disk occupies no thread of the core.
//! - Content is tracked per page of 4 KiB ([`PAGE_SIZE`](crate::folio::PAGE_SIZE)); a page is present
//!   wholly or not at all. The last page of a file is stored zero-padded.

use std::{fmt, ops::Range};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::{
    folio::{
        Slice,
        memory::{FillBuf, NewMem},
    },
    remote::VolumeId,
    sync::Arc,
};

/// What an object must be about to be served: the version's bytes and the file's size.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Coherency data (kernel: aux): the version's bytes, at most 200.
    pub aux: Bytes,
    /// The file's size on the server in bytes.
    pub size: u64,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({:x}, {} bytes)", self.aux, self.size)
    }
}

/// Why a backend did not do something. Each one is counted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// The cache was withdrawn or is shutting down.
    Withdrawn,
    /// The cache or the object met an I/O error before and is out of service.
    IoError,
    /// No space, files or quota left.
    NoSpace,
    /// The object is not the one the call was meant for any more (cut over, retired, resized).
    Stale,
    /// Too much is in flight already.
    Busy,
    /// Descriptors are used up.
    Descriptors,
    /// The cache cannot represent this (key, size, offset or alignment).
    Unsupported,
    /// The object is already open under this key.
    InUse,
    /// Nothing is cached for now: no cache is attached, the object could not be opened, or direct
    /// writes have switched caching off until the last user leaves (N-C50).
    Disabled,
    /// The cache did not answer in time.
    TimedOut,
}

/// Why bytes did not come from the cache.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum CacheMiss {
    /// Never stored, or forgotten since.
    Absent,
    /// The content map of that region has not been read from disk yet; it is being loaded.
    NotLoaded,
    /// A page did not match its checksum. It has been forgotten.
    Corrupt,
    /// The object changed while the read was in flight.
    Stale,
    /// The disk returned an error or fewer bytes than the page holds.
    Io,
    /// The cache refused.
    Refused(Refusal),
}

/// What is known of a run of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ExtentKind {
    /// Stored.
    Data,
    /// Known to be zeros; nothing is stored.
    Zero,
    /// Not stored.
    Absent,
    /// Not known without reading the disk; the load has been started.
    NotLoaded,
}

/// A run of one kind, in bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Where. Starts and ends on page borders, or at the ends of the asked range.
    pub range: Range<u64>,
    /// What.
    pub kind: ExtentKind,
}

/// Runs that cover the asked range without gap or overlap, in order; neighbours differ in kind.
pub type Extents = smallvec::SmallVec<[Extent; 4]>;

/// Answer of [`CacheObject::try_read`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TryRead {
    /// All bytes asked for are there, verified.
    Done,
    /// The disk would have to be waited for: use [`CacheObject::read`].
    WouldBlock,
    /// Not to be had from the cache.
    Miss(CacheMiss),
}

/// How a lookup found the object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Found {
    /// It was there with the wanted identity.
    Existing,
    /// Nothing was there: new, empty. (Readers need not ask it.)
    Created,
    /// What was there had another identity: replaced by an empty one.
    ReplacedStale,
    /// What was there could not be trusted (header missing, unreadable or damaged): replaced.
    ReplacedCorrupt,
}

/// An object a lookup returned.
pub struct Opened {
    /// The object.
    pub object: Arc<dyn CacheObject>,
    /// How it was found.
    pub found: Found,
}

/// How a cookie or volume goes away.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Relinquish {
    /// Commit and keep it on disk.
    Keep,
    /// Delete it (row 109's retire).
    Retire,
}

/// Numbers about a backend.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackendStats {
    /// Objects open now.
    pub objects_open: u64,
    /// File descriptors held now.
    pub descriptors: u64,
    /// Bytes read from the cache's storage.
    pub read_bytes: u64,
    /// Bytes written to the cache's storage.
    pub write_bytes: u64,
    /// Reads answered inline without waiting.
    pub inline_reads: u64,
    /// Reads that had to go to the cache's own threads.
    pub queued_reads: u64,
    /// Pages that failed their checksum.
    pub corrupt_pages: u64,
    /// Objects replaced because their identity was another.
    pub stale_objects: u64,
    /// Objects replaced because they could not be trusted.
    pub corrupt_objects: u64,
    /// Calls refused.
    pub refusals: u64,
}

/// A cache: the disk below one directory, say.
pub trait CacheBackend: Send + Sync + 'static {
    /// A name for messages and listings.
    fn name(&self) -> String;

    /// Opens or creates the volume. If the stored coherency data differ from `coherency`, everything
    /// in the volume is discarded first (N-C72).
    fn acquire_volume(
        self: Arc<Self>,
        id: VolumeId,
        coherency: Bytes,
    ) -> BoxFuture<'static, Result<Arc<dyn CacheVolume>, Refusal>>;

    /// Commits and closes everything. Afterwards every call is refused (N-C44).
    fn withdraw(self: Arc<Self>) -> BoxFuture<'static, ()>;

    /// Whether the cache serves; `Err` says why not.
    fn health(&self) -> Result<(), Refusal> {
        Ok(())
    }

    /// Numbers.
    fn stats(&self) -> BackendStats {
        BackendStats::default()
    }
}

/// One volume in a cache.
pub trait CacheVolume: Send + Sync + 'static {
    /// Opens the object `key` if it is there with exactly `identity`; otherwise replaces or creates
    /// it, empty. A key is 1 to 255 bytes. Two objects with one key are never open at once
    /// ([`Refusal::InUse`]).
    fn lookup(
        self: Arc<Self>,
        key: Bytes,
        identity: Identity,
    ) -> BoxFuture<'static, Result<Opened, Refusal>>;

    /// No more lookups will come. All objects have been closed.
    fn relinquish(self: Arc<Self>, how: Relinquish) -> BoxFuture<'static, ()>;
}

/// One cached object: one file's content under one identity.
///
/// After [`cut_over`](CacheObject::cut_over) the old object answers every call with
/// [`Refusal::Stale`] or a miss, and I/O in flight on it ends without effect (row 106, N-C48).
pub trait CacheObject: Send + Sync + 'static {
    /// Grows with every cut-over and every [`set_identity`](CacheObject::set_identity). A write that has
    /// not begun when it grows has no effect.
    fn generation(&self) -> u64;

    /// The identity the content belongs to.
    fn identity(&self) -> Identity;

    /// What is known of `range` (clipped by the caller to the file's size). From memory only.
    fn extents(&self, range: Range<u64>) -> Extents;

    /// Reads bytes that [`extents`](CacheObject::extents) called `Data` (any offset and length,
    /// within one run) without waiting. The buffer's content is undefined unless `Done`.
    fn try_read(&self, offset: u64, into: &mut [u8]) -> TryRead;

    /// [`try_read`](CacheObject::try_read) for a reader who has not asked
    /// [`extents`](CacheObject::extents): `Done` only if all of it is `Data`. An object that can find
    /// that out on the way spares the reader a look at its map.
    fn try_read_data(&self, offset: u64, into: &mut [u8]) -> TryRead {
        let extents = self.extents(offset..offset.saturating_add(into.len() as u64));
        match &extents[..] {
            [only] if only.kind == ExtentKind::Data => self.try_read(offset, into),
            _ => TryRead::Miss(CacheMiss::Absent),
        }
    }

    /// The same as [`try_read`](CacheObject::try_read), waiting for the disk on the backend's own
    /// threads.
    fn read(self: Arc<Self>, sub: CacheRead);

    /// Stores whole pages; on the backend's own threads. The pages are readable once the sub has
    /// ended well.
    fn write(self: Arc<Self>, sub: CacheWrite);

    /// Records that a page-aligned range is zeros (its end may be the file's end).
    fn mark_zero(&self, range: Range<u64>);

    /// Forgets every page that `range` touches; in memory at once.
    fn forget(&self, range: Range<u64>);

    /// Replaces the object by an empty one with a new identity. Effective in memory at once; the disk
    /// follows, and a crash in between is caught by the old identity.
    fn cut_over(&self, identity: Identity) -> Result<Arc<dyn CacheObject>, Refusal>;

    /// The owner is about to change the file (row 126). From when this has ended well until
    /// [`end_modify`](CacheObject::end_modify), a restart MUST find nothing of the object, whatever it
    /// is asked for: not even a version that does not move with every change may vouch for bytes from
    /// before. Reads and writes go on as usual. What a [cut-over](CacheObject::cut_over) makes of the object
    /// inherits it. Called again it answers at once. An object that cannot do it refuses, and is cut over
    /// before the file is changed.
    fn begin_modify(self: Arc<Self>) -> BoxFuture<'static, Result<(), Refusal>> {
        Box::pin(async { Err(Refusal::Unsupported) })
    }

    /// The changes have ended: content and identity are of the file as it is. A restart finds the object
    /// once the disk has followed.
    fn end_modify(&self) {}

    /// Gives the content another identity after the owner itself changed the file: `changed` are the bytes
    /// that are not the stored ones any more (row 108). In memory at once and in one step: every page that
    /// `changed` touches is forgotten, then the identity moves (who asks for the identity first and for the content
    /// afterwards never gets a new one with old content), and the generation grows. Of the writes
    /// under way, those that have begun and meet no forgotten page go on; all others have no effect.
    ///
    /// A new size (row 107) MUST forget the page that holds the old end of file and every page that
    /// reaches past the new one, too. On disk the new identity MUST NOT be found before everything that was
    /// forgotten is forgotten there. An object that cannot do it refuses, unchanged, and is cut over instead.
    fn set_identity(&self, identity: Identity, changed: &[Range<u64>]) -> Result<(), Refusal> {
        let _ = (identity, changed);
        Err(Refusal::Unsupported)
    }

    /// Makes what is stored so far findable after a restart.
    fn commit(self: Arc<Self>) -> BoxFuture<'static, Result<(), Refusal>>;

    /// Commits (or deletes) and closes the object. It is not used afterwards.
    fn close(self: Arc<Self>, how: Relinquish) -> BoxFuture<'static, ()>;
}

/// What a sub says once, when it has ended.
type Done<E> = Box<dyn FnOnce(Result<(), E>) + Send>;

/// A read from the cache: owns its memory until it ends.
pub struct CacheRead {
    offset: u64,
    buf: FillBuf,
    done: Option<CacheReadDone>,
}

/// Hears how a cache read ended. On a miss it gets the permission for all of the memory back, so that
/// the same range can be asked from the server.
pub(crate) type CacheReadDone = Box<dyn FnOnce(Result<(), (CacheMiss, FillBuf)>) + Send>;

impl CacheRead {
    /// `done` gets the memory back after a miss, so that the server can fill it.
    pub(crate) fn new(
        offset: u64,
        buf: FillBuf,
        done: impl FnOnce(Result<(), (CacheMiss, FillBuf)>) + Send + 'static,
    ) -> CacheRead {
        CacheRead { offset, buf, done: Some(Box::new(done)) }
    }

    /// A read outside any request, for tests of a backend: `done` gets the bytes or the miss.
    #[must_use]
    pub fn detached(
        offset: u64,
        len: usize,
        done: impl FnOnce(Result<Vec<u8>, CacheMiss>) + Send + 'static,
    ) -> CacheRead {
        let (buf, mem) = FillBuf::whole(NewMem::heap(len), len);
        CacheRead::new(offset, buf, move |r| {
            done(r.map(|()| mem.read_settled(0..len).to_vec()).map_err(|(miss, _)| miss));
        })
    }

    /// File offset of the first byte.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes to read.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.buf.len()
    }

    /// The memory, in file order.
    pub fn buffers(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.buf.slices_mut()
    }

    /// Ends the read: all bytes are there and verified, or none counts. A partial result is a miss
    /// (row 29: zero bytes from the cache are a miss too).
    pub fn finish(mut self, result: Result<(), CacheMiss>) {
        self.end(result);
    }

    fn end(&mut self, result: Result<(), CacheMiss>) {
        let Some(done) = self.done.take() else { return };
        // The memory is given back before anyone hears of the end (no late write is possible).
        let mut buf = std::mem::replace(&mut self.buf, FillBuf::empty());
        done(match result {
            Ok(()) => {
                buf.advance(buf.len());
                drop(buf);
                Ok(())
            }
            Err(miss) => Err((miss, buf)),
        });
    }
}

impl Drop for CacheRead {
    fn drop(&mut self) {
        self.end(Err(CacheMiss::Refused(Refusal::Withdrawn)));
    }
}

/// A write of whole pages to the cache: owns the (immutable) bytes until it ends.
pub struct CacheWrite {
    offset: u64,
    data: Vec<Slice>,
    generation: u64,
    done: Option<Done<Refusal>>,
}

impl CacheWrite {
    /// Bytes for `offset` (page-aligned; each slice a multiple of a page, the file's last page
    /// zero-padded) that belong to the object's `generation`.
    pub fn new(
        offset: u64,
        data: Vec<Slice>,
        generation: u64,
        done: impl FnOnce(Result<(), Refusal>) + Send + 'static,
    ) -> CacheWrite {
        CacheWrite { offset, data, generation, done: Some(Box::new(done)) }
    }

    /// File offset of the first byte.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Total bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.data.iter().map(|s| s.len()).sum()
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.data.iter().all(|s| s.is_empty())
    }

    /// The generation the bytes belong to; with any other the write MUST be refused as stale.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The bytes, in file order.
    #[must_use]
    pub fn data(&self) -> &[Slice] {
        &self.data
    }

    /// Ends the write: stored, or refused.
    pub fn finish(mut self, result: Result<(), Refusal>) {
        self.end(result);
    }

    fn end(&mut self, result: Result<(), Refusal>) {
        self.data = Vec::new();
        if let Some(done) = self.done.take() {
            done(result);
        }
    }
}

impl Drop for CacheWrite {
    fn drop(&mut self) {
        self.end(Err(Refusal::Withdrawn));
    }
}
