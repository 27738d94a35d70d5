//! The log of dirty bytes, as the core uses it ([`dirtylog`](crate::dirtylog) says what a log is).
//!
//! An fsync at level journal appends what is dirty and was not appended before, and makes it durable. From
//! then on the log has bytes that may become older than the server's: whatever brings bytes of that file to
//! the server, cuts them or gives them up, voids the records before anybody hears that it was done (L1).
//! Else a crash would bring them back over what was acknowledged later.
//!
//! - **L2** `unlogged` covers every dirty byte that no live record has in its present value.
//! - **L3** A record is appended under the file's lock here, together with the look at what is dirty. So an
//!   upload that makes the file clean either comes first, and nothing is appended, or finds the record.
//! - **L4** The log is checkpointed up to the first record of any file that is still needed.
//! - **L5** Records that are not voided have an owner: the inode stays on the flusher's list, and so alive, and
//!   the flusher tries again. A deleted file's inode leaves them to the one that takes its key's place.
//! - **L6** Of a file without a name nothing is logged: nobody could want it after a crash, and its key may be
//!   another file's by then.

use std::{collections::BTreeSet, ops::Range, time::Duration};

use bytes::Bytes;
use tokio::sync::Notify;

use super::{flush::in_turn, groups::What};
use crate::{
    clock::BootTime,
    context::Core,
    dirtylog::{DirtyLog, Entry, OwnerId, Position, Record},
    error::{Errno, Error, Result},
    folio::{Sent, Slice},
    inode::Inode,
    read::Who,
    request::ranges::Ranges,
    sync::{Arc, Mutex},
    timer,
    waits::WaitKind,
};

/// Longest a log is waited for before it counts as sick.
const PATIENCE: Duration = Duration::from_secs(5);
/// Separate ranges remembered as not logged; more become one.
const UNLOGGED_MAX: usize = 4096;
const WHOLE: Range<u64> = 0..u64::MAX;

/// The log of one context.
pub(crate) struct Journal {
    log: Arc<dyn DirtyLog>,
    live: Mutex<Live>,
}

#[derive(Default)]
struct Live {
    /// Extents that are still needed.
    needed: BTreeSet<Position>,
    last: Position,
}

impl Journal {
    /// `needed`: the extents that are in it from before; `last`: the last record of all.
    pub(crate) fn new(
        log: Arc<dyn DirtyLog>,
        needed: BTreeSet<Position>,
        last: Position,
    ) -> Journal {
        Journal { log, live: Mutex::new(Live { needed, last }) }
    }

    pub(crate) fn log(&self) -> &Arc<dyn DirtyLog> {
        &self.log
    }

    fn append(&self, record: Record) -> Result<Position> {
        let needed = matches!(record.entry, Entry::Extent { .. });
        // Held over the append: nobody checkpoints beyond a record that is not entered yet.
        let mut live = self.live.lock();
        let at = self.log.append(record)?;
        live.last = live.last.max(at);
        if needed {
            live.needed.insert(at);
        }
        Ok(at)
    }

    /// Waits until the log is durable up to `upto`, no longer than it has patience.
    async fn durable(&self, core: &Core, upto: Position, until: Option<BootTime>) -> Result<()> {
        let patience = core.clock.now() + PATIENCE;
        let until = until.map_or(patience, |until| until.min(patience));
        let work = core.driver.spawn(Arc::clone(&self.log).durable(upto));
        let result = timer::until(&core.driver, &*core.clock, until, work).await;
        let result = match result {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(Error::new(Errno::ESHUTDOWN, "this Netfs has been shut down")),
            // Not a passing failure: whoever tried again would wait again.
            None => Err(Error::new(Errno::EIO, "the log of dirty bytes does not answer")),
        };
        if let Err(error) = &result {
            core.counters.log_failed.inc();
            tracing::warn!(%error, "the log of dirty bytes failed");
        }
        result
    }

    /// `record` says that nobody needs the extents of a file any more.
    pub(crate) fn give_up(&self, record: Record, gone: &[Position]) -> Result<()> {
        self.append(record)?;
        self.forget(gone);
        Ok(())
    }

