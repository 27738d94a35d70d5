//! Names about to be changed: what they stand for, and what keeps that so until the server has answered.
//!
//! As in a kernel, what a name stands for is found under its directory's lock: a change of ours that was
//! under way before may have moved it. But the file's turn comes before that lock (an upload that hangs must
//! not stop the names of its directory), so the names are looked up first, and looked at again.
//!
//! All of it is waited for on the driver, and goes with its caller: nothing has been sent yet.

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::OwnedMutexGuard;

use super::{Mount, Node, mount::Named};
use crate::{
    clock::BootTime,
    coherency::Epoch,
    context::Core,
    errand::Errand,
    error::{Errno, Error, Result},
    inode::Inode,
    remote::{Change, Cx, Version},
    sync::Arc,
    timer,
    writeback::{flush::Turn, quiet::JUDGE_WAIT},
};

/// How often names may be found changed under the lock.
const RACES_MAX: usize = 8;

/// Directories whose names are being changed: locked, and their versions before.
pub(super) struct Parents {
    _locks: Vec<OwnedMutexGuard<()>>,
    known: Vec<(u64, Option<Version>)>,
    pub(super) epoch: Epoch,
}

impl Parents {
    pub(super) fn known(&self, dir: &Inode) -> Option<&Version> {
        self.known.iter().find(|(id, _)| *id == dir.id).and_then(|(_, v)| v.as_ref())
    }

    /// Whether a change found `dir` as its names were looked up.
    pub(super) fn vouches(&self, dir: &Inode, change: &Option<Change>) -> bool {
        change.as_ref().is_some_and(|change| dir.is_alone(self.known(dir), change))
    }

    /// A change is ours alone only if it found the version under which all its names were looked up: then,
    /// and only then, the files it was about are those that were found.
    fn found(&mut self, places: &[(Node, Bytes)], names: &[Named]) {
        for (id, known) in &mut self.known {
            let here = places.iter().zip(names).filter(|((dir, _), _)| dir.inode.id == *id);
            let mut versions = here.map(|(_, named)| &named.version);
            let first = versions.next().cloned().flatten();
            *known = first.filter(|first| versions.all(|v| v.as_ref() == Some(first)));
        }
    }
}

/// Names, found under the locks of their directories. Locks are let go before turns.
pub(super) struct Held {
    /// What each name stands for.
    pub(super) files: Vec<Option<Node>>,
    pub(super) parents: Parents,
    pub(super) turns: Vec<Turn>,
}

/// How a change waits for the uploads of the file it is about, which move the same version.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Uploads {
    /// They end first.
    End,
    /// The file goes: it need not wait long for them.
    Pass,
}

impl Mount {
    /// Finds and holds `places`; the first must be there.
    pub(super) async fn hold<const N: usize>(
        self,
        places: [(Node, Bytes); N],
        uploads: Uploads,
        cx: Cx,
    ) -> Result<(Held, [(Node, Bytes); N])> {
        let held = self.hold_all(&places, uploads, &cx).await?;
        Ok((held, places))
    }

    async fn hold_all(&self, places: &[(Node, Bytes)], uploads: Uploads, cx: &Cx) -> Result<Held> {
        let mut names = Vec::with_capacity(places.len());
        for (dir, name) in places {
            names.push(self.look(dir, name, cx).await?);
        }
        let dirs: Vec<&Node> = places.iter().map(|(dir, _)| dir).collect();
        for _ in 0..RACES_MAX {
            let turns = self.turns(&names, uploads).await?;
            let mut parents = self.parents(&dirs).await?;
            let now = self.look_again(places, &names, cx).await?;
            let same = names.iter().zip(&now).all(|(a, b)| a.id() == b.id());
            names = now;
            if same {
                parents.found(places, &names);
                let files = names.into_iter().map(|named| named.node).collect();
                return Ok(Held { files, parents, turns });
            }
        }
        let told = "the name comes and goes faster than it can be changed; try again";
        Err(Error::new(Errno::ESTALE, told))
    }

    /// What was found holds if its directory is still in that version.
    async fn look_again(
        &self,
        places: &[(Node, Bytes)],
        before: &[Named],
        cx: &Cx,
    ) -> Result<Vec<Named>> {
        let mut names = Vec::with_capacity(places.len());
        for ((dir, name), named) in places.iter().zip(before) {
            let holds = named.version.is_some() && dir.inode.cell.version() == named.version;
            names.push(if holds { named.clone() } else { self.look(dir, name, cx).await? });
        }
        Ok(names)
    }

