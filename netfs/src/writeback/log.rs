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

use std::{collections::BTreeSet, ops::Range, time::Duration};

use bytes::Bytes;

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
pub(crate) struct Logged(Mutex<State>);

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
        let (ranges, upto) = match self.log_dirty(journal) {
            Ok(Some(logged)) => logged,
            Ok(None) => return false,
            Err(error) => {
                self.core.counters.log_failed.inc();
                tracing::warn!(%error, "the log takes no dirty bytes; they are uploaded");
                return false;
            }
        };
        if journal.durable(&self.core, upto, who.cx.deadline()).await.is_ok() {
            return true;
        }
        // Perhaps they are not in it: next time they are appended again.
        let mut state = self.wb.logged.0.lock();
        ranges.into_iter().for_each(|range| state.unlogged.insert(range));
        false
    }

    /// Appends what is dirty and not in the log. Returns that, and up to where the log has to be durable.
    /// `None`: that is not all; records of what is clean by now are still to be voided, which an upload does.
    fn log_dirty(&self, journal: &Journal) -> Result<Option<(Vec<Range<u64>>, Position)>> {
        let mut state = self.wb.logged.0.lock();
        if state.unsettled || self.pages.dirty_bytes() == 0 {
            return Ok(None);
        }
        let had_live = !state.live.is_empty();
        let ranges = std::mem::take(&mut state.unlogged).into_vec();
        let mut left: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        let version = self.cell.version();
        for range in &ranges {
            for piece in self.pages.peek_dirty(range) {
                let Sent { range, data, writer, .. } = piece;
                let owner = self.wb.owner_id(writer);
                let data = Bytes::from_owner(Lent(data));
                let bytes = data.len() as u64;
                let entry = Entry::Extent { offset: range.start, data };
                let record = Record { version: version.clone(), ..self.record(owner, entry) };
                let appended = journal.append(record).inspect_err(|_| {
                    ranges.iter().for_each(|range| state.unlogged.insert(range.clone()));
                })?;
                self.core.counters.log_bytes.add(bytes);
                state.live.push(appended);
                state.last = appended;
                left -= bytes;
            }
        }
        Ok((left == 0 || !had_live).then_some((ranges, state.last)))
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
        let (gone, voided) = {
            let mut state = self.wb.logged.0.lock();
            let clean = self.pages.dirty_bytes() == 0;
            // L3: what was appended meanwhile had bytes that have become clean.
            let mark = if clean { state.last } else { mark };
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
        let settled = async { journal.durable(&self.core, voided?, None).await };
        if let Err(error) = settled.await {
            let mut state = self.wb.logged.0.lock();
            if !state.stale {
                return Ok(());
            }
            state.unsettled = true;
            drop(state);
            let told = "the server has the bytes, but the log of dirty bytes failed";
            let told = format!("{told}, and may bring back older ones: {error}");
            return Err(Error::new(error.errno(), told));
        }
        let mut state = self.wb.logged.0.lock();
        state.live.retain(|at| gone.binary_search(at).is_err());
        state.stale &= !state.live.is_empty();
        state.unsettled &= !state.live.is_empty();
        drop(state);
        journal.forget(&gone);
        Ok(())
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
        let changed = async {
            let at = journal.append(self.record(OwnerId(0), entry))?;
            journal.durable(&self.core, at, None).await
        };
        changed.await.inspect_err(|_| {
            // What is fsynced next must not stand in the log behind what the change took away.
            self.wb.logged.0.lock().unsettled = true;
        })
    }

    /// All that the log has of the file is about to be given up.
    ///
    /// # Errors
    /// The log may bring it back: then it is not to be given up.
    pub(crate) async fn log_discard(&self) -> Result<()> {
        let Some(journal) = &self.core.journal else { return Ok(()) };
        if !self.is_logged() {
            return Ok(());
        }
        let entry = Entry::Settled { upto: self.log_mark(), range: WHOLE };
        let at = journal.append(self.record(OwnerId(0), entry))?;
        if let Err(error) = journal.durable(&self.core, at, None).await {
            // The record may yet become durable: what it voids must not be taken for logged.
            self.wb.logged.0.lock().unsettled = true;
            return Err(error);
        }
        let gone = std::mem::take(&mut self.wb.logged.0.lock().live);
        journal.forget(&gone);
        Ok(())
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
