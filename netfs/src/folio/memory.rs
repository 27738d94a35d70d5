//! Folio memory and who may touch it.
//!
//! Invariants (the reason the `unsafe` here is sound):
//!
//! - **M1** A byte of a [`FolioMem`] is written only through a [`FillBuf`], and at most one live
//!   `FillBuf` covers it. `FillBuf`s are made only here, from memory that nobody else can see yet
//!   ([`FillBuf::whole`]) or by splitting one that exists ([`FillBuf::split_to`]).
//! - **M2** A byte is read only after the `FillBuf` that covered it has been dropped or advanced past
//!   it, with a happens-before edge in between (the folio's state word, released by the filler and
//!   acquired by the reader; or the sub's completion). From then on it never changes: a refill or a
//!   write replaces the folio's memory in the index. That is why slices are immutable.

#![allow(unsafe_code, reason = "exclusive fill of shared folio memory; invariants M1 and M2 above")]

use std::ops::Range;

use smallvec::{SmallVec, smallvec};

use super::arena::Block;
use crate::sync::Arc;

/// The memory of one folio, or of one transient read. Goes back to the arena with the last clone.
pub(crate) struct FolioMem {
    block: Block,
}

// SAFETY: the raw memory is owned by the block; concurrent access follows M1 and M2.
unsafe impl Send for FolioMem {}
// SAFETY: as above.
unsafe impl Sync for FolioMem {}

impl FolioMem {
    pub(crate) fn new(block: Block) -> Arc<FolioMem> {
        Arc::new(FolioMem { block })
    }

    /// Memory outside the arena and its budget, zeroed.
    pub(crate) fn heap(len: usize) -> Arc<FolioMem> {
        FolioMem::new(Block::heap(len))
    }

    /// Usable bytes.
    pub(crate) fn len(&self) -> usize {
        self.block.len()
    }

    /// Bytes that are settled (M2): the caller has seen, with acquire ordering, that their filler is
    /// done with them.
    pub(crate) fn read_settled(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.len(), "folio range out of bounds");
        // SAFETY: in bounds (asserted) and no longer written (M2, the caller's duty).
        unsafe { std::slice::from_raw_parts(self.block.as_ptr().add(range.start), range.len()) }
    }
}

/// A piece of one folio's memory that its owner may write.
struct Piece {
    mem: Arc<FolioMem>,
    start: usize,
    len: usize,
}

impl Piece {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: in bounds by construction; exclusive by M1.
        unsafe { std::slice::from_raw_parts_mut(self.mem.block.as_ptr().add(self.start), self.len) }
    }
}

/// Exclusive permission to fill a run of folio memory, in file order. Dropping it gives the
/// permission up for good.
pub(crate) struct FillBuf {
    pieces: SmallVec<[Piece; 2]>,
    len: usize,
}

impl FillBuf {
    pub(crate) fn empty() -> FillBuf {
        FillBuf { pieces: SmallVec::new(), len: 0 }
    }

    /// All of `mem`'s first `len` bytes. The caller MUST be the memory's only user so far (M1): it
    /// was just allocated and no other `FillBuf` was made of it.
    pub(crate) fn whole(mem: Arc<FolioMem>, len: usize) -> FillBuf {
        assert!(len <= mem.len(), "fill beyond the folio");
        FillBuf { pieces: smallvec![Piece { mem, start: 0, len }], len }
    }

    /// Bytes that may still be written.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Appends another run.
    pub(crate) fn append(&mut self, other: FillBuf) {
        self.len += other.len;
        self.pieces.extend(other.pieces);
    }

    /// The first `n` bytes as a run of their own.
    pub(crate) fn split_to(&mut self, n: usize) -> FillBuf {
        assert!(n <= self.len, "split beyond the end");
        let mut front = FillBuf::empty();
        while front.len < n {
            let want = n - front.len;
            let head = &mut self.pieces[0];
            let taken = if head.len <= want {
                self.pieces.remove(0)
            } else {
                let part = Piece { mem: Arc::clone(&head.mem), start: head.start, len: want };
                head.start += want;
                head.len -= want;
                part
            };
            self.len -= taken.len;
            front.len += taken.len;
            front.pieces.push(taken);
        }
        front
    }

    /// Gives up the first `n` bytes: they are settled.
    pub(crate) fn advance(&mut self, n: usize) {
        drop(self.split_to(n));
    }

    /// The writable runs in file order.
    pub(crate) fn slices_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.pieces.iter_mut().map(Piece::as_mut)
    }

    /// Copies `bytes` to the front without advancing. At most `len()` bytes.
    pub(crate) fn copy_in(&mut self, mut bytes: &[u8]) {
        for slice in self.slices_mut() {
            let n = slice.len().min(bytes.len());
            slice[..n].copy_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
        }
    }

    /// Zeroes the first `n` bytes without advancing.
    pub(crate) fn zero(&mut self, mut n: usize) {
        for slice in self.slices_mut() {
            let k = slice.len().min(n);
            slice[..k].fill(0);
            n -= k;
        }
    }
}
