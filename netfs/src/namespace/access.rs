//! What the server answered about rights, per credential: cached bytes never reach a user who may
//! not read them.

use crate::{
    coherency::{Epoch, Validity},
    error::Result,
    inode::Inode,
    remote::{AccessMask, Cred},
    sync::Arc,
};

use super::mount::{Mount, Node};
use crate::remote::Cx;

#[derive(Clone)]
struct Answer {
    granted: bool,
    epoch: Epoch,
    /// The owner, mode and change time the answer was given for.
    attr_gen: u64,
}

/// Answers by (inode, credential, mask). An answer holds while the inode's promise does, no event
/// came since it was asked, and nobody changed its owner, mode or change time.
pub(super) struct AccessCache {
    answers: moka::sync::Cache<(u64, Arc<Cred>, AccessMask), Answer>,
}

impl AccessCache {
    pub(super) fn new(capacity: u64) -> AccessCache {
        AccessCache { answers: moka::sync::Cache::builder().max_capacity(capacity).build() }
    }

    fn get(&self, inode: &Inode, cred: &Arc<Cred>, mask: AccessMask) -> Option<bool> {
        if inode.cell.valid_now() != Validity::Valid {
            return None;
        }
        let answer = self.answers.get(&(inode.id, Arc::clone(cred), mask))?;
        let current = answer.attr_gen == inode.attr_gen() && inode.cell.quiet_since(&answer.epoch);
        current.then_some(answer.granted)
    }

    pub(super) fn clear(&self) {
        self.answers.invalidate_all();
        self.answers.run_pending_tasks();
    }
}

impl Mount {
    /// Whether the caller has every right in `mask`.
    ///
    /// # Errors
    /// The adapter's, if the answer could not be found out.
    pub async fn access(&self, node: &Node, mask: AccessMask, cx: &Cx) -> Result<bool> {
        let inode = &node.inode;
        if let Some(granted) = self.access_cache().get(inode, cx.cred(), mask) {
            inode.core.counters.access_hits.inc();
            return Ok(granted);
        }
        let attr_gen = inode.attr_gen();
        let epoch = inode.cell.sample();
        let reply = self.fs().access(&node.remote, mask, cx.clone());
        let granted = self.on_driver(reply).await?;
        let answer = Answer { granted, epoch, attr_gen };
        self.access_cache().answers.insert((inode.id, Arc::clone(cx.cred()), mask), answer);
        Ok(granted)
    }
}
