//! A small write that nothing stands in the way of: on the spot, on the caller's thread.
//!
//! It takes the locks of [`buffered`](super::buffered), in the same order, where they are free, and makes the same checks;
//! whatever it finds in the way, it has changed nothing, and the write goes the long way.

use super::buffered::{Chunk, check_end};
use crate::{
    coherency::Validity,
    folio::{PAGE_SIZE, Piece},
    read::Who,
    writeback::Writing,
};

/// The longest write that is tried. Longer ones are mostly longer than a folio, too, or better off with memory
/// of their own; next to their copy the way does not count.
const QUICK_MAX: usize = 4 * PAGE_SIZE;

/// Writes all of `bytes` at `offset` into one folio; false if it wrote nothing.
pub(crate) fn write(who: &Who, writing: &Writing, offset: u64, bytes: &[u8]) -> bool {
    let inode = &who.inode;
    let share = inode.pages.share();
    if bytes.is_empty() || bytes.len() >= QUICK_MAX {
        return false;
    }
    if check_end(who, offset, bytes.len() as u64).is_err() {
        return false;
    }
    let Ok(_alone) = inode.wb.write.try_lock() else { return false };
    // A recall ends with the write lock: one that begins from here on uploads what is written now.
    if inode.wb.recalls.is_running() {
        return false;
    }
    let Some(taken) = share.try_take(bytes.len() as u64) else { return false };
    let enough = taken.bytes() == bytes.len() as u64 && share.may_hold(0);
    let mut chunk = Chunk::new(who, taken, offset);
    if !enough {
        return false;
    }
    if inode.core.check_open().is_err() || inode.check_not_parked().is_err() {
        return false;
    }
    let Some(mode) = inode.io.try_buffered() else { return false };
    if inode.cell.valid_now() != Validity::Valid {
        return false;
    }
    let (writer, now) = (inode.wb.writer(writing, &who.remote, &who.cx), inode.now());
    if !inode.pages.write_at_once(&Piece { offset, bytes, lent: None, writer, group: None, now }) {
        return false;
    }
    inode.wrote(now);
    drop(mode);
    chunk.done = bytes.len();
    drop(chunk);
    // What came in after the last flush of a shutdown is lost: nobody may think it is not. (It is written
    // again, the long way, which says so.)
    inode.core.check_open().is_ok()
}
