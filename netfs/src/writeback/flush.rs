//! Rounds over one file.

use std::{borrow::Cow, ops::Range};

use super::{
    chain::{Chain, Outcome},
    conflict,
    copy::{Before, Copy},
    groups::{Part, What, parts},
    is_gone, is_personal, is_transient,
    promised::know_ours,
    upload::{How, Uploaded, parts_of, upload},
};
use crate::{
    coherency::Validity,
    context::Core,
    driver, errand,
    error::{Errno, Error, Result},
    folio::{Sent, Unit},
    fscache::Identity,
    inode::Inode,
    remote::{Facts, Version},
    sync::Arc,
    waits::WaitKind,
};

/// Bytes of one round.
const ROUND_MAX: u64 = 16 << 20;
/// Times in a row that a server may lose what it has not committed.
pub(crate) const LOST_MAX: u32 = 4;

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    /// Waits for its turn (sync-all).
    Turn,
    /// Goes away if another one is at it (sync-none).
    No,
}

/// Uploads what is dirty in `range` now, on the driver: who waits for it may go away. What is queued then leaves
/// the queue, a round that has begun goes on. `Ok` says that the server has it on stable storage.
pub(crate) async fn flush(inode: &Arc<Inode>, range: Range<u64>, wait: Wait) -> Result<()> {
    flush_what(inode, What::Range(range), wait).await
}

/// The same for what is asked for in other words.
pub(crate) async fn flush_what(inode: &Arc<Inode>, what: What, wait: Wait) -> Result<()> {
    flush_or_pass(inode, what, wait).await.map(drop)
}

/// The same. `Ok(false)`: another round was under way, and nothing is known of how it ended.
pub(super) async fn flush_or_pass(inode: &Arc<Inode>, what: What, wait: Wait) -> Result<bool> {
    let (queued, inode) = (Arc::clone(inode), Arc::clone(inode));
    let driver = inode.core.driver.clone();
    let turn = async move {
        Ok(match wait {
            Wait::Turn => Some(quiesce(&queued).await),
            Wait::No => try_turn(&queued),
        })
    };
    let round = move |turn| async move {
        let Some(_turn) = turn else { return Ok(false) };
        in_turn(&inode, what, wait == Wait::Turn).await.map(|()| true)
    };
    errand::run(&driver, turn, round).await
}

/// The same for who has the turn already.
pub(crate) async fn in_turn(inode: &Arc<Inode>, what: What, awaited: bool) -> Result<()> {
    let (what, covered) = inode.log_covers(what);
    let logged = inode.log_mark();
    let mut result = all_parts(inode, &what, awaited).await;
    // Not by the error alone: that of a conflict, too, is ESTALE.
    if let Err(error) = &result
        && is_gone(error)
        && inode.cell.valid_now() == Validity::Deleted
    {
        if conflict::keep_removed(inode).await {
            log_forgets(inode).await;
            result = Ok(());
        } else {
            give_up(inode, error).await;
        }
    }
    // A call may fail after its last byte: then, too, there is nothing to wait for.
    if inode.pages.dirty_bytes() == 0 {
        inode.nothing_dirty();
        inode.wb.forget_closed(|| inode.pages.dirty_bytes() == 0);
    }
    match &result {
        Ok(()) if covered == (0..u64::MAX) => inode.unpark(),
        Err(error) if !is_transient(error) => {
            inode.park(error);
            // Whoever has chosen to merge since the round looked at the policy found nothing parked yet.
            let conflict = is_gone(error) && inode.cell.valid_now() != Validity::Deleted;
            if conflict && inode.conflict_policy().is_merge() {
                inode.unpark();
            }
        }
        _ => {}
    }
    inode.end_modify();
    result?;
    inode.log_settle(logged, &covered).await
}

/// The file does not exist any more: nobody will ever take its bytes. Whoever has it open is told once, as
/// after a [discard](Inode::discard_dirty), and nothing more can be written. (Who is in the middle of a
/// write may still bring some in: the flusher comes for those.)
async fn give_up(inode: &Inode, error: &Error) {
    let bytes = inode.pages.dirty_bytes();
    if bytes == 0 {
        return;
    }
    tracing::warn!(bytes, "a file was deleted on the server while it had bytes to upload");
    let _held = inode.log_hold();
    log_forgets(inode).await;
    inode.discard_dirty();
    inode.core.counters.write_removed_bytes.add(bytes);
    inode.wb.note_lost(error.clone());
}

