//! Giving a promise back that the server recalls, in four steps.
//!
//! 1. Writes become write-through: their writers wait for the upload, no longer than the recall lasts.
//! 2. Fronts are asked to unmap the file's pages, and their answers awaited: stores come in until then.
//! 3. What is dirty is uploaded; what cannot be by the recall's deadline is parked.
//! 4. Only now writers wait, for the call that gives the promise back.
//!
//! The event itself does none of that: it makes the file stale, asks the fronts, and leaves the rest to a
//! task of the driver. Recalls of one file share a task until that has begun its call; what comes later may
//! be about a promise given since, and gets another. Every step ends at the deadline at the latest, the
//! call at the timeout for calls.

use std::time::Duration;

use super::{
    flush::{Wait, flush},
    flusher::flush_listed,
    is_transient,
};
use crate::{
    clock::BootTime,
    coherency::{LocalState, RecallEnd, RecallTicket, Recalled, Ticket},
    error::{Errno, Error},
    inode::Inode,
    read::Who,
    remote::{Cx, DynFile, DynRemoteFs, RemoteFile},
    sync::{Arc, Mutex, Weak},
    timer,
};

/// Pause before an upload is tried again that failed for a passing reason.
const PAUSE: Duration = Duration::from_millis(100);
/// How often writes that come in between an upload and the writers' lock are uploaded too, before that is
/// done with the writers waiting.
const ROUNDS_MAX: usize = 4;

/// One inode's part.
#[derive(Default)]
pub(crate) struct Recalls {
    now: Mutex<Option<Arc<Recall>>>,
    /// Through whom promises are given back: the last opener of each client, for the server does not say whose
    /// it recalls, and each has its own.
    openers: Mutex<Vec<Opener>>,
}

/// Weak, for the adapter's file may hold, in calls that its server does not answer, this inode.
#[derive(Clone)]
struct Opener {
    client: Weak<dyn DynRemoteFs>,
    remote: Weak<dyn RemoteFile>,
    cx: Cx,
}

/// A recall at work.
#[derive(Default)]
struct Recall {
    state: Mutex<State>,
    end: Arc<RecallEnd>,
}

#[derive(Default)]
struct State {
    /// Answers to wait for.
    zaps: Vec<Ticket>,
    /// The call has begun.
    releasing: bool,
}

impl Recalls {
    /// Without the open's token or deadline: the promise outlives both.
    pub(crate) fn opened(&self, client: &Arc<dyn DynRemoteFs>, remote: &DynFile, cx: &Cx) {
        let (client, remote) = (Arc::downgrade(client), Arc::downgrade(remote));
        let opener = Opener { client, remote, cx: Cx::new(Arc::clone(cx.cred())) };
        let mut openers = self.openers.lock();
        let same = |of: &Opener| Weak::ptr_eq(&of.client, &opener.client);
        openers.retain(|of| of.remote.strong_count() > 0 && !same(of));
        openers.push(opener);
    }

    pub(crate) fn is_running(&self) -> bool {
        self.now.lock().is_some()
    }

    fn running(&self) -> Option<Arc<Recall>> {
        self.now.lock().clone()
    }
}

/// A recall of `inode`, whose fronts have been asked to `zap`. Never waits.
pub(crate) fn begin(inode: Arc<Inode>, zap: Ticket) -> RecallTicket {
    let recall = {
        let mut now = inode.wb.recalls.now.lock();
        if let Some(running) = &*now {
            let mut state = running.state.lock();
            if !state.releasing {
                state.zaps.push(zap.clone());
                drop(state);
                return RecallTicket::new(zap, Some(Arc::clone(&running.end)));
            }
        }
        let recall = Arc::<Recall>::default();
        recall.state.lock().zaps.push(zap.clone());
        *now = Some(Arc::clone(&recall));
        recall
    };
    let ticket = RecallTicket::new(zap, Some(Arc::clone(&recall.end)));
    let driver = inode.core.driver.clone();
    let run = Run { inode, recall };
    drop(driver.spawn(async move { run.steps().await }));
    ticket
}

/// The task. However it ends, so does the recall.
struct Run {
    inode: Arc<Inode>,
    recall: Arc<Recall>,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.is_over();
        self.recall.end.set(RecallEnd::abandoned());
    }
}

impl Run {
    /// Writers wait for it no longer.
    fn is_over(&self) {
        let mut now = self.inode.wb.recalls.now.lock();
        let gone = now.take_if(|running| Arc::ptr_eq(running, &self.recall));
        drop(now);
        drop(gone);
    }

