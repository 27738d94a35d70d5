//! Rounds over one file.

use std::ops::Range;

use super::{
    chain::{Chain, Outcome},
    is_personal, is_transient,
    upload::{Uploaded, upload},
};
use crate::{
    error::{Errno, Error, Result},
    folio::Sent,
    inode::Inode,
    remote::{Facts, Version},
    sync::Arc,
};

/// Bytes of one round.
const ROUND_MAX: u64 = 16 << 20;

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    /// Waits for its turn (sync-all).
    Turn,
    /// Goes away if another one is at it (sync-none).
    No,
}

/// Uploads what is dirty in `range` now, on the driver: who waits for it may go away. `Ok` says that
/// the server has it on stable storage.
pub(crate) async fn flush(inode: &Arc<Inode>, range: Range<u64>, wait: Wait) -> Result<()> {
    let work = Arc::clone(inode);
    let task = inode.core.driver.spawn(async move { flush_here(&work, range, wait).await });
    task.await.map_err(|_| Error::new(Errno::ESHUTDOWN, "this Netfs has been shut down"))?
}

async fn flush_here(inode: &Arc<Inode>, range: Range<u64>, wait: Wait) -> Result<()> {
    let turn = match wait {
        Wait::Turn => inode.wb.queue.lock().await,
        Wait::No => match inode.wb.queue.try_lock() {
            Ok(turn) => turn,
            Err(_) => return Ok(()),
        },
    };
    let result = in_turn(inode, range, wait == Wait::Turn).await;
    drop(turn);
    inode.core.flusher.round_over();
    result
}

/// The same for who has the turn already.
async fn in_turn(inode: &Arc<Inode>, range: Range<u64>, awaited: bool) -> Result<()> {
    let result = one_pass(inode, range, awaited).await;
    // A call may fail after its last byte: then, too, there is nothing to wait for.
    if inode.pages.dirty_bytes() == 0 {
        inode.wb.set_parked(None);
        inode.wb.forget_closed();
    } else if let Err(error) = &result
        && !is_transient(error)
    {
        inode.wb.set_parked(Some(error.clone()));
    }
    result
}

async fn one_pass(inode: &Arc<Inode>, range: Range<u64>, awaited: bool) -> Result<()> {
    // What is written behind it is for the next one.
    let mut at = range.start;
    while at < range.end {
        let sent = inode.pages.take_dirty(&(at..range.end), ROUND_MAX);
        let Some(last) = sent.last() else { break };
        at = last.range.end;
        round(inode, sent, awaited).await?;
    }
    Ok(())
}

/// Holds the file's turn, so that nothing is on its way to the server, until dropped.
pub(crate) async fn quiesce(inode: &Inode) -> tokio::sync::MutexGuard<'_, ()> {
    inode.wb.queue.lock().await
}

async fn round(inode: &Arc<Inode>, sent: Vec<Sent>, awaited: bool) -> Result<()> {
    let known = inode.cell.version();
    let mut chain = Chain::default();
    let mut error = None;
    let mut settled = Vec::new();
    for batch in batches(sent) {
        let up = if error.is_none() { send(inode, &batch, awaited).await } else { unsent(&batch) };
        for change in &up.changes {
            chain.add(change.before.clone(), change.after.clone());
        }
        if up.silent {
            chain.add(None, Facts::default());
        }
        error = error.or(up.error.clone());
        settled.push(up);
    }
    // In this order: the file's end and version first, so that no byte that has become clean and left
    // memory is looked for beyond a zero point of before, or under a version of before.
    let end = settled.iter().flat_map(|up| &up.stable).map(|r| r.end).max();
    if let Some(end) = end {
        inode.sizes.sent(end);
    }
    adopt(inode, chain, known.as_ref());
    for up in &settled {
        up.stable.iter().for_each(|range| inode.pages.written(range));
        up.unwritten.iter().for_each(|range| inode.pages.redirty(range));
    }
    inode.sizes.local_end(|| inode.pages.dirty_end());
    error.map_or(Ok(()), Err)
}

/// What the replies say of the file.
fn adopt(inode: &Inode, chain: Chain, known: Option<&Version>) {
    let now = inode.cell.version();
    let ours_still = now.as_ref() == known || chain.leads_to(now.as_ref());
    match chain.resolve(known) {
        Outcome::Nothing => {}
        Outcome::Ours(facts) if ours_still => inode.own_change(&facts),
        Outcome::Silent => inode.own_change(&Facts::default()),
        Outcome::Ours(facts) | Outcome::Others(facts) => {
            // With nothing known, nothing says that somebody did.
            if known.is_some() {
                inode.core.counters.write_conflicts.inc();
                let theirs = &facts.version;
                tracing::warn!(?known, now = ?theirs, "somebody else has written to a file too");
            }
            inode.others_wrote();
        }
    }
}

/// Sends a batch with its writer's credentials, or those of another writer if the server does not
/// accept them any more (A3.11). The error of the writer's own stands.
async fn send(inode: &Inode, batch: &[Sent], awaited: bool) -> Uploaded {
    let Some(first) = batch.first() else { return Uploaded::default() };
    let mut result = unsent(batch);
    for (remote, cx) in inode.wb.owners_for(first.writer) {
        let up = upload(inode, (&remote, &cx), batch, awaited).await;
        let refused = up.stable.is_empty() && up.error.as_ref().is_some_and(is_personal);
        let first_error = result.error.take();
        result = up;
        if !refused {
            return result;
        }
        result.error = first_error.or(result.error);
    }
    if result.error.is_none() {
        result.error = Some(Error::new(Errno::EBADF, "nobody is left on whose behalf to write"));
    }
    result
}

fn unsent(batch: &[Sent]) -> Uploaded {
    let unwritten = batch.iter().map(|p| p.range.clone()).collect();
    Uploaded { unwritten, ..Uploaded::default() }
}

/// Pieces of one group and one writer; groups in their order, which is the order they were begun in.
fn batches(mut sent: Vec<Sent>) -> Vec<Vec<Sent>> {
    sent.sort_by_key(|p| (p.group, p.writer.0, p.range.start));
    let mut batches: Vec<Vec<Sent>> = Vec::new();
    for piece in sent {
        match batches.last_mut() {
            Some(batch) if (batch[0].group, batch[0].writer) == (piece.group, piece.writer) => {
                batch.push(piece);
            }
            _ => batches.push(vec![piece]),
        }
    }
    batches
}
