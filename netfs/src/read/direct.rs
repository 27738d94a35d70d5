//! Reads past both caches (row 46): sliced by the server's limit, issued without waiting for each
//! other, counted up to the first byte that is missing (row 36, N-C16).

use std::ops::Range;

use super::{
    Slices, Who,
    buffered::{Reader, run_transient},
    fetch::{Fetch, Plan, Span, Target, Transient, len_of},
};
use crate::{
    errand,
    error::Result,
    folio::{Origin, memory::FillBuf},
    iomode::Mode,
    request::plan,
};

/// Most bytes of one direct request; longer reads are several, in order.
const DIRECT_MAX: u64 = 8 << 20;

/// Reads `[offset, offset + len)` from the server, at most [`DIRECT_MAX`] of it. Empty at or past the
/// end of the file, and for `len` 0 (upstream's EIO for that is not copied).
pub(crate) async fn read(who: &Who, offset: u64, len: u64) -> Result<Slices> {
    if len == 0 {
        return Ok(Slices::new());
    }
    // Buffered I/O waits for it, and behind it: that must not be for a caller to poll.
    let work = who.clone();
    errand::accompany(&who.inode.core.driver, async move { read_here(&work, offset, len).await })
        .await
}

async fn read_here(who: &Who, offset: u64, len: u64) -> Result<Slices> {
    let inode = &who.inode;
    // N-C39: never beside buffered I/O on this inode.
    let _mode = who.enter(Mode::Direct, offset..offset.saturating_add(len)).await?;
    inode.ensure_valid(&who.remote, &who.cx).await?;
    inode.core.counters.dio_reads.inc();
    let mut quiet = who.quiet();
    loop {
        let mark = who.settled().await?;
        let sizes = inode.sizes.load();
        let end = sizes.i_size.min(offset.saturating_add(len.min(DIRECT_MAX)));
        if offset >= end {
            return Ok(Slices::new());
        }
        let Transient { slices, replan, .. } = once(who, offset..end).await?;
        // A file that was resized meanwhile: its new bytes with its old end would be of no version.
        if !replan && inode.unchanged(mark) {
            let n: usize = slices.iter().map(|s| s.len()).sum();
            inode.core.counters.miss_bypass_bytes.add(n as u64);
            return Ok(slices);
        }
        who.again(&mut quiet).await?;
    }
}

async fn once(who: &Who, range: Range<u64>) -> Result<Transient> {
    let inode = &who.inode;
    inode.core.check_open()?;
    let sizes = inode.sizes.load();
    let epoch = inode.cell.sample();
    let slices = plan::plan(range.clone(), &sizes, None);
    let limits = who.remote.limits();
    let plan = Plan { slices, sizes, epoch, access: None, of: None, limits, ahead: false };
    let new = inode.core.folios.transient(len_of(&range));
    let (fill, mem) = FillBuf::whole(new, len_of(&range));
    let span = Span { range, target: Target::Transient(mem), origin: Origin::Bypass };
    let reader = Reader { who, cookie: None, ahead: None };
    run_transient(Fetch::new(who.clone(), plan, vec![span], fill), &reader).await
}
