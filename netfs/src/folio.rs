//! The page cache: folios, their memory, the per-inode index, the byte budget and reclaim.
//!
//! | part | holds |
//! |---|---|
//! | `arena` | recycled blocks of memory, huge-page aligned |
//! | `memory` | who may write and read a folio's memory: the invariants of the unsafe code |
//! | `lent` | callers' buffers that are folios |
//! | `budget` | the accounts of folio memory; what counts in the byte budget |
//! | `state`, `waiters` | one folio: locked, uptodate or failed, and who waits for it |
//! | `unread` | which pages of a folio nobody has read yet |
//! | `index` | the folios of one file: hit path, insertion, publishing, invalidation |
//! | `window` | which folio sizes to use for a run of missing bytes |
//! | `cache` | what all files share: allocation, eviction (`policy`), usage |
//!
//! The life of a fetch: `absent_runs` says what is missing;
//! `alloc_window` gets all the memory before anything is locked;
//! `lock_window` indexes it as locked folios (concurrent readers now
//! wait for them instead of fetching too); the fetch fills them;
//! `publish_if` shows them, unless they were invalidated meanwhile.

pub(crate) mod arena;
pub(crate) mod budget;
pub(crate) mod cache;
pub(crate) mod dirt;
mod extents;
pub(crate) mod index;
pub(crate) mod lent;
pub(crate) mod memory;
pub(crate) mod state;
mod unread;
mod waiters;
mod widen;
pub(crate) mod window;

use std::ops::{Deref, Range};

pub(crate) use cache::FolioCache;
pub use cache::MemoryUsage;
pub(crate) use dirt::Group;
pub(crate) use extents::{Extents, Writer};
pub(crate) use index::{
    AheadSoFar, FolioIndex, LockedFolio, Lookup, MissReason, Piece, Sent, Step, Unit, Which,
    Written, count_origin,
};
pub(crate) use state::{Folio, Held, Origin, shares};

use crate::sync::Arc;

/// Bytes of a page: the unit of the content map, of checksums and of validity.
pub const PAGE_SIZE: usize = 4096;
/// Bytes of a granule: the largest folio and the block of the disk cache's content map.
pub const GRANULE: usize = 256 * 1024;

/// An immutable piece of cached file content, without a copy. It stays what it is whatever happens to
/// the file: a write, a refill or an invalidation replaces the folio in the index.
#[derive(Clone)]
pub struct Slice {
    mem: Arc<memory::FolioMem>,
    start: usize,
    len: usize,
}

impl Slice {
    /// A piece of settled memory (invariant M2 of [`memory`]).
    pub(crate) fn settled(mem: Arc<memory::FolioMem>, range: Range<usize>) -> Slice {
        assert!(range.start <= range.end && range.end <= mem.len(), "slice beyond the folio");
        Slice { mem, start: range.start, len: range.len() }
    }

    pub(crate) fn mem(&self) -> &Arc<memory::FolioMem> {
        &self.mem
    }

    /// A slice over memory of its own, for tests of a backend.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Slice {
        let new = memory::NewMem::heap(bytes.len());
        let (mut fill, mem) = memory::FillBuf::whole(new, bytes.len());
        fill.copy_in(bytes);
        fill.advance(bytes.len());
        Slice::settled(mem, 0..bytes.len())
    }

    /// A slice that is these bytes, without a copy.
    pub(crate) fn of_bytes(bytes: bytes::Bytes) -> Slice {
        let len = bytes.len();
        if len == 0 {
            return Slice::from_bytes(&[]);
        }
        Slice::settled(memory::FolioMem::foreign(bytes, None), 0..len)
    }

    /// A part of this slice, sharing its memory.
    ///
    /// # Panics
    /// If `range` is not within the slice, as indexing does.
    #[must_use]
    pub fn part(&self, range: Range<usize>) -> Slice {
        assert!(range.start <= range.end && range.end <= self.len, "part beyond the slice");
        Slice { mem: Arc::clone(&self.mem), start: self.start + range.start, len: range.len() }
    }
}

impl Deref for Slice {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.mem.read_settled(self.start..self.start + self.len)
    }
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::fmt::Debug for Slice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slice({} bytes)", self.len)
    }
}
