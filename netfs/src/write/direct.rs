//! Writes past the caches (rows 86 to 88).
//!
//! What is dirty in the range goes to the server before anything else, while buffered readers go on. Then, in
//! this order, with the file's write lock, its turn of writeback, so that none of its uploads runs beside it, and
//! the direct I/O mode held, so that no buffered read or write does (N-C39):
//!
//! 1. what has become dirty there since, and earlier write groups, go to the server: older bytes before newer;
//! 2. clean pages of the range are dropped, and fronts that map them are told;
//! 3. the caller's bytes are sent, one call after the other: an error leaves a contiguous prefix (row 87), whose
//!    length is returned. They are committed before the call returns, for nobody has them afterwards;
//! 4. the sizes grow by what was sent, and the version moves; then the range is dropped again (a readahead may
//!    have begun before) and forgotten by the disk cache, which keeps the rest (complaint 13).
//!
//! Once it has begun it is not given up (W-7): a caller whose deadline passes stops waiting, and does not know
//! how much was written.

use std::ops::Range;

use smallvec::SmallVec;

use super::{buffered::check_end, locks::Locks};
use crate::{
    dirtylog::Entry,
    errand::Errand,
    error::{Errno, Error, Result},
    folio::{GRANULE, Group, Sent, Slice, Writer},
    iomode::Mode,
    read::Who,
    remote::Facts,
    request::plan,
    sync::Arc,
    writeback::{
        chain::Chain,
        flush::{LOST_MAX, adopt, in_turn},
        groups::What,
        perhaps_done,
        promised::know_ours,
        upload::{How, Uploaded, parts_of, upload},
    },
};

/// Where a write goes.
#[derive(Clone, Copy)]
pub(crate) enum At {
    Offset(u64),
    /// Where the file ends by then.
    End,
}

/// Bytes of one write, and where they go.
struct Direct {
    offset: u64,
    data: Vec<Slice>,
    group: Option<Group>,
}

impl Who {
    /// Where a write of `len` bytes goes. The file's write lock is held.
    pub(crate) async fn place(&self, at: At, len: u64) -> Result<u64> {
        let inode = &self.inode;
        let offset = match at {
            At::Offset(offset) => return Ok(offset),
            At::End => {
                inode.ensure_valid(&self.remote, &self.cx).await?;
                inode.sizes.load().i_size
            }
        };
        check_end(self, offset, len)?;
        Ok(offset)
    }
}

/// Writes; returns where the server has the bytes on stable storage, at least one. Its locks are held until it has
/// ended, even if the caller has gone away by then.
pub(crate) async fn write(
    who: &Who,
    at: At,
    data: Vec<Slice>,
    group: Option<Group>,
) -> Result<Range<u64>> {
    let (queued, work) = (who.clone(), who.clone());
    let len = data.iter().map(|slice| slice.len() as u64).sum();
    let locks = async move { begin(&queued, at, len, group).await };
    let write = move |(offset, locks): (u64, Locks)| async move {
        let result = write_here(&work, Direct { offset, data, group }).await;
        drop(locks);
        result.map(|done| offset..offset + done)
    };
    let begun = Errand::start(&who.inode.core.driver, locks, write).begin().await?;
    who.by_deadline(begun.end()).await
}

/// What comes before anything is sent: says where, and holds the file.
async fn begin(who: &Who, at: At, len: u64, group: Option<Group>) -> Result<(u64, Locks)> {
    let one = who.alone_in_time().await?;
    who.inode.core.check_open()?;
    who.inode.check_not_parked()?;
    let offset = who.place(at, len).await?;
    let range = offset..offset + len;
    who.inode.wb.check_group(group)?;
    who.sent_before(range.clone(), group).await?;
    Ok((offset, who.held(Arc::new(one), Mode::Direct, range).await?))
}

