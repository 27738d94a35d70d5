//! What every file of one tree shares, and how a reply's facts are put together.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, OnceLock},
    time::Duration,
};

use netfs::{
    Error, Result,
    clock::{Clock, SystemClock},
    error::Errno,
    remote::{AccessMask, Cred, Cx, Facts, FileKind, IoLimits, Promise, VolumeId},
};

use crate::{
    access::Own,
    file::LocalFile,
    handles::{Handles, stale},
    kind::FsKind,
    pool::{Lane, Pool},
    stamps::{Moment, Stamps, Writers},
    stat::Stat,
    sys,
    unsynced::Unsynced,
    watch::{Listener, Watcher},
};

/// The shared half of [`LocalFs`](crate::LocalFs) and its files.
pub(crate) struct Tree {
    pub(crate) kind: FsKind,
    pub(crate) volume_id: VolumeId,
    pub(crate) limits: IoLimits,
    pub(crate) handles: Arc<Handles>,
    pub(crate) stamps: Stamps,
    pub(crate) pool: Pool,
    pub(crate) own: Own,
    /// The kernel is asked about writers.
    pub(crate) leases: bool,
    pub(crate) promises: Promises,
    pub(crate) watcher: OnceLock<Watcher>,
    /// Whether the tree may be changed.
    pub(crate) writable: bool,
    /// Whether the tree has the same identity the next time it is opened: else a key means nothing then.
    pub(crate) lasting: bool,
    pub(crate) unsynced: Unsynced,
}

/// What the tree promises of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Promises {
    /// Nothing.
    None,
    /// That a change will be heard of, for so long, where there is a watch.
    Watched { lifetime: Duration, watches: usize },
    /// What the user vouches for.
    Ttl(Duration),
}

/// The start of a reply: taken before the `statx` whose facts it will carry.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) at: Moment,
    promise: Promise,
}

impl Tree {
    /// Begins a reply about a file: first the watch (W1), then the clocks (S1), then the caller may
    /// ask for attributes.
    pub(crate) fn ask(&self, key: &Arc<[u8]>, fd: BorrowedFd<'_>, kind: FileKind) -> Asked {
        let until = |lifetime| Promise::Until { lifetime, margin: Duration::ZERO };
        let promise = match self.promises {
            Promises::None => Promise::None,
            Promises::Ttl(ttl) => until(ttl),
            Promises::Watched { lifetime, .. } => match self.watcher.get() {
                Some(w) if w.ensure(key, fd, kind) => until(lifetime),
                _ => Promise::None,
            },
        };
        Asked { at: Moment::now(), promise }
    }

    /// Begins a reply without a promise.
    pub(crate) fn ask_unwatched(&self) -> Asked {
        Asked { at: Moment::now(), promise: Promise::None }
    }

    /// The facts of a reply. A tuple that is no version yet is vouched for by no promise either:
    /// content without a version must be asked for each time.
    pub(crate) fn facts(
        &self,
        key: &Arc<[u8]>,
        st: &Stat,
        asked: Asked,
        writers: impl FnOnce() -> Writers,
    ) -> Facts {
        let settled = self.stamps.settled(key, st, asked.at, writers);
        facts(st, settled.then_some(asked))
    }

    /// Whether anybody has the file open for writing.
    pub(crate) fn writers(&self, file: &LocalFile) -> Writers {
        if !self.leases {
            return Writers::Unknown;
        }
        // What we may not read we may not ask about either.
        self.handles.data(file).map_or(Writers::Unknown, |fd| self.writers_of(fd.as_fd()))
    }

    /// The same, of a descriptor open for reading.
    pub(crate) fn writers_of(&self, fd: BorrowedFd<'_>) -> Writers {
        if !self.leases {
            return Writers::Unknown;
        }
        match sys::no_writers(fd) {
            Ok(true) => Writers::Absent,
            Ok(false) => Writers::Maybe,
            Err(_) => Writers::Unknown, // not permitted on this file: the careful rule applies
        }
    }

