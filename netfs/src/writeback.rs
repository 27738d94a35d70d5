//! From dirty folios to the server (rows 70 to 85, B8, B11).
//!
//! | part | does |
//! |---|---|
//! | [`flush`](mod@flush) | rounds over one file: takes what is dirty, has it uploaded, settles it |
//! | [`groups`] | in which order the bytes of write groups go |
//! | [`upload`] | one upload: what [`request::write`](crate::request::write) decides, done |
//! | [`copy`] | the disk cache's copy of what was uploaded |
//! | [`chain`] | whether the versions of a round's replies say that nobody else wrote |
//! | [`promised`] | what those replies do not say, under a promise that nobody else writes |
//! | [`conflict`] | what becomes of dirty bytes when somebody else has changed the file |
//! | [`flusher`] | which files are flushed when nobody asks: by amount and by age |
//! | [`room`] | how much may be dirty, and who waits when it is |
//! | [`log`] | the log of dirty bytes on this machine's storage |
//! | [`recall`] | giving a promise back that the server recalls |
//! | [`park`] | files whose upload failed for good |
//! | [`quiet`] | reads and checks that uploads overtake |
//!
//! One round of a file at a time, in order of arrival (B11, N-C36). What is taken is a snapshot: slices,
//! whose bytes no later write changes. A range comes back clean only when the server has acknowledged it
//! on stable storage; else it is dirty again. **A failed upload loses nothing**: the bytes stay, fsync and
//! close report the error, new writes to the file get it, until an upload succeeds or the owner
//! [discards](crate::File::discard_dirty) them.

pub(crate) mod chain;
pub(crate) mod conflict;
mod copy;
pub(crate) mod flush;
pub(crate) mod flusher;
pub(crate) mod groups;
pub(crate) mod log;
pub(crate) mod park;
pub(crate) mod promised;
pub(crate) mod quiet;
pub(crate) mod recall;
pub(crate) mod room;
pub(crate) mod upload;

use std::ops::Range;

use crate::{
    dirtylog::OwnerId,
    error::{Errno, Error, Result},
    folio::{Group, Writer},
    inode::Inode,
    read::Who,
    remote::{Cx, DynFile, IoLimits},
    sync::{Arc, Mutex, Weak},
};

/// One inode's part in it.
#[derive(Default)]
pub(crate) struct Writeback {
    /// One writer at a time changes a file's bytes and size (row 88: as the kernel's inode lock).
    pub(crate) write: Arc<tokio::sync::Mutex<()>>,
    /// One round at a time.
    queue: Arc<tokio::sync::Mutex<()>>,
    pub(crate) logged: log::Logged,
    pub(crate) recalls: recall::Recalls,
    state: Mutex<State>,
    pub(crate) conflicts: conflict::Conflicts,
}

#[derive(Default)]
struct State {
    owners: Vec<Owner>,
    next_writer: u32,
    /// Why the last round failed for good.
    parked: Option<Error>,
    /// How many write groups were begun, and the one written in last: all before it are over.
    groups_begun: u64,
    group: Option<Group>,
    /// What is to be uploaded soon, by a task that waits for its turn.
    hinted: Option<Range<u64>>,
    /// What was discarded, and how often that happened.
    lost: Option<(u64, Error)>,
}

/// On whose behalf bytes were written.
struct Owner {
    writer: Writer,
    remote: DynFile,
    cx: Cx,
    /// Gone with the open file: then the owner is forgotten once nothing is dirty.
    open: Weak<()>,
}

/// What an open file knows of its writing.
pub(crate) struct Writing {
    inode: Arc<Inode>,
    writer: Mutex<Option<(Writer, Arc<()>)>>,
    /// Losses reported to this opener (N-C32).
    lost_seen: Mutex<u64>,
}

impl Writing {
    /// Of a file that was just opened, `to_write` or not. What was lost before is none of its business. Who may
    /// write can be asked for from now on: its credentials may do where those of others do not any more (A3.11).
    pub(crate) fn opened(who: &Who, to_write: bool) -> Writing {
        let wb = &who.inode.wb;
        let lost = wb.state.lock().lost.as_ref().map_or(0, |(times, _)| *times);
        let (inode, lost_seen) = (Arc::clone(&who.inode), Mutex::new(lost));
        let writing = Writing { inode, writer: Mutex::default(), lost_seen };
        if to_write {
            wb.writer(&writing, &who.remote, &who.cx);
        }
        writing
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        // With bytes of it on their way it is still needed; the last round forgets it.
        if self.writer.lock().take().is_some() {
            self.inode.wb.forget_closed(|| self.inode.pages.dirty_bytes() == 0);
        }
    }
}