async fn log_forgets(inode: &Inode) {
    if let Err(error) = inode.log_removed().await {
        // The flusher tries again; a replay would find that the file is gone.
        tracing::warn!(%error, "the log of dirty bytes keeps those of a deleted file for now");
    }
}

async fn all_parts(inode: &Arc<Inode>, what: &What, awaited: bool) -> Result<()> {
    for part in parts(inode, what) {
        // What does not follow what failed is not sent: its group comes later.
        one_pass(inode, part, awaited).await?;
    }
    Ok(())
}

async fn one_pass(inode: &Arc<Inode>, part: Part, awaited: bool) -> Result<()> {
    let Part { range, which } = part;
    // What is written behind it is for the next one.
    let (mut at, mut lost) = (range.start, 0);
    if inode.pages.dirty_bytes() > 0 {
        inode.begin_modify().await;
    }
    while at < range.end {
        conflict::before_upload(inode).await?;
        let before = Before::new(inode);
        let rest = at..range.end;
        let mut sent = inode.pages.take_dirty_of(&rest, ROUND_MAX, which, unit(inode));
        let Some(last) = sent.last() else { break };
        let end = last.range.end;
        let copy = before.taken(inode, &mut sent);
        let ended = round(inode, sent, copy, awaited).await;
        // The server itself has refused the bytes so.
        if ended.as_ref().err().is_some_and(is_gone) {
            inode.mark_deleted();
        }
        match ended? {
            Round::Done => (at, lost) = (end, 0),
            Round::Lost if lost < LOST_MAX => lost += 1,
            Round::Lost => {
                let told = "the server keeps losing what it has not committed";
                return Err(Error::new(Errno::EAGAIN, told));
            }
        }
    }
    Ok(())
}

/// What the server of a file likes to be sent: any writer's handle knows. Bytes around written ones go along only
/// while what is in memory is vouched for: somebody has changed them, perhaps, and then ours are old.
fn unit(inode: &Inode) -> Unit {
    let vouched = inode.cell.valid_now() == Validity::Valid;
    let limits = inode.wb.limits().filter(|_| vouched);
    let bytes = limits.map_or(1, |limits| u64::from(limits.upload_unit));
    Unit { bytes, size: inode.sizes.load().i_size }
}

/// A file's turn. The flusher, which passed the file by meanwhile, looks again at its end.
pub(crate) struct Turn {
    held: Option<tokio::sync::OwnedMutexGuard<()>>,
    core: Arc<Core>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.held = None;
        self.core.flusher.round_over();
    }
}

/// Holds the file's turn, so that nothing is on its way to the server, until dropped. For tasks of the driver
/// only, which are always polled ([`errand`]).
pub(crate) async fn quiesce(inode: &Inode) -> Turn {
    debug_assert!(driver::is_here(), "a turn that comes to a caller's future may stay there");
    if let Some(turn) = try_turn(inode) {
        return turn;
    }
    let _wait = inode.waiting(WaitKind::Turn, 0..0);
    let held = Arc::clone(&inode.wb.queue).lock_owned().await;
    Turn { held: Some(held), core: Arc::clone(&inode.core) }
}

/// The same if nobody has it or waits for it.
fn try_turn(inode: &Inode) -> Option<Turn> {
    let held = Arc::clone(&inode.wb.queue).try_lock_owned().ok()?;
    Some(Turn { held: Some(held), core: Arc::clone(&inode.core) })
}

/// What a round without an error came to.
enum Round {
    /// The server has all of it on stable storage.
    Done,
    /// Some of it the server has lost again, by a restart before it was committed.
    Lost,
}

/// Bytes on their way. A round that is dropped half-way, by a driver that ends, leaves them dirty: else the
/// next one, finding nothing to send, would say that all is on the server.
pub(super) struct OnTheirWay<'a> {
    inode: &'a Inode,
    ranges: Vec<Range<u64>>,
}

impl<'a> OnTheirWay<'a> {
    pub(super) fn new(inode: &'a Inode, ranges: Vec<Range<u64>>) -> OnTheirWay<'a> {
        OnTheirWay { inode, ranges }
    }

    /// Each range is settled by itself.
    pub(super) fn end(&mut self) {
        self.ranges.clear();
    }
}

impl Drop for OnTheirWay<'_> {
    fn drop(&mut self) {
        self.ranges.iter().for_each(|range| self.inode.pages.redirty(range));
    }
}

