//! Calls that wait for locks and then do what must not be given up half-way.
//!
//! A lock that comes to a future is held until that is polled or dropped, and a caller may keep a future without
//! polling it: a `select!` that went another way, a task that is blocked. So whatever waits for a file's
//! [turn](crate::writeback::flush::Turn), or has it, is a task of the driver from its start, and its caller waits
//! for what comes of that. What is still waiting goes with its caller; what has begun goes on.

use std::pin::pin;

use futures_util::future::{Either, select};
use tokio::sync::oneshot;

use crate::{
    driver::{self, Handle, JoinHandle},
    error::{Errno, Error, Result},
};

/// A call on the driver that has not begun yet, as far as is known. Dropped, it will not.
#[must_use = "dropping it gives it up"]
pub(crate) struct Errand<T> {
    begun: oneshot::Receiver<()>,
    task: JoinHandle<Result<T>>,
}

/// One that has begun. Dropped, it goes on.
pub(crate) struct Begun<T>(JoinHandle<Result<T>>);

impl<T: Send + 'static> Errand<T> {
    /// Waits for `locks`, which may be dropped at any of its awaits, and then does `work` with them, to its end.
    pub(crate) fn start<L, F>(
        driver: &Handle,
        locks: impl Future<Output = Result<L>> + Send + 'static,
        work: impl FnOnce(L) -> F + Send + 'static,
    ) -> Errand<T>
    where
        L: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let (mut tell, begun) = oneshot::channel();
        let task = driver.spawn(async move {
            let gone = || Err(Error::new(Errno::ECANCELED, "nobody waits for it any more"));
            let locks = match select(pin!(locks), pin!(tell.closed())).await {
                Either::Left((locks, _)) => locks?,
                Either::Right(_) => return gone(),
            };
            // In one step: a caller that has gone, or has told that nothing was changed, finds nothing done.
            match tell.send(()) {
                Ok(()) => work(locks).await,
                Err(()) => gone(),
            }
        });
        Errand { begun, task }
    }

    /// Returns once it has begun.
    ///
    /// # Errors
    /// It will not, for this reason.
    pub(crate) async fn begin(self) -> Result<Begun<T>> {
        let Errand { begun, task } = self;
        if begun.await.is_ok() {
            return Ok(Begun(task));
        }
        let over = || Error::new(Errno::ESHUTDOWN, "this Netfs has been shut down");
        Err(Begun(task).end().await.err().unwrap_or_else(over))
    }
}

impl<T> Begun<T> {
    /// What came of it.
    pub(crate) async fn end(self) -> Result<T> {
        self.0.await.map_err(|lost| {
            if driver::panicked(&lost) {
                Error::new(Errno::EIO, "the adapter panicked; see its log")
            } else {
                Error::new(Errno::ESHUTDOWN, "this Netfs has been shut down")
            }
        })?
    }
}

/// [`Errand::start`], and waits for its end.
pub(crate) async fn run<L, T, F>(
    driver: &Handle,
    locks: impl Future<Output = Result<L>> + Send + 'static,
    work: impl FnOnce(L) -> F + Send + 'static,
) -> Result<T>
where
    L: Send + 'static,
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    Errand::start(driver, locks, work).begin().await?.end().await
}

/// All of `work` as one that goes with its caller.
pub(crate) async fn accompany<T: Send + 'static>(
    driver: &Handle,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    run(driver, work, |done| async move { Ok(done) }).await
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use futures_util::FutureExt;
    use tokio::sync::Notify;

    use super::*;
    use crate::sync::Arc;

    #[test]
    fn what_waits_goes_with_its_caller_and_what_has_begun_goes_on() {
        let driver = driver::start(1).expect("a thread");
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        let (going, ended) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let errand = || {
            let (lock, going, ended) = (Arc::clone(&lock), Arc::clone(&going), Arc::clone(&ended));
            let work = move |held| async move {
                going.notified().await;
                drop(held);
                ended.notify_one();
                Ok(())
            };
            let locks = async move { Ok(lock.lock_owned().await) };
            Errand::start(driver.handle(), locks, work)
        };
        let begun = pollster::block_on(errand().begin()).expect("the lock is free");
        let (mut kept, gone) = (Box::pin(errand().begin()), errand());
        assert!((&mut kept).now_or_never().is_none(), "it is in the queue");
        drop(gone);
        // Nobody asks for the first one any more.
        drop(begun);
        going.notify_one();
        pollster::block_on(ended.notified());
        // The second one has begun though its caller has not looked; the third one never does.
        going.notify_one();
        pollster::block_on(ended.notified());
        drop(pollster::block_on(Arc::clone(&lock).lock_owned()));
        pollster::block_on(pollster::block_on(kept).expect("begun").end()).expect("done");
    }

    #[test]
    fn locks_that_fail_say_why_and_nothing_is_done() {
        let driver = driver::start(1).expect("a thread");
        let locks = async { Err::<(), _>(Error::new(Errno::ETIMEDOUT, "not in time")) };
        let work = |()| async { panic!("it has no locks") };
        let failed = pollster::block_on(run::<(), (), _>(driver.handle(), locks, work));
        assert_eq!(failed.expect_err("no locks").errno(), Errno::ETIMEDOUT);
    }
}
