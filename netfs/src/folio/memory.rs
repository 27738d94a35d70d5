//! Folio memory and who may touch it.
//!
//! Memory is born as [`NewMem`], which nobody else can see. [`FillBuf::whole`] consumes it and gives
//! the one permission to write, and the shared handle [`FolioMem`] that readers will use.
//!
//! Invariants (the reason the `unsafe` here is sound; W1 and W2 bind the modules `state` and `index`):
//!
//! - **M1** A byte of a [`FolioMem`] is written only through a [`FillBuf`], and at most one live
//!   `FillBuf` covers it: they are made only from a `NewMem`, once, or by splitting one that exists.
//! - **M2** A byte is read only when no `FillBuf` over that memory is left. [`FolioMem::fill`] counts
//!   them and is checked (acquire) by every read; each filler's end is a release, so what it wrote
//!   is seen. The count never rises from zero.
//! - **W1** Settled bytes change in one way only ([`Exclusive::write`]): in the hands of whoever holds the
//!   index of their folio exclusively, and only as long as nobody but that folio has the memory. Readers
//!   read under the index's lock or through a slice, and slices are made only under that lock or from a
//!   slice (**W2**). So nobody reads a byte that changes, and a slice's bytes never do: where there is one,
//!   a write gives the folio other memory.
//! - **M3** Recycled memory holds another file's bytes. The same word counts bytes that nobody has
//!   declared filled; memory may enter the cache only when that is zero ([`FolioMem::is_complete`]).

#![allow(unsafe_code, reason = "exclusive fill of shared folio memory; invariants M1 and M2 above")]

use std::ops::Range;

use smallvec::SmallVec;

use super::{arena::Block, budget::Charge};
use crate::sync::{
    Arc,
    atomic::{AtomicU64, Ordering, fence},
};

/// One live piece of a `FillBuf`, in the upper half of [`FolioMem::fill`].
const PIECE: u64 = 1 << 32;

/// The memory of one folio, or of one transient read. Goes back to the arena with the last clone.
pub(crate) struct FolioMem {
    // Before the charge: memory is free before the budget says so.
    block: Block,
    charge: Option<Charge>,
    /// Upper 32 bits: live pieces of `FillBuf`s over this memory. Lower 32: bytes not filled yet.
    fill: AtomicU64,
}

impl FolioMem {
    /// Somebody's immutable bytes as they are (at least one): settled and complete from the start, so that
    /// no filler is ever made for them (M1), and [never exclusive](Exclusive::of).
    pub(crate) fn foreign(bytes: bytes::Bytes, charge: Option<Charge>) -> Arc<FolioMem> {
        Arc::new(NewMem::new(Block::foreign(bytes, None), charge).0)
    }

    /// Usable bytes.
    pub(crate) fn len(&self) -> usize {
        self.block.len()
    }

    /// Nobody may write this memory any more (M2).
    pub(crate) fn is_settled(&self) -> bool {
        self.fill.load(Ordering::Acquire) < PIECE
    }

    /// Settled, and every byte was declared filled (M3).
    pub(crate) fn is_complete(&self) -> bool {
        self.fill.load(Ordering::Acquire) == 0
    }

    /// A caller's bytes.
    pub(crate) fn is_foreign(&self) -> bool {
        self.block.is_foreign()
    }

    /// How this memory is accounted; `None` for memory outside any budget.
    pub(crate) fn charge(&self) -> Option<&Charge> {
        self.charge.as_ref()
    }

    /// Bytes nobody writes any more.
    ///
    /// # Panics
    /// If a filler is still at work, or the range is out of bounds: bugs of this crate.
    pub(crate) fn read_settled(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.len(), "folio range out of bounds");
        assert!(self.is_settled(), "folio read while it is being filled");
        // SAFETY: in bounds and no longer written, both asserted (M2).
        unsafe { std::slice::from_raw_parts(self.block.as_ptr().add(range.start), range.len()) }
    }
}

/// Settled memory that may be written to: see W1 in the module's docs.
pub(super) struct Exclusive<'a>(&'a FolioMem);

