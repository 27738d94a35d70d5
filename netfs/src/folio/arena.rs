//! Folio memory blocks: a recycled arena of 4 KiB to 256 KiB blocks.
//!
//! Blocks are carved buddy-style out of chunks of 2 MiB, each aligned to 2 MiB and advised to be one
//! huge page: recycled memory has its page-table entries already, and a huge page costs one TLB entry
//! (first touch of fresh memory is several times slower than filling a recycled folio). A chunk that
//! is wholly free beyond a low-water mark goes back to the operating system.
//!
//! **Recycled memory is not zeroed.** It may hold bytes of another file, so whoever fills a block
//! must write or zero every byte of it before it is shown to anyone; [`super::memory`] enforces that.

#![allow(unsafe_code, reason = "raw memory blocks")]

mod buddy;
mod region;

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};

use buddy::{Buddy, Place};
use region::Region;

use super::{GRANULE, PAGE_SIZE, lent::Returned};
use crate::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

/// Bytes of a chunk: a huge page on x86-64 and on arm64 with 4 KiB pages.
const CHUNK: usize = 2 << 20;

/// Bytes the arena has mapped, and how many of them are in blocks handed out.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct ArenaUsage {
    pub(crate) mapped: u64,
    pub(crate) in_use: u64,
}

/// The arena. Blocks keep it alive.
pub(crate) struct Arena {
    inner: Mutex<Inner>,
    /// Wholly free chunks that are kept for reuse.
    keep_chunks: AtomicUsize,
}

struct Inner {
    buddy: Buddy,
    /// The mapping of each chunk number the buddy allocator knows; `None` = number unused.
    regions: Vec<Option<Region>>,
    in_use: u64,
}

impl Arena {
    /// An arena that keeps at least `keep_bytes` of free memory before it gives any back.
    pub(crate) fn new(keep_bytes: u64) -> Arc<Arena> {
        let keep_chunks = AtomicUsize::new(chunks(keep_bytes));
        let inner = Inner { buddy: Buddy::default(), regions: Vec::new(), in_use: 0 };
        Arc::new(Arena { inner: Mutex::new(inner), keep_chunks })
    }

    /// Keeps another amount from now on; what is free beyond it goes back with the next block that is freed.
    pub(crate) fn keep(&self, keep_bytes: u64) {
        self.keep_chunks.store(chunks(keep_bytes), Ordering::Relaxed);
    }

    /// A block of `len` bytes, a power of two from a page to a granule, aligned to its size. Not
    /// zeroed. `None` if the operating system has no memory.
    pub(crate) fn alloc(self: &Arc<Self>, len: usize) -> Option<Block> {
        assert!(
            len.is_power_of_two() && (PAGE_SIZE..=GRANULE).contains(&len),
            "not a folio size: {len}"
        );
        let order = (len / PAGE_SIZE).trailing_zeros() as usize;
        let mut inner = self.inner.lock();
        let place = match inner.buddy.alloc(order) {
            Some(place) => place,
            None => {
                inner.grow()?;
                inner.buddy.alloc(order)?
            }
        };
        let region = inner.regions[place.chunk as usize].as_ref()?;
        let ptr = region.at(place.page as usize * PAGE_SIZE);
        inner.in_use += len as u64;
        Some(Block { ptr, len, home: Home::Arena { arena: Arc::clone(self), place } })
    }

    pub(crate) fn usage(&self) -> ArenaUsage {
        let inner = self.inner.lock();
        let mapped = inner.regions.iter().flatten().count() * CHUNK;
        ArenaUsage { mapped: mapped as u64, in_use: inner.in_use }
    }

    fn free(&self, place: Place, len: usize) {
        // Unmapping takes tens of microseconds: the region is dropped after the lock.
        let surplus = {
            let mut inner = self.inner.lock();
            inner.in_use -= len as u64;
            let whole = inner.buddy.free(place);
            if whole && inner.buddy.free_chunks() > self.keep_chunks.load(Ordering::Relaxed) {
                inner.buddy.remove_chunk(place.chunk);
                inner.regions[place.chunk as usize].take()
            } else {
                None
            }
        };
        drop(surplus);
    }
}

/// At least one chunk, so that small use does not map and unmap.
fn chunks(bytes: u64) -> usize {
    usize::try_from(bytes / CHUNK as u64).unwrap_or(usize::MAX).max(1)
}