async fn write_here(who: &Who, what: Direct) -> Result<u64> {
    let Direct { offset, data, group } = what;
    let inode = &who.inode;
    let pieces = pieces(offset, data);
    let Some(last) = pieces.last() else { return Ok(0) };
    let range = offset..last.range.end;
    if let Some(group) = group {
        in_turn(inode, What::Before(group), true).await?;
    }
    in_turn(inode, What::Range(range.clone()), true).await?;
    inode.log_change().await;
    // From here on something of it may come to the server.
    inode.wb.enter_group(group)?;
    let pages = plan::page_out(&range);
    drop_pages(who, &pages);
    inode.core.counters.dio_writes.inc();
    inode.begin_modify().await;
    let own_changes = inode.wb.conflicts.own_changes(inode);
    let writing = inode.cell.writing();
    let (known, epoch) = (inode.cell.version(), inode.cell.sample());
    let (sent, end) = send(who, &pieces).await;
    let done = end - offset;
    let mut chain = Chain::default();
    sent.changes.iter().for_each(|c| chain.add(c.before.clone(), c.after.clone()));
    if sent.silent {
        chain.add(None, Facts::default());
    }
    know_ours(inode, &mut chain, known.as_ref(), &epoch).await;
    let there = sent.stable.iter().map(|range| range.end).max();
    let ours = chain.versions();
    if done > 0 {
        inode.wrote(inode.now());
    }
    // Of the rest what is cached goes on under the new version (complaint 13). Row 105's `invalidate(DIO)`, which
    // turns the cache off until the last close (N-C50), is for writes the core does not see.
    adopt(inode, chain, known.as_ref(), there, std::slice::from_ref(&pages));
    own_changes.end(&ours);
    drop(writing);
    // Done, and not committed or not answered: nobody knows to which version and size.
    let half_done = done == 0 && (!sent.changes.is_empty() || sent.silent);
    if sent.error.as_ref().is_some_and(|error| half_done || perhaps_done(error)) {
        inode.others_wrote();
    }
    drop_pages(who, &pages);
    inode.end_modify();
    inode.core.counters.write_bytes.add(done);
    if done > 0 {
        // Older bytes must not come back over these.
        let upto = inode.log_mark();
        inode.log_changed(Entry::Settled { upto, range: offset..end }).await?;
    }
    match sent.error {
        Some(error) if done == 0 => Err(error),
        _ => Ok(done),
    }
}

/// Sends all, again what the server has lost before it was committed. Returns the end of what is on stable
/// storage without a gap.
async fn send(who: &Who, pieces: &[Sent]) -> (Uploaded, u64) {
    let start = pieces.first().map_or(0, |p| p.range.start);
    let end = pieces.last().map_or(start, |p| p.range.end);
    let mut all = Uploaded::default();
    let mut at = start;
    for _ in 0..=LOST_MAX {
        let rest = parts_of(pieces, std::slice::from_ref(&(at..end)));
        let up = upload(&who.inode, (&who.remote, &who.cx), &rest, How::serial()).await;
        all.changes.extend(up.changes);
        all.stable.extend(up.stable);
        all.silent |= up.silent;
        all.error = up.error;
        // Serial: what is missing is one run up to the end, or what a restart has lost.
        at = up.unwritten.iter().map(|r| r.start).min().unwrap_or(end);
        if at >= end || all.error.is_some() {
            return (all, at.min(end));
        }
    }
    let told = "the server keeps losing what it has not committed";
    all.error = Some(Error::new(Errno::EAGAIN, told));
    (all, at)
}

/// The caller's bytes as what an upload takes; a piece is a memory segment.
fn pieces(offset: u64, data: Vec<Slice>) -> Vec<Sent> {
    let mut at = offset;
    let mut pieces = Vec::with_capacity(data.len());
    for slice in data {
        for start in (0..slice.len()).step_by(GRANULE) {
            let part = slice.part(start..slice.len().min(start + GRANULE));
            let range = at..at + part.len() as u64;
            at = range.end;
            let folio_end = range.end;
            pieces.push(Sent {
                range,
                data: part,
                writer: Writer::default(),
                group: None,
                folio_end,
                known: SmallVec::new(),
            });
        }
    }
    pieces
}

fn drop_pages(who: &Who, pages: &Range<u64>) {
    who.inode.drop_range(pages.clone());
    // Nobody waits for the fronts: a page that is faulted in again is read after the write.
    who.inode.cell.tell_fronts(pages, who.origin);
}