    /// Extents that nobody needs any more.
    fn forget(&self, gone: &[Position]) {
        let mut live = self.live.lock();
        for at in gone {
            live.needed.remove(at);
        }
        let before = |first: &Position| first.0.checked_sub(1).map(Position);
        // Nothing is before the first record of all.
        let Some(upto) = live.needed.first().map_or(Some(live.last), before) else { return };
        if let Err(error) = self.log.checkpoint(upto) {
            tracing::warn!(%error, "the log of dirty bytes was not checkpointed");
        }
    }
}

/// What the log has of one file.
#[derive(Default)]
pub(crate) struct Logged(Mutex<State>, Notify);

#[derive(Default)]
struct State {
    unlogged: Ranges,
    /// Extents that are needed, ascending.
    live: Vec<Position>,
    /// The last record that was appended about the file.
    last: Position,
    /// Records that should have been voided were not.
    unsettled: bool,
    /// Something was written since the first of `live` was made. Until then what comes back is what is on
    /// the server.
    stale: bool,
    /// Nothing is logged any more (L6).
    over: bool,
    /// See [`Inode::log_hold`].
    held: u32,
}

/// See [`Inode::log_hold`].
pub(crate) struct Held<'a>(&'a Logged);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.0.lock().held -= 1;
        self.0.1.notify_waiters();
    }
}

/// What of `range` the pieces, ascending and within it, leave out.
fn gaps(range: &Range<u64>, pieces: &[Sent]) -> Vec<Range<u64>> {
    let ends = pieces.iter().map(|piece| piece.range.end);
    let starts = pieces.iter().map(|piece| piece.range.start);
    let between = std::iter::once(range.start).chain(ends).zip(starts.chain([range.end]));
    between.filter(|(from, to)| from < to).map(|(from, to)| from..to).collect()
}

/// Memory of the page cache as the log gets it.
struct Lent(Slice);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Inode {
    /// Bytes were written.
    pub(crate) fn log_wrote(&self, range: Range<u64>) {
        if self.core.journal.is_none() {
            return;
        }
        let mut state = self.wb.logged.0.lock();
        state.unlogged.insert(range);
        state.stale = !state.live.is_empty();
        if state.unlogged.count() > UNLOGGED_MAX {
            state.unlogged.join_all();
        }
    }

    /// An fsync at level journal. False: the log cannot do it, so the bytes are to be uploaded.
    pub(crate) async fn log_fsync(&self, who: &Who) -> bool {
        let Some(journal) = &self.core.journal else { return false };
        // What cannot be uploaded is tried again and reported, as at any level.
        if !self.volume.is_replayable() || self.wb.parked().is_some() {
            return false;
        }
        if who.by_deadline(self.log_released()).await.is_err() {
            return false;
        }
        let (ranges, upto) = match self.log_dirty(journal) {
            Ok(Some(logged)) => logged,
            Ok(None) => return false,
            Err(error) => {
                self.core.counters.log_failed.inc();
                tracing::warn!(%error, "the log takes no dirty bytes; they are uploaded");
                return false;
            }
        };
        let _wait = self.waiting(WaitKind::Log, 0..0);
        if journal.durable(&self.core, upto, who.cx.deadline()).await.is_ok() {
            return true;
        }
        // Perhaps they are not in it: next time they are appended again.
        let mut state = self.wb.logged.0.lock();
        ranges.into_iter().for_each(|range| state.unlogged.insert(range));
        false
    }

    /// Appends what is dirty and not in the log, and voids what the log has of bytes that were written since and
    /// are clean by now (a round may have brought some to the server and then failed: nobody was told, and
    /// nothing was voided). Returns what was not logged, and up to where the log has to be durable.
    /// `None`: an upload has to do it.
    fn log_dirty(&self, journal: &Journal) -> Result<Option<(Vec<Range<u64>>, Position)>> {
        let mut state = self.wb.logged.0.lock();
        if state.over || state.unsettled || state.held > 0 || self.pages.dirty_bytes() == 0 {
            return Ok(None);
        }
        let ranges = std::mem::take(&mut state.unlogged).into_vec();
        if let Err(error) = self.log_ranges(journal, &mut state, &ranges) {
            ranges.into_iter().for_each(|range| state.unlogged.insert(range));
            return Err(error);
        }
        Ok(Some((ranges, state.last)))
    }

