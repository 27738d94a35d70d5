//! Reads and checks beside our own uploads, which overtake them: an answer from before an upload ended, or of a
//! version that may be ours, is of no use.
//!
//! Who is overtaken tries again, and after some times queues for the file's turn of writeback. The queue is in
//! order of arrival, and the place in it is kept from one try to the next: so only the rounds that were there
//! first can still overtake, and then none. Nobody waits for a round that hangs: as long as nothing of the file
//! moves there is nothing that overtakes, and the next try is made without the turn.
//!
//! All of that is in tasks of the driver: who tries again, and may have the turn, is one ([`errand`](crate::errand)).

use std::time::Duration;

use futures_util::{
    FutureExt,
    future::{BoxFuture, Either, select},
};

use super::flush::{Turn, quiesce};
use crate::{inode::Inode, timer};

/// How long an answer waits for the end of our own changes: much longer than a round over a link that is
/// not slow; a reader should not wait longer for a server that does not answer writes.
pub(crate) const JUDGE_WAIT: Duration = Duration::from_secs(1);

/// How often one is overtaken before it has the uploads of the file wait.
const BESIDE_UPLOADS: usize = 4;
/// How often [`JUDGE_WAIT`] may pass in the queue.
const QUEUED_MAX: usize = 256;

/// Who is overtaken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Overtaken {
    /// A read: takes long, so that uploads go on beside its first tries.
    Read,
    /// A check: takes one call.
    Check,
    /// Whoever has the file's turn already: nothing of ours overtakes, and waiting for the turn would be
    /// waiting for oneself.
    InTurn,
}

/// One read's or check's way past our own uploads.
pub(crate) struct Quiet<'a> {
    inode: &'a Inode,
    who: Overtaken,
    overtaken: usize,
    /// Tries that are left, not counting those made in the queue.
    left: usize,
    queued: usize,
    queue: Option<BoxFuture<'a, Turn>>,
    turn: Option<Turn>,
}

impl Inode {
    /// Tries `tries` times in all.
    pub(crate) fn quiet(&self, who: Overtaken, tries: usize) -> Quiet<'_> {
        let (overtaken, left, queued, queue, turn) = (0, tries, 0, None, None);
        Quiet { inode: self, who, overtaken, left, queued, queue, turn }
    }

    /// For who asked the server and could not use the answer: if that named a version that may be one of
    /// those we are making, waits until the replies to our changes have told. With the file's turn, if it gets
    /// it, further ones are kept off, so that the next answer can be judged. After [`JUDGE_WAIT`] it will be,
    /// whatever is on its way. Nobody who has the file's turn may call this.
    async fn after_round(&self) -> Option<Turn> {
        if !self.cell.is_unjudged() {
            return None;
        }
        let judged = async {
            loop {
                let ended = self.core.flusher.cleaned.notified();
                if !self.cell.is_unjudged() {
                    return;
                }
                ended.await;
            }
        };
        // The turn may have gone to somebody who waits for us.
        let either = select(Box::pin(quiesce(self)), Box::pin(judged));
        match timer::until(&self.core.driver, &*self.core.clock, self.soon(), either).await {
            Some(Either::Left((turn, _))) => Some(turn),
            Some(Either::Right(_)) => None,
            None => {
                self.cell.judge_anyway();
                None
            }
        }
    }

    /// The file's turn, if it comes in time.
    pub(crate) async fn turn_within(&self, patience: Duration) -> Option<Turn> {
        let core = &self.core;
        let until = self.now() + patience.min(core.options.remote_timeout);
        let mut turn = std::pin::pin!(quiesce(self));
        // Nearly always: no timer for that.
        if let Some(turn) = turn.as_mut().now_or_never() {
            return Some(turn);
        }
        timer::until(&core.driver, &*core.clock, until, turn).await
    }

    fn soon(&self) -> crate::clock::BootTime {
        self.now() + JUDGE_WAIT.min(self.core.options.remote_timeout)
    }
}

impl Quiet<'_> {
    /// Before another try. False: that was the last one.
    pub(crate) async fn again(&mut self) -> bool {
        self.overtaken += 1;
        if self.who != Overtaken::InTurn && self.turn.is_none() && !self.wait().await {
            self.queued += 1;
            return self.queued < QUEUED_MAX;
        }
        self.left = self.left.saturating_sub(1);
        self.left > 0
    }

    /// False: the turn has not come yet.
    async fn wait(&mut self) -> bool {
        if self.overtaken <= BESIDE_UPLOADS && self.queue.is_none() {
            let turn = self.inode.after_round().await;
            self.turn = turn.filter(|_| self.who == Overtaken::Check);
            return true;
        }
        let inode = self.inode;
        let queue = self.queue.get_or_insert_with(|| Box::pin(quiesce(inode)));
        while self.queued < QUEUED_MAX {
            let before = inode.changes();
            let core = &inode.core;
            let soon = inode.soon();
            if let Some(turn) = timer::until(&core.driver, &*core.clock, soon, &mut *queue).await {
                self.turn = Some(turn);
                self.queue = None;
                return true;
            }
            if inode.cell.is_unjudged() {
                inode.cell.judge_anyway();
                return false;
            }
            if inode.changes() == before {
                return false;
            }
            // A round has ended: our turn comes nearer.
            self.queued += 1;
        }
        false
    }
}