impl Writeback {
    /// The number under which an open file's bytes are kept.
    pub(crate) fn writer(&self, of: &Writing, remote: &DynFile, cx: &Cx) -> Writer {
        let mut own = of.writer.lock();
        if let Some((writer, _)) = &*own {
            return *writer;
        }
        let open = Arc::new(());
        let mut state = self.state.lock();
        let writer = Writer(state.next_writer);
        state.next_writer = state.next_writer.wrapping_add(1);
        // Uploads outlast the call that wrote, and its deadline: who waits for one keeps to its own.
        let (remote, cx) = (Arc::clone(remote), cx.without_deadline());
        state.owners.push(Owner { writer, remote, cx, open: Arc::downgrade(&open) });
        drop(state);
        *own = Some((writer, open));
        writer
    }

    /// Whom to ask the server as for bytes of `writer`: first the writer, then the others, whose
    /// credentials may still be good when the writer's are not any more (A3.11).
    fn owners_for(&self, writer: Writer) -> Vec<(DynFile, Cx)> {
        let state = self.state.lock();
        let mut owners: Vec<&Owner> = state.owners.iter().collect();
        owners.sort_by_key(|o| o.writer != writer);
        owners.iter().map(|o| (Arc::clone(&o.remote), o.cx.clone())).collect()
    }

    /// All of them, to ask the server as.
    fn owners(&self) -> Vec<(DynFile, Cx)> {
        let state = self.state.lock();
        state.owners.iter().map(|o| (Arc::clone(&o.remote), o.cx.clone())).collect()
    }

    /// The limits of the server's calls, if anybody writes.
    fn limits(&self) -> Option<IoLimits> {
        let remote = self.state.lock().owners.first().map(|o| Arc::clone(&o.remote));
        remote.map(|remote| remote.limits())
    }

    /// Whose bytes `writer`'s are, for the log.
    fn owner_id(&self, writer: Writer) -> OwnerId {
        let state = self.state.lock();
        let owner = state.owners.iter().find(|owner| owner.writer == writer);
        // Never without one while anything is dirty; nobody's rights if it were.
        OwnerId(owner.map_or(u32::MAX, |owner| owner.cx.cred().uid))
    }

    /// Forgets who has closed the file, if nothing is dirty.
    fn forget_closed(&self, clean: impl FnOnce() -> bool) {
        let mut state = self.state.lock();
        let gone = |o: &&Owner| o.open.strong_count() == 0;
        let closed: Vec<Writer> = state.owners.iter().filter(gone).map(|o| o.writer).collect();
        // Asked after who is gone: what somebody wrote before closing the file is seen.
        if closed.is_empty() || !clean() {
            return;
        }
        let gone = |o: &mut Owner| closed.contains(&o.writer);
        let closed: Vec<Owner> = state.owners.extract_if(.., gone).collect();
        drop(state);
        // An adapter's file and token go outside the lock.
        drop(closed);
    }

    /// Notes a hint to upload `range` soon. False: one is waiting already, and is about this too.
    pub(crate) fn hint(&self, range: Range<u64>) -> bool {
        let mut state = self.state.lock();
        let first = state.hinted.is_none();
        let hinted = state.hinted.get_or_insert_with(|| range.clone());
        *hinted = hinted.start.min(range.start)..hinted.end.max(range.end);
        first
    }

    /// What is hinted at; from here on the next hint is another one.
    pub(crate) fn take_hint(&self) -> Option<Range<u64>> {
        self.state.lock().hinted.take()
    }

    /// The next write group of the file.
    pub(crate) fn begin_group(&self) -> Group {
        let mut state = self.state.lock();
        state.groups_begun += 1;
        Group(state.groups_begun)
    }