async fn round(inode: &Arc<Inode>, sent: Vec<Sent>, copy: Copy, awaited: bool) -> Result<Round> {
    let ranges = sent.iter().map(|piece| piece.range.clone()).collect();
    let mut on_their_way = OnTheirWay::new(inode, ranges);
    let own_changes = inode.wb.conflicts.own_changes(inode);
    // Until the versions of its replies are known.
    let _writing = inode.cell.writing();
    let known = copy.known.clone();
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
    know_ours(inode, &mut chain, known.as_ref(), &copy.epoch).await;
    // In this order: the file's end and version first, so that no byte that has become clean and left
    // memory is looked for beyond a zero point of before, or under a version of before.
    let end = settled.iter().flat_map(|up| &up.stable).map(|r| r.end).max();
    let ours = chain.versions();
    let identity = adopt(inode, chain, known.as_ref(), end, &copy.changed);
    own_changes.end(&ours);
    // From here on without an await.
    on_their_way.end();
    for up in &settled {
        up.stable.iter().for_each(|range| inode.pages.written(range));
        up.unwritten.iter().for_each(|range| inode.pages.redirty(range));
    }
    let unwritten: Vec<_> = settled.iter().flat_map(|up| up.unwritten.iter().cloned()).collect();
    let whole = unwritten.is_empty();
    if let Some(identity) = identity {
        copy.offer(inode, &identity, &unwritten);
    }
    error.map_or(Ok(if whole { Round::Done } else { Round::Lost }), Err)
}

/// What the replies say of the file, of which the server has bytes up to `end` now, some of `changed`.
/// Returns what the disk's object is about, if it is known to be the file as we left it.
pub(crate) fn adopt(
    inode: &Inode,
    chain: Chain,
    known: Option<&Version>,
    end: Option<u64>,
    changed: &[Range<u64>],
) -> Option<Identity> {
    let now = inode.cell.version();
    let sent = |end| inode.sizes.sent(end);
    let told = chain.names_all();
    let ours_still = now.as_ref() == known || chain.leads_to(now.as_ref());
    let outcome = chain.resolve(known);
    if let Outcome::Ours(facts) = &outcome
        && ours_still
    {
        return inode.own_change_of(facts, || end.into_iter().for_each(sent), changed);
    }
    end.into_iter().for_each(sent);
    match outcome {
        // Which of the replies is the last one they do not tell, so neither what the attributes are.
        Outcome::Nothing => {
            if let Some(end) = end {
                let facts = Facts::default();
                inode.own_unversioned_change(&facts, || sent(end));
            }
        }
        Outcome::Silent => inode.own_change(&Facts::default()),
        Outcome::Ours(facts) | Outcome::Others(facts) => {
            // With nothing known, nothing says that somebody did.
            match known {
                Some(base) if told => inode.merged_with(base, facts.version.as_ref()),
                Some(base) => inode.count_conflict(base, facts.version.as_ref()),
                None => {}
            }
            // Of bytes that came there nobody has stated the time.
            if end.is_some() { inode.others_wrote_too(|| ()) } else { inode.others_wrote() }
        }
    }
    None
}

/// Sends a batch with its writer's credentials, and what the server does not accept from that one any more
/// with those of other writers (A3.11). If none will do the error of the writer's own stands.
async fn send(inode: &Inode, batch: &[Sent], awaited: bool) -> Uploaded {
    let Some(first) = batch.first() else { return Uploaded::default() };
    let owners = inode.wb.owners_for(first.writer);
    let nobody = Error::new(Errno::EBADF, "nobody is left on whose behalf to write");
    let mut all = Uploaded { error: owners.is_empty().then_some(nobody), ..unsent(batch) };
    let mut rest = Cow::Borrowed(batch);
    for (remote, cx) in owners {
        let up = upload(inode, (&remote, &cx), &rest, How::parallel(awaited)).await;
        all.stable.extend(up.stable);
        all.changes.extend(up.changes);
        all.silent |= up.silent;
        all.unwritten = up.unwritten;
        match up.error {
            Some(error) if is_personal(&error) => _ = all.error.get_or_insert(error),
            error => {
                all.error = error;
                break;
            }
        }
        rest = Cow::Owned(parts_of(batch, &all.unwritten));
    }
    all
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