    async fn steps(self) {
        let core = &self.inode.core;
        core.counters.recalls.inc();
        let deadline = core.clock.now() + core.options.recall_timeout;
        let mut errors = Vec::new();
        self.await_zaps(deadline).await;
        self.upload(deadline, &mut errors).await;
        let mut writers = None;
        for round in 0..=ROUNDS_MAX {
            let lock = Arc::clone(&self.inode.wb.write).lock_owned();
            // A writer that hangs holds no promise back: what it writes later is written without one.
            writers = timer::until(&core.driver, &*core.clock, deadline, lock).await;
            if self.nothing_to_upload() || core.clock.now() >= deadline {
                break;
            }
            if round < ROUNDS_MAX {
                writers = None;
            }
            self.upload(deadline, &mut errors).await;
        }
        while !self.begin_release() {
            self.await_zaps(deadline).await;
        }
        let result = self.release(errors).await;
        drop(writers);
        // Before anybody hears of it: a write that comes then is one like any other.
        self.is_over();
        self.recall.end.set(result);
    }

    /// Stores of the fronts are in once they have answered.
    async fn await_zaps(&self, deadline: BootTime) {
        let core = &self.inode.core;
        loop {
            let Some(zap) = self.recall.state.lock().zaps.pop() else { return };
            if timer::until(&core.driver, &*core.clock, deadline, zap).await.is_none() {
                tracing::warn!(inode = self.inode.id, "a front has not unmapped a recalled file");
            }
        }
    }

    fn nothing_to_upload(&self) -> bool {
        self.inode.pages.dirty_bytes() == 0 || self.inode.wb.parked().is_some()
    }

    /// Uploads what is dirty, or parks it.
    async fn upload(&self, deadline: BootTime, errors: &mut Vec<Error>) {
        let (inode, core) = (&self.inode, &self.inode.core);
        loop {
            let round = flush_listed(inode, Wait::Turn);
            let error = match timer::until(&core.driver, &*core.clock, deadline, round).await {
                Some(Ok(())) => return,
                Some(Err(error)) => error,
                None => Error::new(Errno::ETIMEDOUT, "not uploaded by the deadline of a recall"),
            };
            let again = core.clock.now() + PAUSE;
            if is_transient(&error) && again < deadline && core.check_open().is_ok() {
                timer::sleep(&core.driver, &*core.clock, again).await;
                continue;
            }
            inode.park(&error);
            errors.push(error);
            return;
        }
    }

    /// From here on another recall is not about the same promise. False: there are answers to wait for.
    fn begin_release(&self) -> bool {
        let mut state = self.recall.state.lock();
        state.releasing = state.zaps.is_empty();
        state.releasing
    }

    async fn release(&self, mut errors: Vec<Error>) -> Recalled {
        let inode = &self.inode;
        let openers = inode.wb.recalls.openers.lock().clone();
        // Whom the adapter itself has forgotten, it holds no promise of.
        let holding = openers.into_iter().filter_map(|of| Some((of.remote.upgrade()?, of.cx)));
        let calls = holding.map(|(remote, cx)| inode.core.answered(remote.release_promise(cx)));
        let released = futures_util::future::join_all(calls).await;
        // A reply that came meanwhile may have brought the promise that is no more.
        inode.cell.expire();
        // If the file is gone, its promises are, too.
        let gone = |e: &Error| matches!(e.errno(), Errno::ESTALE | Errno::ENOENT);
        let refused: Vec<_> =
            released.into_iter().filter_map(Result::err).filter(|e| !gone(e)).collect();
        if refused.is_empty() && errors.is_empty() {
            return Recalled::Released;
        }
        let kept = !refused.is_empty();
        errors.extend(refused);
        if kept { Recalled::Unreleased(errors) } else { Recalled::ReleasedParked(errors) }
    }
}

impl Who {
    /// After a write, while the file is being recalled: waits until it is uploaded, or the recall is over.
    /// An upload that fails is the recall's business, and the next fsync's.
    pub(crate) async fn write_through_recall(&self, offset: u64, len: u64) {
        let Some(recall) = self.inode.wb.recalls.running() else { return };
        let range = offset..offset.saturating_add(len);
        let round = std::pin::pin!(flush(&self.inode, range, Wait::Turn));
        let over = RecallTicket::new(Ticket::resolved(), Some(Arc::clone(&recall.end)));
        let either = futures_util::future::select(round, over);
        let waited = async {
            let _ended = either.await;
            Ok(())
        };
        let waited = self.by_deadline(waited).await;
        if let Err(error) = waited {
            tracing::debug!(%error, "a write into a recalled file did not wait for its upload");
        }
    }
}

impl Inode {
    /// See [`LocalState`]. From memory, and at once.
    pub(crate) fn local_state(&self) -> LocalState {
        let times = self.attr().map(|attr| (attr.mtime, attr.ctime));
        let times = times.or_else(|| self.wrote_at().map(|at| (at, at)));
        LocalState {
            size: self.sizes.load().i_size,
            dirty: self.pages.dirty_bytes(),
            mtime: times.map(|(mtime, _)| mtime),
            ctime: times.map(|(_, ctime)| ctime),
        }
    }
}