impl Inner {
    fn grow(&mut self) -> Option<()> {
        let region = Region::map()?;
        let chunk = self.buddy.add_chunk() as usize;
        if chunk >= self.regions.len() {
            self.regions.resize_with(chunk + 1, || None);
        }
        self.regions[chunk] = Some(region);
        Some(())
    }
}

enum Home {
    Heap,
    /// Somebody else's, immutable: see [`Block::foreign`].
    Foreign {
        owner: bytes::Bytes,
        /// Where it is put at the end; `None`: it just ends.
        returned: Option<Arc<Returned>>,
    },
    Arena {
        arena: Arc<Arena>,
        place: Place,
    },
}

/// An owned block of memory.
pub(crate) struct Block {
    ptr: *mut u8,
    len: usize,
    home: Home,
}

// SAFETY: a block owns its bytes alone; the arena behind it is shared through a lock.
unsafe impl Send for Block {}
// SAFETY: a shared block gives out nothing but its address and length.
unsafe impl Sync for Block {}

impl Block {
    /// A zeroed block outside the arena, of any length (0 becomes 1). Aborts if memory is exhausted,
    /// as every allocation of the language does.
    pub(crate) fn heap(len: usize) -> Block {
        let len = len.max(1);
        let layout = heap_layout(len);
        // SAFETY: the layout has a non-zero size.
        let ptr = unsafe { alloc_zeroed(layout) };
        if ptr.is_null() {
            handle_alloc_error(layout);
        }
        Block { ptr, len, home: Home::Heap }
    }

    /// Somebody's immutable bytes, at least one, held for as long as the block. Nobody may write through
    /// the block's address: it [is no memory of ours](Block::is_foreign). Where the block may end under a
    /// lock they are put into `returned`.
    pub(crate) fn foreign(bytes: bytes::Bytes, returned: Option<Arc<Returned>>) -> Block {
        let (ptr, len) = (bytes.as_ptr().cast_mut(), bytes.len());
        Block { ptr, len, home: Home::Foreign { owner: bytes, returned } }
    }

    /// Whether these are somebody else's bytes, which nobody may ever change.
    pub(crate) fn is_foreign(&self) -> bool {
        matches!(self.home, Home::Foreign { .. })
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.ptr
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        match &mut self.home {
            // SAFETY: allocated in `heap` with this layout.
            Home::Heap => unsafe { dealloc(self.ptr, heap_layout(self.len)) },
            Home::Arena { arena, place } => arena.free(*place, self.len),
            Home::Foreign { owner, returned } => {
                if let Some(returned) = returned {
                    returned.put(std::mem::take(owner));
                }
            }
        }
    }
}

fn heap_layout(len: usize) -> Layout {
    Layout::from_size_align(len, PAGE_SIZE).expect("a length within the address space")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_to_their_size_and_do_not_overlap() {
        let arena = Arena::new(0);
        let mut blocks: Vec<Block> = (0..200usize)
            .map(|i| arena.alloc(PAGE_SIZE << (i % 7)).expect("memory for a test"))
            .collect();
        blocks.sort_by_key(|b| b.as_ptr() as usize);
        for b in &blocks {
            assert_eq!(b.as_ptr() as usize % b.len(), 0);
        }
        for pair in blocks.windows(2) {
            assert!(pair[0].as_ptr() as usize + pair[0].len() <= pair[1].as_ptr() as usize);
        }
        let in_use: usize = blocks.iter().map(Block::len).sum();
        assert_eq!(arena.usage().in_use, in_use as u64);
    }

    #[test]
    fn freed_blocks_are_recycled_and_whole_free_chunks_given_back() {
        let arena = Arena::new(CHUNK as u64);
        let fill = |n: usize| (0..n).map(|_| arena.alloc(GRANULE)).collect::<Vec<_>>();
        let blocks = fill(4 * CHUNK / GRANULE);
        assert_eq!(arena.usage().mapped, 4 * CHUNK as u64);
        drop(blocks);
        assert_eq!(arena.usage(), ArenaUsage { mapped: CHUNK as u64, in_use: 0 });
        let blocks = fill(CHUNK / GRANULE);
        assert_eq!(arena.usage().mapped, CHUNK as u64, "the kept chunk is used again");
        drop(blocks);
    }

    #[test]
    fn a_block_outlives_the_handle_to_its_arena() {
        let arena = Arena::new(0);
        let block = arena.alloc(PAGE_SIZE).expect("memory for a test");
        drop(arena);
        // SAFETY: the block is ours alone.
        unsafe { block.as_ptr().write_bytes(1, block.len()) };
    }
}
