//! The page cache: folios, their memory, the per-inode index, the byte budget and reclaim.

pub(crate) mod arena;
pub(crate) mod memory;

use std::ops::{Deref, Range};

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
        assert!(range.end <= mem.len(), "slice beyond the folio");
        Slice { mem, start: range.start, len: range.len() }
    }

    /// A slice over memory of its own, for tests of a backend.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Slice {
        let mem = memory::FolioMem::heap(bytes.len());
        let mut fill = memory::FillBuf::whole(Arc::clone(&mem), bytes.len());
        fill.copy_in(bytes);
        drop(fill);
        Slice::settled(mem, 0..bytes.len())
    }
}

impl Deref for Slice {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.mem.read_settled(self.start..self.start + self.len)
    }
}

impl std::fmt::Debug for Slice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slice({} bytes)", self.len)
    }
}
