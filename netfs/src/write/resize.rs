//! Another size for a file, and what it has in common with [holes](super::hole): calls to the server that
//! nothing may be written around.

use super::locks::Locks;
use crate::{
    coherency::{Epoch, Writing},
    dirtylog::Entry,
    errand::Errand,
    error::{Errno, Error, Result},
    inode::Inode,
    read::Who,
    remote::{Change, Version},
    sync::Arc,
    writeback::{conflict::OwnChanges, is_gone, perhaps_done, promised::know_ours_of},
};

/// Cuts the file at `size`, or extends it by zeros, on the server and here.
///
/// Nothing is on its way to the server meanwhile (A3.10): an upload that came after the cut would bring
/// bytes back. What is dirty below the new end stays so.
pub(crate) async fn set_size(
    who: &Who,
    size: u64,
    locks: impl Future<Output = Result<Locks>> + Send + 'static,
) -> Result<()> {
    let work = who.clone();
    let work = async move {
        let inode = &work.inode;
        inode.log_change().await;
        modifying(inode, async {
            let call = Call::begin(inode);
            // What lay past the smaller end is gone for good, from both caches.
            let changed = inode.sizes.load().remote_i_size.min(size)..u64::MAX;
            let reply = Arc::clone(&work.remote).set_size(size, work.cx.clone()).await;
            let change = &call.answered(&reply).await?;
            let end = inode.sizes.load().i_size.min(size);
            let known = call.known.as_ref();
            inode.cut(size, |sizes| _ = inode.changed_data(known, change, changed, sizes));
            inode.cell.tell_fronts(&(end..u64::MAX), work.origin);
            call.end(change);
            Ok(())
        })
        .await?;
        inode.log_changed(Entry::SetSize(size)).await
    };
    to_its_end(who, work, locks).await
}

/// Lets the file grow to `size` on the server; here it may have it already. Its turn is held.
///
/// What the server is told is a size: a promise that it has not kept, or that still runs, must not make that a
/// cut of what somebody else has appended. So it is asked first.
pub(super) async fn grow(who: &Who, size: u64) -> Result<()> {
    let inode = &who.inode;
    inode.cell.expire();
    inode.ensure_valid_in_turn(&who.remote, who.cx.clone()).await?;
    if inode.sizes.load().remote_i_size >= size {
        return Ok(());
    }
    modifying(inode, async {
        let call = Call::begin(inode);
        let changed = inode.sizes.load().remote_i_size..u64::MAX;
        let reply = Arc::clone(&who.remote).set_size(size, who.cx.clone()).await;
        let change = &call.answered(&reply).await?;
        let known = call.known.as_ref();
        inode.grew(size, |sizes| _ = inode.changed_data(known, change, changed, sizes));
        call.end(change);
        Ok(())
    })
    .await
}

/// Changes the file on the server by `work`, with its cache object marked meanwhile (row 126). Its turn is held.
pub(super) async fn modifying(
    inode: &Arc<Inode>,
    work: impl Future<Output = Result<()>>,
) -> Result<()> {
    inode.begin_modify().await;
    let done = work.await;
    inode.end_modify();
    done
}

/// Waits for `locks` and runs `work` with them, on the driver: what waits goes with its caller, what has begun goes
/// to its end, for what is written after a cut must not be cut. The caller waits no longer than its
/// deadline and the timeout for a call; the call itself is not given up, for it might come to the server late.
pub(super) async fn to_its_end(
    who: &Who,
    work: impl Future<Output = Result<()>> + Send + 'static,
    locks: impl Future<Output = Result<Locks>> + Send + 'static,
) -> Result<()> {
    let work = move |locks: Locks| async move {
        let result = work.await;
        drop(locks);
        result
    };
    let begun = Errand::start(&who.inode.core.driver, locks, work).begin().await?;
    who.by_call_deadline(begun.end()).await.unwrap_or_else(|| {
        let told = "the server did not answer in time; it may yet change the file";
        Err(Error::new(Errno::ETIMEDOUT, told))
    })
}

/// A call that changes the file, between its issue and what is made of its reply.
pub(crate) struct Call<'a> {
    inode: &'a Inode,
    own: OwnChanges<'a>,
    /// Until its reply is taken over, another version may be ours.
    _writing: Writing,
    /// The version before it, as far as is known here.
    pub(crate) known: Option<Version>,
    /// When that was.
    epoch: Epoch,
}

impl<'a> Call<'a> {
    pub(crate) fn begin(inode: &'a Inode) -> Call<'a> {
        let own = inode.wb.conflicts.own_changes(inode);
        let _writing = inode.cell.writing();
        let (known, epoch) = (inode.cell.version(), inode.cell.sample());
        Call { inode, own, _writing, known, epoch }
    }

    /// The reply's change, if there was one, to be taken over at once.
    pub(super) async fn answered(&self, reply: &Result<Change>) -> Result<Change> {
        let change = reply.as_ref().map_err(|error| {
            if perhaps_done(error) {
                self.inode.others_wrote();
            }
            if is_gone(error) {
                self.inode.mark_deleted();
            }
            error.clone()
        })?;
        Ok(know_ours_of(self.inode, change, self.known.as_ref(), &self.epoch).await)
    }

    /// The reply has been taken over.
    pub(crate) fn end(self, change: &Change) {
        self.own.end(change.after.version.as_slice());
    }
}