    fn log_ranges(
        &self,
        journal: &Journal,
        state: &mut State,
        ranges: &[Range<u64>],
    ) -> Result<()> {
        // The bytes of those are dirty, or older than the server's.
        let earlier = (!state.live.is_empty()).then_some(state.last);
        for range in ranges {
            let pieces = self.pages.peek_dirty(range);
            if let Some(upto) = earlier {
                for clean in gaps(range, &pieces) {
                    let entry = Entry::Settled { upto, range: clean };
                    state.last = journal.append(self.record(OwnerId(0), entry))?;
                }
            }
            for Sent { range, data, writer, group, .. } in pieces {
                let owner = self.wb.owner_id(writer);
                let data = Bytes::from_owner(Lent(data));
                let bytes = data.len() as u64;
                let group = group.map(|group| group.0);
                let entry = Entry::Extent { offset: range.start, data, group };
                state.last = journal.append(self.record(owner, entry))?;
                state.live.push(state.last);
                self.core.counters.log_bytes.add(bytes);
            }
        }
        Ok(())
    }

    fn record(&self, owner: OwnerId, entry: Entry) -> Record {
        let (volume, key) = (self.volume.id().clone(), self.key.clone());
        Record { volume, key, owner, version: self.cell.version(), entry }
    }

    /// What an upload is to be of, and which bytes it will have covered then: all there are, if the log has
    /// bytes of the file and what is asked for is not just a range (L1).
    pub(crate) fn log_covers(&self, what: What) -> (What, Range<u64>) {
        match what {
            What::Range(range) if range == WHOLE || !self.wb.has_groups() => {
                (What::Range(range.clone()), range)
            }
            _ if self.is_logged() => (What::Range(WHOLE), WHOLE),
            other => (other, 0..0),
        }
    }

