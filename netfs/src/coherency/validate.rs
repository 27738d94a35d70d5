//! From "stale" to "valid": which check to share, and waiting for it.

use std::{future::Future, pin::pin};

use futures_util::FutureExt;

use super::{
    cell::InodeCell,
    model::{StaleReason, Validity},
};
use crate::{
    clock::BootTime,
    driver::Handle,
    error::{Errno, Error, Result},
    sync::Arc,
    timer,
};

/// How many checks one caller goes through.
const MAX_ROUNDS: u32 = 8;

impl InodeCell {
    /// Makes the inode's cached data good for a caller that starts now: returns at once if a promise
    /// stands, else after a check issued from now on (or one that brought a promise) and after any
    /// drop it caused. Without any promise each call needs a check; concurrent ones share (P-D10).
    ///
    /// `check` is one flight, run on `driver`: sample, one RPC, [`apply`](Self::apply) as
    /// [`ReplyKind::Check`](super::model::ReplyKind::Check) (again, a bounded number of times, if
    /// [`Late`](super::model::Action::Late)), carry out a drop. `deadline` bounds this caller's wait,
    /// not the flight. `dropping` says that it waits for a drop now, until the value is dropped.
    ///
    /// # Errors
    /// `ESTALE` if the file is deleted or changes faster than it can be dropped, `ETIMEDOUT` at the deadline, else what `check` failed with.
    pub(crate) async fn validate<C, F, W>(
        self: &Arc<Self>,
        driver: &Handle,
        deadline: Option<BootTime>,
        check: C,
        dropping: impl Fn() -> W,
    ) -> Result<()>
    where
        C: FnOnce() -> F + Clone + Send + 'static,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let work = self.settle(driver, check, dropping);
        let Some(deadline) = deadline else { return work.await };
        timer::until(driver, &**self.volume().clock(), deadline, work).await.unwrap_or_else(|| {
            Err(Error::new(
                Errno::ETIMEDOUT,
                "the server did not confirm the file before the deadline",
            ))
        })
    }

    async fn settle<C, F, W>(
        self: &Arc<Self>,
        driver: &Handle,
        check: C,
        dropping: impl Fn() -> W,
    ) -> Result<()>
    where
        C: FnOnce() -> F + Clone + Send + 'static,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let valid = || self.valid_now() == Validity::Valid;
        if self.valid_now() == Validity::Stale(StaleReason::VolumeLapsed) {
            // Any file's check renews the volume's promise, so one for all its files is in the air.
            // It goes through that file's own gate; no flight of that gate waits for this one.
            let (inode, driver_2, check_2) = (Arc::clone(self), driver.clone(), check.clone());
            let renew = move || async move { inode.check_alone(&driver_2, check_2).await };
            // What it failed with concerns the file it was for; ours is asked about next.
            drop(self.volume().gate.run(driver, valid, renew).await);
        }
        if self.valid_now() == Validity::Valid {
            return Ok(());
        }
        for _ in 0..MAX_ROUNDS {
            if self.valid_now() == Validity::Deleted {
                return Err(deleted());
            }
            self.check_alone(driver, check.clone()).await?;
            let mut settled = pin!(self.settled());
            // Nearly always at once: nothing to list.
            if settled.as_mut().now_or_never().is_none() {
                let _listed = dropping();
                settled.await;
            }
            match self.valid_now() {
                Validity::Deleted => return Err(deleted()),
                // A drop was abandoned; the next check starts it again.
                Validity::Stale(StaleReason::Dropping) => {}
                Validity::Valid | Validity::Stale(_) => return Ok(()),
            }
        }
        Err(Error::new(Errno::ESTALE, "the file kept changing while it was being checked"))
    }

    async fn check_alone<C, F>(self: &Arc<Self>, driver: &Handle, check: C) -> Result<()>
    where
        C: FnOnce() -> F + Clone + Send + 'static,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        self.gate.run(driver, || self.valid_now() == Validity::Valid, check).await
    }
}

fn deleted() -> Error {
    Error::new(Errno::ESTALE, "the file was deleted on the server")
}