    /// The turns of the files that were found. That of a second one, which is replaced or exchanged, is not
    /// waited for long: somebody may be exchanging the two the other way round.
    async fn turns(&self, names: &[Named], uploads: Uploads) -> Result<Vec<Turn>> {
        let Some(first) = names.first().and_then(|named| named.node.as_ref()) else {
            return Err(Error::new(Errno::ENOENT, "no such file or directory"));
        };
        let mut turns = Vec::with_capacity(names.len());
        match uploads {
            Uploads::End => turns.push(self.turn(first).await?),
            Uploads::Pass => turns.extend(first.inode.turn_within(JUDGE_WAIT).await),
        }
        for other in names[1..].iter().filter_map(|named| named.node.as_ref()) {
            if !Arc::ptr_eq(&other.inode, &first.inode) {
                turns.extend(other.inode.turn_within(JUDGE_WAIT).await);
            }
        }
        Ok(turns)
    }

    /// A file's turn, no later than the timeout for calls.
    pub(super) async fn turn(&self, file: &Node) -> Result<Turn> {
        let patience = self.volume().core().options.remote_timeout;
        file.inode.turn_within(patience).await.ok_or_else(|| {
            let told = "an upload of the file has not ended; nothing was changed";
            Error::new(Errno::ETIMEDOUT, told)
        })
    }

    /// Locks directories whose names are about to be changed. Waits no longer than a call may take: those before it
    /// may be many, on a server that hangs, and the turn of a file may be held meanwhile.
    pub(super) async fn parents(&self, dirs: &[&Node]) -> Result<Parents> {
        let core = self.volume().core();
        let until = core.clock.now() + core.options.remote_timeout;
        let mut locking = std::pin::pin!(self.lock_all(dirs));
        // Nearly always: no timer for that.
        if let Some(parents) = locking.as_mut().now_or_never() {
            return Ok(parents);
        }
        let parents = timer::until(&core.driver, &*core.clock, until, locking).await;
        parents.ok_or_else(|| {
            let told = "other changes of the directory have not ended; nothing was changed";
            Error::new(Errno::ETIMEDOUT, told)
        })
    }

    async fn lock_all(&self, dirs: &[&Node]) -> Parents {
        let mut dirs: Vec<&Arc<Inode>> = dirs.iter().map(|dir| &dir.inode).collect();
        dirs.sort_by_key(|dir| dir.id);
        dirs.dedup_by_key(|dir| dir.id);
        let mut locks = Vec::with_capacity(dirs.len());
        for dir in &dirs {
            locks.push(Arc::clone(&dir.wb.write).lock_owned().await);
        }
        let known = dirs.iter().map(|dir| (dir.id, dir.cell.version())).collect();
        Parents { _locks: locks, known, epoch: self.volume().cell().sample() }
    }

    /// Waits for `locks`, no longer than until the caller's deadline, and then runs a change with them, on the
    /// driver: what waits goes with its caller. What has begun goes to its end even if the caller goes away: what
    /// it holds locked and what it does to the caches belong together. The caller waits no longer than its deadline.
    pub(super) async fn change<L, T, F>(
        &self,
        cx: &Cx,
        locks: impl Future<Output = Result<L>> + Send + 'static,
        work: impl FnOnce(L) -> F + Send + 'static,
    ) -> Result<T>
    where
        L: Send + 'static,
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let core = self.volume().core();
        core.check_open()?;
        let (core_2, deadline) = (Arc::clone(core), cx.deadline());
        let locks = async move {
            let told = "the caller's deadline passed; nothing was changed";
            by_deadline(&core_2, deadline, locks, told).await
        };
        let begun = Errand::start(&core.driver, locks, work).begin().await?;
        let told = "the caller's deadline passed; the change may yet be made";
        by_deadline(core, deadline, begun.end(), told).await
    }
}

async fn by_deadline<T>(
    core: &Core,
    deadline: Option<BootTime>,
    work: impl Future<Output = Result<T>>,
    told: &'static str,
) -> Result<T> {
    let Some(deadline) = deadline else { return work.await };
    let late = || Err(Error::new(Errno::ETIMEDOUT, told));
    timer::until(&core.driver, &*core.clock, deadline, work).await.unwrap_or_else(late)
}