    /// A group of before a restart, and after it those that begin from here on.
    pub(crate) fn group_again(&self, number: u64) -> Group {
        let mut state = self.state.lock();
        state.groups_begun = state.groups_begun.max(number);
        Group(number)
    }

    /// Whether `group` is not over: nothing of it may be written once something of a later one has been, for that may
    /// be on the server already.
    pub(crate) fn check_group(&self, group: Option<Group>) -> Result<()> {
        let last = self.state.lock().group;
        if group.is_some_and(|group| last.is_some_and(|last| group < last)) {
            let told = "bytes of a later write group were written to this file; begin another one";
            return Err(Error::new(Errno::EINVAL, told));
        }
        Ok(())
    }

    /// Somebody is about to write in `group`, or in none, with the write lock. Returns which was the last one.
    pub(crate) fn enter_group(&self, group: Option<Group>) -> Result<Option<Group>> {
        self.check_group(group)?;
        let mut state = self.state.lock();
        let before = state.group;
        state.group = group.or(before);
        Ok(before)
    }

    /// Nothing was written since it was [entered](Writeback::enter_group): the one before is not over.
    pub(crate) fn left_group(&self, before: Option<Group>) {
        self.state.lock().group = before;
    }

    /// Whether anything was ever written in a group.
    fn has_groups(&self) -> bool {
        self.state.lock().group.is_some()
    }

    /// Whether a round is under way.
    fn is_busy(&self) -> bool {
        self.queue.try_lock().is_err()
    }

    /// Why bytes of this file could not be uploaded, if the last attempt failed for good.
    pub(crate) fn parked(&self) -> Option<Error> {
        self.state.lock().parked.clone()
    }

    fn change_parked(&self, change: impl FnOnce(&mut Option<Error>)) {
        change(&mut self.state.lock().parked);
    }

    /// Bytes were given up that had failed with `error`.
    pub(crate) fn note_lost(&self, error: Error) {
        let mut state = self.state.lock();
        let times = state.lost.as_ref().map_or(0, |(n, _)| *n) + 1;
        state.lost = Some((times, error));
    }

    /// The loss an opener has not heard of yet; it has now.
    pub(crate) fn take_lost(&self, of: &Writing) -> Option<Error> {
        let state = self.state.lock();
        let (times, error) = state.lost.as_ref()?;
        let mut seen = of.lost_seen.lock();
        (std::mem::replace(&mut *seen, *times) < *times).then(|| error.clone())
    }
}

/// Whether an upload that failed so is worth another try by itself.
pub(crate) fn is_transient(error: &Error) -> bool {
    matches!(
        error.errno(),
        Errno::EAGAIN
            | Errno::EINTR
            | Errno::ENOMEM
            | Errno::ETIMEDOUT
            | Errno::ECONNRESET
            | Errno::ECONNREFUSED
            | Errno::ECONNABORTED
            | Errno::ENOTCONN
            | Errno::EPIPE
            | Errno::EHOSTUNREACH
            | Errno::ENETUNREACH
            | Errno::ENETDOWN
            | Errno::ECANCELED
    )
}

/// Whether a call that failed so may have been done all the same: the reply was lost, or the server's disk failed
/// half-way.
pub(crate) fn perhaps_done(error: &Error) -> bool {
    is_transient(error) || error.errno() == Errno::EIO
}

/// Whether the error says that the file does not exist any more.
pub(crate) fn is_gone(error: &Error) -> bool {
    matches!(error.errno(), Errno::ESTALE | Errno::ENOENT)
}

/// Whether the error is about credentials, so that another writer's may do.
pub(crate) fn is_personal(error: &Error) -> bool {
    matches!(
        error.errno(),
        Errno::EACCES
            | Errno::EPERM
            | Errno::ENOKEY
            | Errno::EKEYEXPIRED
            | Errno::EKEYREVOKED
            | Errno::EKEYREJECTED
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_one_until_they_are_taken() {
        let writeback = Writeback::default();
        assert!(writeback.hint(10..20), "the first one has a task");
        assert!(!writeback.hint(0..5) && !writeback.hint(12..30), "which is about these, too");
        assert_eq!(writeback.take_hint(), Some(0..30));
        assert_eq!(writeback.take_hint(), None);
        assert!(writeback.hint(1..2));
    }
}