impl<'a> Exclusive<'a> {
    /// The memory of a folio, if nobody else has it.
    ///
    /// # Safety
    /// `mem` MUST belong to a folio whose index the caller holds exclusively for as long as the result
    /// lives, or that nobody else has ever seen, and be its only handle of that memory.
    pub(super) unsafe fn of(mem: &'a Arc<FolioMem>) -> Option<Exclusive<'a>> {
        // The caller's own bytes may have any number of readers that we do not know of.
        if Arc::strong_count(mem) != 1 || !mem.is_settled() || mem.block.is_foreign() {
            return None;
        }
        // A slice that was dropped a moment ago: its reads come before our writes.
        fence(Ordering::Acquire);
        Some(Exclusive(mem))
    }

    /// Copies `bytes` to `at`.
    ///
    /// # Panics
    /// If they do not fit: a bug of this crate.
    pub(super) fn write(&mut self, at: usize, bytes: &[u8]) {
        self.range(at..at + bytes.len()).copy_from_slice(bytes);
    }

    fn range(&mut self, range: Range<usize>) -> &mut [u8] {
        assert!(range.start <= range.end && range.end <= self.0.len(), "write beyond the folio");
        // SAFETY: in bounds; nobody else reads or writes the memory (W1, and `of`'s contract).
        unsafe {
            let start = self.0.block.as_ptr().add(range.start);
            std::slice::from_raw_parts_mut(start, range.len())
        }
    }
}

/// Memory that was just allocated: nobody else can see it. Or a caller's bytes, which nobody will fill.
pub(crate) struct NewMem(FolioMem);

impl NewMem {
    /// Memory of the arena, accounted by `charge`, of which the content is undefined (recycled); or somebody's
    /// immutable bytes, which are complete.
    pub(crate) fn new(block: Block, charge: Option<Charge>) -> NewMem {
        let unfilled = if block.is_foreign() { 0 } else { block.len() };
        let unfilled = u32::try_from(unfilled).expect("folios and windows are below 4 GiB");
        NewMem(FolioMem { block, charge, fill: AtomicU64::new(u64::from(unfilled)) })
    }

    /// Memory outside the arena and its budget, zeroed.
    pub(crate) fn heap(len: usize) -> NewMem {
        NewMem::new(Block::heap(len), None)
    }

    /// Usable bytes.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The handle of a caller's bytes; else the memory again, to be filled.
    pub(crate) fn into_lent(self) -> Result<Arc<FolioMem>, NewMem> {
        if self.0.block.is_foreign() { Ok(Arc::new(self.0)) } else { Err(self) }
    }
}

/// A piece of one folio's memory that its owner may write. Its end, by whatever way, is counted.
struct Piece {
    mem: Arc<FolioMem>,
    start: usize,
    len: usize,
}

impl Piece {
    /// The first `n` bytes as a piece of their own. `n` is at most `len`.
    fn split_to(&mut self, n: usize) -> Piece {
        // Relaxed: this piece already holds the count above zero.
        self.mem.fill.fetch_add(PIECE, Ordering::Relaxed);
        let front = Piece { mem: Arc::clone(&self.mem), start: self.start, len: n };
        self.start += n;
        self.len -= n;
        front
    }

    /// Declares the first `n` bytes filled and gives them up. `n` is at most `len`.
    fn advance(&mut self, n: usize) {
        self.mem.fill.fetch_sub(n as u64, Ordering::Release);
        self.start += n;
        self.len -= n;
    }

    fn adjoins(&self, next: &Piece) -> bool {
        Arc::ptr_eq(&self.mem, &next.mem) && self.start + self.len == next.start
    }

    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: in bounds by construction; exclusive by M1.
        unsafe { std::slice::from_raw_parts_mut(self.mem.block.as_ptr().add(self.start), self.len) }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.mem.fill.fetch_sub(PIECE, Ordering::Release);
    }
}

/// Exclusive permission to fill a run of folio memory, in file order.
///
/// [`advance`](FillBuf::advance) declares bytes filled; dropping it gives the rest up for good,
/// unfilled, and that memory can then never be published.
pub(crate) struct FillBuf {
    pieces: SmallVec<[Piece; 2]>,
    len: usize,
}

impl FillBuf {
    pub(crate) fn empty() -> FillBuf {
        FillBuf { pieces: SmallVec::new(), len: 0 }
    }

    /// Permission for the first `len` bytes of `new`, and the handle its readers will use. What lies
    /// beyond `len` is zeroed here.
    ///
    /// # Panics
    /// If there are fewer, or they are a caller's: bugs of this crate.
    pub(crate) fn whole(new: NewMem, len: usize) -> (FillBuf, Arc<FolioMem>) {
        let all = new.len();
        assert!(len <= all, "fill beyond the folio");
        assert!(!new.0.block.is_foreign(), "a caller's bytes are never filled");
        new.0.fill.fetch_add(PIECE, Ordering::Relaxed);
        let mem = Arc::new(new.0);
        let mut front = Piece { mem: Arc::clone(&mem), start: 0, len: all };
        if len < all {
            let mut tail = Piece { mem: Arc::clone(&mem), start: len, len: all - len };
            mem.fill.fetch_add(PIECE, Ordering::Relaxed);
            front.len = len;
            tail.as_mut().fill(0);
            tail.advance(all - len);
        }
        let mut fill = FillBuf { pieces: SmallVec::new(), len };
        fill.pieces.push(front);
        (fill, mem)
    }

    /// Bytes that may still be written.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Appends another run. Neighbours in one folio become one piece again, so that an adapter never
    /// sees more memory segments than folios.
    pub(crate) fn append(&mut self, other: FillBuf) {
        self.len += other.len;
        for mut piece in other.pieces {
            match self.pieces.last_mut() {
                Some(last) if last.adjoins(&piece) => {
                    last.len += piece.len;
                    piece.len = 0; // its permission is the neighbour's now
                }
                _ => self.pieces.push(piece),
            }
        }
    }