    /// Attributes of the file now.
    pub(crate) fn stat(&self, fd: BorrowedFd<'_>) -> Result<Stat> {
        Stat::of(fd, !self.kind.host_clock)
            .map_err(|e| Error::io(e, "reading attributes in the local tree"))
    }

    /// Attributes of a file that still has a name, or that somebody has open, with a descriptor of it.
    ///
    /// # Errors
    /// `ESTALE` if it is gone.
    pub(crate) fn live(&self, file: &LocalFile) -> Result<(Arc<OwnedFd>, Stat)> {
        let fd = self.handles.path(file)?;
        let st = match self.stat(fd.as_fd()) {
            Ok(st) => st,
            Err(e) if e.errno() == Errno::ESTALE => {
                self.handles.forget(&file.shared_key());
                return Err(stale());
            }
            Err(e) => return Err(e),
        };
        if !st.unlinked() || self.handles.opened.contains(&file.shared_key()) {
            return Ok((fd, st));
        }
        self.handles.forget(&file.shared_key());
        if self.kind.host_clock || file.pinned().is_some() {
            return Err(stale());
        }
        // Some FUSE filesystems count no links: what counts there is that the name still works.
        let fd = self.handles.reopen(file)?;
        let st = self.stat(fd.as_fd())?;
        Ok((fd, st))
    }

    /// A reply about a file: its attributes as they are now.
    pub(crate) fn reply(&self, file: &LocalFile) -> Result<Facts> {
        let fd = self.handles.path(file)?;
        let key = file.shared_key();
        let asked = self.ask(&key, fd.as_fd(), file.kind());
        drop(fd);
        let (_fd, st) = self.live(file)?;
        Ok(self.facts(&key, &st, asked, || self.writers(file)))
    }

    /// Refuses with `EACCES` unless `cred` has the rights in `mask`.
    pub(crate) fn require(
        &self,
        fd: BorrowedFd<'_>,
        st: &Stat,
        cred: &Cred,
        mask: AccessMask,
    ) -> Result<()> {
        if self.own.may(fd, st, cred, mask)? {
            return Ok(());
        }
        Err(Error::new(Errno::from_raw(libc::EACCES), "the file's owner has not permitted this"))
    }

    /// Refuses with `EROFS` unless the tree may be changed.
    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.writable {
            return Ok(());
        }
        Err(Error::new(Errno::EROFS, "the local tree is served for reading only: see writable()"))
    }

    /// Starts listening for changes; without a listener there are no promises.
    pub(crate) fn listen(&self, events: impl Listener) {
        let Promises::Watched { watches, .. } = self.promises else { return };
        match Watcher::start(Box::new(events), Arc::clone(&self.handles), watches) {
            // Attached twice: the first listener stays.
            Ok(watcher) => drop(self.watcher.set(watcher)),
            Err(e) => tracing::warn!("no inotify, so no promises: {e}"),
        }
    }
}

/// Facts of attributes; with a version and the promise of the asking if they are settled.
pub(crate) fn facts(st: &Stat, settled: Option<Asked>) -> Facts {
    let facts = Facts::default().with_attr(st.attr);
    match settled {
        Some(asked) => Facts { version: st.version(), ..facts.with_promise(asked.promise) },
        None => facts,
    }
}

/// Runs `job` on the tree's threads, in its `lane`, unless the caller's deadline has passed by then.
pub(crate) async fn run<T: Send + 'static>(
    tree: Arc<Tree>,
    lane: Option<Lane>,
    cx: Cx,
    job: impl FnOnce(&Arc<Tree>, &Cx) -> Result<T> + Send + 'static,
) -> Result<T> {
    let inner = Arc::clone(&tree);
    let timed = move || {
        if expired(&cx) {
            return Err(Error::new(Errno::ETIMEDOUT, "no thread was free before the deadline"));
        }
        job(&inner, &cx)
    };
    tree.pool.run(lane, timed).await?
}

/// The caller has stopped waiting.
pub(crate) fn expired(cx: &Cx) -> bool {
    cx.deadline().is_some_and(|d| SystemClock.now() >= d)
}