    /// What is dirty now is about to be given up: nothing is appended to the log until the guard is dropped, so
    /// that what voids the records also voids those of the given-up bytes that an fsync would still append.
    /// The file's turn of writeback is held.
    pub(crate) fn log_hold(&self) -> Held<'_> {
        let mut state = self.wb.logged.0.lock();
        state.held += 1;
        // It will not be what is on the server.
        state.stale = !state.live.is_empty();
        Held(&self.wb.logged)
    }

    async fn log_released(&self) -> Result<()> {
        loop {
            let released = self.wb.logged.1.notified();
            if self.wb.logged.0.lock().held == 0 {
                return Ok(());
            }
            released.await;
        }
    }

    /// The last record of the file, before an upload begins.
    pub(crate) fn log_mark(&self) -> Position {
        self.wb.logged.0.lock().last
    }

    /// What records up to `mark` say of `range` is on the server, or is to be given up. Returns when they
    /// cannot come back.
    ///
    /// # Errors
    /// They might, after a crash, and something was written over them since.
    pub(crate) async fn log_settle(&self, mark: Position, range: &Range<u64>) -> Result<()> {
        let Some(journal) = &self.core.journal else { return Ok(()) };
        let Err(error) = self.void(journal, Some(mark), range).await else { return Ok(()) };
        let mut state = self.wb.logged.0.lock();
        if !state.stale {
            return Ok(());
        }
        state.unsettled = true;
        drop(state);
        let told = "the server has the bytes, but the log of dirty bytes failed";
        let told = format!("{told}, and may bring back older ones: {error}");
        Err(Error::new(error.errno(), told))
    }

    /// Voids what records up to `mark` (`None`: all there are) say of `range`; if nothing is dirty, all of them.
    async fn void(
        &self,
        journal: &Journal,
        mark: Option<Position>,
        range: &Range<u64>,
    ) -> Result<()> {
        // From before the record is there, so that who sees it sees the wait, too.
        let wait = self.waiting(WaitKind::Log, range.clone());
        let (gone, voided) = {
            let mut state = self.wb.logged.0.lock();
            let clean = self.pages.dirty_bytes() == 0;
            // L3: what was appended meanwhile had bytes that have become clean.
            let mark = mark.filter(|_| !clean).unwrap_or(state.last);
            if clean {
                state.unlogged = Ranges::default();
            }
            let count = state.live.partition_point(|at| *at <= mark);
            if count == 0 {
                return Ok(());
            }
            let range = if clean { WHOLE } else { range.clone() };
            let gone = if range == WHOLE { state.live[..count].to_vec() } else { Vec::new() };
            let entry = Entry::Settled { upto: mark, range };
            let voided = journal.append(self.record(OwnerId(0), entry));
            // An fsync that finds the bytes clean waits for this record, too.
            if let Ok(at) = &voided {
                state.last = *at;
            }
            (gone, voided)
        };
        journal.durable(&self.core, voided?, None).await?;
        drop(wait);
        let mut state = self.wb.logged.0.lock();
        state.live.retain(|at| gone.binary_search(at).is_err());
        state.stale &= !state.live.is_empty();
        state.unsettled &= !state.live.is_empty();
        drop(state);
        journal.forget(&gone);
        Ok(())
    }

    /// Whether neither memory nor the log has anything of the file that is still to be dealt with.
    pub(super) fn owes_nothing(&self) -> bool {
        self.pages.dirty_bytes() == 0 && !self.is_logged()
    }

    /// Whether the log has bytes of the file.
    fn is_logged(&self) -> bool {
        !self.wb.logged.0.lock().live.is_empty()
    }

    /// The server's file is about to be changed past the page cache (cut, punched, written directly): the
    /// log must not bring back what was before. The file's turn of writeback is held.
    ///
    /// What the log has is uploaded first. Where that fails, as it does for a parked file,
    /// [`log_changed`](Inode::log_changed) is to follow the change.
    pub(crate) async fn log_change(self: &Arc<Self>) {
        if self.is_logged()
            && let Err(error) = in_turn(self, What::Range(WHOLE), true).await
        {
            tracing::debug!(%error, "what the log has of a file could not be uploaded before a change");
        }
    }

    /// The change has been made. Returns when the log knows.
    ///
    /// # Errors
    /// It does not: after a crash bytes from before the change might come back.
    pub(crate) async fn log_changed(&self, entry: Entry) -> Result<()> {
        let Some(journal) = &self.core.journal else { return Ok(()) };
        if !self.is_logged() {
            return Ok(());
        }
        let noted = async {
            let at = journal.append(self.record(OwnerId(0), entry))?;
            journal.durable(&self.core, at, None).await
        };
        noted.await.inspect_err(|_| self.log_failed_to_void())
    }

    /// All that the log has of the file is about to be given up; it is [held](Inode::log_hold) until it is.
    ///
    /// # Errors
    /// The log may bring it back: then it is not to be given up.
    pub(crate) async fn log_discard(&self) -> Result<()> {
        let Some(journal) = &self.core.journal else { return Ok(()) };
        self.void(journal, None, &WHOLE).await.inspect_err(|_| self.log_failed_to_void())
    }

    /// The file has lost its last name: nothing of it is logged from here on. Returns when nothing comes back.
    ///
    /// # Errors
    /// It might, after a crash, should the server use the file's key for another one. The flusher goes on trying.
    pub(crate) async fn log_removed(&self) -> Result<()> {
        self.wb.logged.0.lock().over = true;
        self.log_discard().await
    }

    /// A record that voids others may or may not be in the log: what it voids must not be taken for logged, and
    /// what is acknowledged later has to wait until it has been voided.
    fn log_failed_to_void(&self) {
        let mut state = self.wb.logged.0.lock();
        state.unsettled = !state.live.is_empty();
        state.stale = state.unsettled;
    }

    /// Takes the place of `before`, whose file is deleted, under the same key: what could not be voided of its
    /// records would come back as bytes of this file (L5). Says whether there is anything.
    pub(crate) fn log_inherit(&self, before: &Inode) -> bool {
        let (live, last) = {
            let mut theirs = before.wb.logged.0.lock();
            theirs.over = true;
            (std::mem::take(&mut theirs.live), theirs.last)
        };
        let mut state = self.wb.logged.0.lock();
        (state.live, state.last) = (live, last);
        state.unsettled = !state.live.is_empty();
        state.stale = state.unsettled;
        state.unsettled
    }

    /// The records at `live`, from before a restart, are dirty bytes of the file again. Its next upload
    /// settles them.
    pub(crate) fn log_replayed(self: &Arc<Self>, live: Vec<Position>) {
        let mut state = self.wb.logged.0.lock();
        state.last = live.last().copied().unwrap_or_default().max(state.last);
        state.live.extend(live);
        state.live.sort_unstable();
        state.unlogged = Ranges::default();
        drop(state);
        // Some may have been uploaded already.
        self.core.flusher.note(self);
    }
}