    /// The first `n` bytes as a run of their own.
    ///
    /// # Panics
    /// If there are fewer: a bug of this crate.
    pub(crate) fn split_to(&mut self, n: usize) -> FillBuf {
        assert!(n <= self.len, "split beyond the end");
        let whole = self.whole_pieces(n);
        let mut front = FillBuf { pieces: self.pieces.drain(..whole).collect(), len: 0 };
        front.len = front.pieces.iter().map(|p| p.len).sum();
        if front.len < n {
            front.pieces.push(self.pieces[0].split_to(n - front.len));
        }
        front.len = n;
        self.len -= n;
        front
    }

    /// Declares the first `n` bytes filled and gives them up: they are settled.
    ///
    /// # Panics
    /// If there are fewer: a bug of this crate.
    pub(crate) fn advance(&mut self, n: usize) {
        assert!(n <= self.len, "advance beyond the end");
        let whole = self.whole_pieces(n);
        let mut left = n;
        for mut piece in self.pieces.drain(..whole) {
            left -= piece.len;
            piece.advance(piece.len);
        }
        if left > 0 {
            self.pieces[0].advance(left);
        }
        self.len -= n;
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

    /// How many pieces from the front lie wholly within the first `n` bytes.
    fn whole_pieces(&self, n: usize) -> usize {
        let mut end = 0;
        self.pieces
            .iter()
            .take_while(|p| {
                end += p.len;
                end <= n
            })
            .count()
    }
}

impl std::fmt::Debug for FillBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FillBuf({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n_c13_a_run_that_was_split_is_one_segment_again() {
        let (mut fill, mem) = FillBuf::whole(NewMem::heap(4096), 4096);
        let mut front = fill.split_to(1000);
        front.append(fill);
        assert_eq!(front.slices_mut().map(|s| s.len()).collect::<Vec<_>>(), [4096]);
        front.advance(4096);
        drop(front);
        assert!(mem.is_complete());
    }

    #[test]
    fn m2_memory_is_settled_only_when_every_filler_is_gone() {
        let (mut fill, mem) = FillBuf::whole(NewMem::heap(4096), 4096);
        let mut front = fill.split_to(1000);
        front.copy_in(&[7; 1000]);
        front.advance(1000);
        drop(front);
        assert!(!mem.is_settled());
        fill.zero(3096);
        fill.advance(3096);
        assert!(mem.is_complete(), "an emptied filler has given everything up");
        drop(fill);
        assert_eq!(mem.read_settled(999..1001), [7, 0]);
    }

    #[test]
    #[should_panic(expected = "being filled")]
    fn m2_reading_under_a_filler_is_refused() {
        let (_fill, mem) = FillBuf::whole(NewMem::heap(4096), 4096);
        mem.read_settled(0..1);
    }

    #[test]
    fn m3_bytes_given_up_unfilled_make_memory_unpublishable() {
        let (mut fill, mem) = FillBuf::whole(NewMem::heap(4096), 4096);
        fill.advance(4095);
        drop(fill);
        assert!(mem.is_settled() && !mem.is_complete());
    }

    #[test]
    fn m3_what_lies_beyond_the_wanted_length_is_zeroed() {
        let arena = super::super::arena::Arena::new(1 << 20);
        let dirty = arena.alloc(4096).expect("memory for a test");
        let (mut fill, mem) = FillBuf::whole(NewMem::new(dirty, None), 4096);
        fill.copy_in(&[0xff; 4096]);
        fill.advance(4096);
        drop((fill, mem));
        let recycled = arena.alloc(4096).expect("memory for a test");
        let (mut fill, mem) = FillBuf::whole(NewMem::new(recycled, None), 5);
        fill.copy_in(b"hello");
        fill.advance(5);
        assert_eq!(&mem.read_settled(0..6), b"hello\0");
        assert!(mem.read_settled(5..4096).iter().all(|b| *b == 0));
    }

    #[test]
    fn w1_the_callers_own_bytes_are_never_written_to() {
        let bytes = bytes::Bytes::from(vec![5; 4096]);
        let mem = FolioMem::foreign(bytes.clone(), None);
        assert!(mem.is_complete());
        assert_eq!(mem.read_settled(0..4096).as_ptr(), bytes.as_ptr(), "not a copy");
        // SAFETY: this is the only handle, and nobody else has ever seen it.
        assert!(unsafe { Exclusive::of(&mem) }.is_none());
        drop(mem);
        assert_eq!(bytes[0], 5);
    }

    #[test]
    fn runs_split_and_join_across_folios() {
        let (mut fill, a) = FillBuf::whole(NewMem::heap(8), 8);
        let (second, b) = FillBuf::whole(NewMem::heap(8), 8);
        fill.append(second);
        let mut front = fill.split_to(12);
        front.copy_in(b"abcdefghijkl");
        front.advance(12);
        assert_eq!((fill.len(), a.is_complete(), b.is_settled()), (4, true, false));
        fill.copy_in(b"mnop");
        fill.advance(4);
        assert!(b.is_complete());
        assert_eq!([a.read_settled(0..8), b.read_settled(0..8)].concat(), b"abcdefghijklmnop");
    }
}
