//! Holes, zeros and reservations: `fallocate(2)`.
//!
//! Bytes that are dirty in a hole are gone when the server has made it: from memory, from the disk cache, and
//! from what is to be uploaded. None is on its way meanwhile (A3.10), so none comes back. A server that makes
//! no holes gets zeros written, by way of the page cache as any other bytes.

use std::ops::Range;

use super::{
    locks::Locks,
    resize::{Call, grow, modifying, to_its_end},
};
use crate::{dirtylog::Entry, error::Result, read::Who, sync::Arc};

/// What [`File::fallocate`](crate::File::fallocate) does with its range.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum FallocateMode {
    /// Reserves space; what is in the range stays as it is. (`fallocate` without flags)
    Allocate {
        /// The file does not grow to the range's end (`FALLOC_FL_KEEP_SIZE`).
        keep_size: bool,
    },
    /// Makes a hole: the range reads as zeros, its space is free, the size stays
    /// (`FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE`).
    PunchHole,
    /// The range reads as zeros (`FALLOC_FL_ZERO_RANGE`). Space is not reserved.
    ZeroRange {
        /// The file does not grow to the range's end.
        keep_size: bool,
    },
}

/// Reserves space on the server; the file grows to the end of `range` unless `keep_size`.
pub(crate) async fn allocate(
    who: &Who,
    range: Range<u64>,
    keep_size: bool,
    locks: impl Future<Output = Result<Locks>> + Send + 'static,
) -> Result<()> {
    let work = who.clone();
    let work = async move {
        let inode = &work.inode;
        let changing = async {
            let call = Call::begin(inode);
            let remote = Arc::clone(&work.remote);
            let changed = inode.sizes.load().remote_i_size..u64::MAX;
            let reply = remote.allocate(range.clone(), keep_size, work.cx.clone()).await;
            let change = &call.answered(&reply).await?;
            let size = if keep_size { 0 } else { range.end };
            let known = call.known.as_ref();
            inode.grew(size, |sizes| _ = inode.changed_data(known, change, changed, sizes));
            call.end(change);
            Ok(())
        };
        modifying(inode, changing).await
    };
    to_its_end(who, work, locks).await
}

/// Makes a hole of the part of `range` within the file. `EOPNOTSUPP` if the server cannot; then nothing has
/// changed.
pub(crate) async fn punch(
    who: &Who,
    range: Range<u64>,
    locks: impl Future<Output = Result<Locks>> + Send + 'static,
) -> Result<()> {
    let work = who.clone();
    let work = async move {
        let inode = &work.inode;
        let inside = |end: u64| range.start..range.end.min(end);
        let sizes = inode.sizes.load();
        let last = inside(sizes.i_size).end >= inode.pages.dirty_end();
        if last && sizes.i_size > sizes.remote_i_size && range.start < sizes.i_size {
            // The dirty bytes that were to make the server's file as long will not be sent any more.
            grow(&work, sizes.i_size).await?;
        }
        let range = inside(inode.sizes.load().i_size);
        if range.is_empty() {
            return Ok(());
        }
        inode.log_change().await;
        modifying(inode, async {
            let call = Call::begin(inode);
            let remote = Arc::clone(&work.remote);
            let reply = remote.deallocate(range.clone(), work.cx.clone()).await;
            let change = &call.answered(&reply).await?;
            let known = call.known.as_ref();
            inode.punched(&range, || inode.changed_data(known, change, range.clone(), &|| ()));
            inode.cell.tell_fronts(&range, work.origin);
            call.end(change);
            Ok(())
        })
        .await?;
        inode.log_changed(Entry::Hole(range)).await
    };
    to_its_end(who, work, locks).await
}

/// Lets the file grow to `size`, by zeros, if it is not that long.
pub(crate) async fn extend(
    who: &Who,
    size: u64,
    locks: impl Future<Output = Result<Locks>> + Send + 'static,
) -> Result<()> {
    let work = who.clone();
    let work = async move {
        if work.inode.sizes.load().i_size >= size { Ok(()) } else { grow(&work, size).await }
    };
    to_its_end(who, work, locks).await
}
