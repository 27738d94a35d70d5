//! What keeps a file to one change of it.
//!
//! The write lock may be a caller's: it stops other writers, as any write that is under way does. All of
//! [`Locks`] stops uploads, too, so that only tasks of the driver wait for it and have it
//! ([`errand`](crate::errand)).

use std::ops::Range;

use tokio::sync::OwnedMutexGuard;

use crate::{
    error::{Errno, Error, Result},
    folio::Group,
    iomode::{Mode, ModeGuard},
    read::Who,
    sync::Arc,
    writeback::{
        flush::{Turn, Wait, flush_what, quiesce},
        groups::What,
    },
};

/// What a change of the file that goes straight to the server holds, taken in this order, the write lock first: its
/// caller waits for all of it, and takes it along on going away. Only what has been sent goes on without its caller.
pub(crate) struct Locks {
    /// Last, so that what is queued for a turn behind an upload that hangs keeps no reader of the cache waiting.
    _mode: ModeGuard,
    /// Nothing is on its way to the server.
    _turn: Turn,
    /// No other writer's.
    _write: Arc<OwnedMutexGuard<()>>,
}

impl Who {
    /// The file's write lock.
    pub(crate) async fn alone(&self) -> Result<OwnedMutexGuard<()>> {
        let lock = Arc::clone(&self.inode.wb.write);
        self.by_deadline(async { Ok(lock.lock_owned().await) }).await
    }

    /// The same for what goes straight to the server: no longer than a call may take, for the writer that has
    /// it may be waiting for an upload that hangs.
    pub(crate) async fn alone_in_time(&self) -> Result<OwnedMutexGuard<()>> {
        self.by_call_deadline(self.alone()).await.unwrap_or_else(|| {
            let told = "another write to the file has not ended; nothing was changed";
            Err(Error::new(Errno::ETIMEDOUT, told))
        })
    }

    /// What a change of the file that goes straight to the server holds besides the write lock. It waits no
    /// longer than until the caller's deadline, and than a call may take: what is being uploaded may hang.
    pub(crate) async fn held(
        &self,
        write: Arc<OwnedMutexGuard<()>>,
        mode: Mode,
        range: Range<u64>,
    ) -> Result<Locks> {
        let locks = async {
            let turn = quiesce(&self.inode).await;
            let mode = self.enter(mode, range).await?;
            Ok(Locks { _mode: mode, _turn: turn, _write: write })
        };
        self.by_call_deadline(locks).await.unwrap_or_else(|| {
            let told = "an upload of the file has not ended; nothing was changed";
            Err(Error::new(Errno::ETIMEDOUT, told))
        })
    }

    /// Has uploaded what a direct write of `range` must not overtake, while buffered readers go on.
    pub(crate) async fn sent_before(&self, range: Range<u64>, group: Option<Group>) -> Result<()> {
        let inode = &self.inode;
        if inode.pages.dirty_bytes() == 0 {
            return Ok(());
        }
        let rounds = async {
            if let Some(group) = group {
                flush_what(inode, What::Before(group), Wait::Turn).await?;
            }
            flush_what(inode, What::Range(range), Wait::Turn).await
        };
        self.by_call_deadline(rounds).await.unwrap_or_else(|| {
            let told = "what was written before has not been uploaded; nothing was written";
            Err(Error::new(Errno::ETIMEDOUT, told))
        })
    }
}
