//! The namespace: [`LocalFs`] as a [`RemoteFs`].

use std::{
    fmt,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::{Arc, atomic::AtomicUsize},
    thread,
    time::Duration,
};

use bytes::Bytes;
use netfs::{
    Error, Result,
    coherency::VolumeEvents,
    error::Errno,
    remote::{
        AccessMask, BoxFuture, Change, Created, Cx, DirPage, Facts, FileKind, Found, LookupReply,
        NameChange, NewFile, OpenIntent, OpenToken, RemoteFs, RenameHow, SetAttr, StatFs, VolumeId,
    },
};

use crate::{
    Builder, create,
    file::LocalFile,
    identity::check_name,
    names,
    opened::{OpenFile, Seat},
    readdir,
    stamps::{QUIET, Writers},
    tree::{Tree, run},
};

/// A directory tree as a remote filesystem. See the [crate] for what it promises.
pub struct LocalFs {
    pub(crate) tree: Arc<Tree>,
    pub(crate) root: Arc<LocalFile>,
    /// Descriptors that opens hold, and the most they may.
    pub(crate) opens: Arc<AtomicUsize>,
    pub(crate) opens_max: usize,
}

impl LocalFs {
    /// Begins to set up the tree below `path`.
    pub fn builder(path: impl Into<PathBuf>) -> Builder {
        Builder::new(path.into())
    }

    /// The step of the clock that stamps the tree's files: two changes within it may leave one
    /// timestamp, so what is younger is reported without a version and not stored.
    #[must_use]
    pub fn timestamp_step(&self) -> Duration {
        self.tree.stamps.step()
    }

    /// How old a change must be until what it left has a version, whoever may still write: the step,
    /// and at least the second that a write in flight is given.
    #[must_use]
    pub fn settle_time(&self) -> Duration {
        // One step more for a question that is asked at the step's very start.
        self.tree.stamps.step().max(QUIET) + self.tree.stamps.step()
    }

    /// Blocks for [`settle_time`](LocalFs::settle_time): afterwards every file and directory that was
    /// last changed before the call has a version (if this kernel stamps the tree: another host's
    /// files have one when they have been seen unchanged that long). Not for an async context.
    pub fn settle(&self) {
        thread::sleep(self.settle_time());
    }

    /// Numbers about what the adapter holds now.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            descriptors: self.tree.handles.kept(),
            opens: self.opens.load(std::sync::atomic::Ordering::Relaxed),
            watches: self.tree.watcher.get().map_or(0, |w| w.len()),
            unsynced: self.tree.unsynced.len(),
        }
    }

    fn work<T: Send + 'static>(
        &self,
        cx: Cx,
        job: impl FnOnce(&Arc<Tree>, &Cx) -> Result<T> + Send + 'static,
    ) -> BoxFuture<'static, Result<T>> {
        Box::pin(run(Arc::clone(&self.tree), None, cx, job))
    }
}

impl fmt::Debug for LocalFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalFs")
            .field("volume", &self.tree.volume_id)
            .field("kind", &self.tree.kind)
            .field("promises", &self.tree.promises)
            .finish_non_exhaustive()
    }
}

/// What a [`LocalFs`] holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Usage {
    /// Descriptors kept for files nobody has open, at most
    /// [`Builder::descriptors`](crate::Builder::descriptors).
    pub descriptors: usize,
    /// Descriptors held by opens.
    pub opens: usize,
    /// inotify watches.
    pub watches: usize,
    /// Files that were written and wait for a sync; each has a descriptor.
    pub unsynced: usize,
}

impl RemoteFs for LocalFs {
    type File = LocalFile;

    fn volume_id(&self) -> VolumeId {
        self.tree.volume_id.clone()
    }

    fn root(self: Arc<Self>, cx: Cx) -> BoxFuture<'static, Result<Found<LocalFile>>> {
        let file = Arc::clone(&self.root);
        self.work(cx, move |tree, _| Ok(Found { facts: tree.reply(&file)?, file }))
    }

    fn attach(&self, events: VolumeEvents) {
        self.tree.listen(events);
    }

    /// Where files are opened by handle ([`Builder::by_handle`]; it takes `CAP_DAC_READ_SEARCH`) and the tree has an
    /// identity that lasts. A file that was moved out of the tree is found, too.
    fn by_key(self: Arc<Self>, key: Bytes, cx: Cx) -> BoxFuture<'static, Result<Found<LocalFile>>> {
        let root = Arc::clone(&self.root);
        self.work(cx, move |tree, _| by_key(tree, &root, &key))
    }

    fn lookup(
        self: Arc<Self>,
        dir: Arc<LocalFile>,
        name: Bytes,
        cx: Cx,
    ) -> BoxFuture<'static, Result<LookupReply<LocalFile>>> {
        self.work(cx, move |tree, cx| lookup(tree, &dir, name, cx))
    }

    fn readdir(
        self: Arc<Self>,
        dir: Arc<LocalFile>,
        cookie: u64,
        plus: bool,
        cx: Cx,
    ) -> BoxFuture<'static, Result<DirPage<LocalFile>>> {
        self.work(cx, move |tree, cx| readdir::readdir(tree, &dir, cookie, plus, cx))
    }

    fn getattr(self: Arc<Self>, file: Arc<LocalFile>, cx: Cx) -> BoxFuture<'static, Result<Facts>> {
        self.work(cx, move |tree, _| tree.reply(&file))
    }

    fn readlink(
        self: Arc<Self>,
        file: Arc<LocalFile>,
        cx: Cx,
    ) -> BoxFuture<'static, Result<(Bytes, Option<Facts>)>> {
        self.work(cx, move |tree, _| readlink(tree, &file))
    }

    fn access(
        self: Arc<Self>,
        file: Arc<LocalFile>,
        mask: AccessMask,
        cx: Cx,
    ) -> BoxFuture<'static, Result<bool>> {
        self.work(cx, move |tree, cx| {
            let (fd, st) = tree.live(&file)?;
            tree.own.may(fd.as_fd(), &st, cx.cred(), mask)
        })
    }

    fn open(
        self: Arc<Self>,
        file: Arc<LocalFile>,
        intent: OpenIntent,
        cx: Cx,
    ) -> BoxFuture<'static, Result<(OpenToken, Option<Facts>)>> {
        let (opens, max) = (Arc::clone(&self.opens), self.opens_max);
        self.work(cx, move |tree, cx| open(tree, &file, intent, cx, Seat::take(&opens, max)))
    }

    fn create(
        self: Arc<Self>,
        dir: Arc<LocalFile>,
        name: Bytes,
        what: NewFile,
        cx: Cx,
    ) -> BoxFuture<'static, Result<Created<LocalFile>>> {
        self.work(cx, move |tree, cx| create::create(tree, &dir, name, &what, cx))
    }

    fn link(
        self: Arc<Self>,
        file: Arc<LocalFile>,
        dir: Arc<LocalFile>,
        name: Bytes,
        cx: Cx,
    ) -> BoxFuture<'static, Result<NameChange>> {
        self.work(cx, move |tree, cx| names::link(tree, &file, &dir, &name, cx))
    }

    fn remove(
        self: Arc<Self>,
        dir: Arc<LocalFile>,
        name: Bytes,
        dir_wanted: bool,
        cx: Cx,
    ) -> BoxFuture<'static, Result<NameChange>> {
        self.work(cx, move |tree, cx| names::remove(tree, &dir, &name, dir_wanted, cx))
    }

    fn rename(
        self: Arc<Self>,
        from: (Arc<LocalFile>, Bytes),
        to: (Arc<LocalFile>, Bytes),
        how: RenameHow,
        cx: Cx,
    ) -> BoxFuture<'static, Result<NameChange>> {
        self.work(cx, move |tree, cx| {
            names::rename(tree, (&from.0, &from.1), (&to.0, &to.1), how, cx)
        })
    }

    /// Owner, mode and times are set one after the other: an error leaves those before it set.
    fn set_attr(
        self: Arc<Self>,
        file: Arc<LocalFile>,
        set: SetAttr,
        cx: Cx,
    ) -> BoxFuture<'static, Result<Change>> {
        let lane = Some(file.changes());
        let job = move |tree: &Arc<Tree>, cx: &Cx| names::set_attr(tree, &file, set, cx);
        Box::pin(run(Arc::clone(&self.tree), lane, cx, job))
    }

    fn statfs(self: Arc<Self>, cx: Cx) -> BoxFuture<'static, Result<StatFs>> {
        let root = Arc::clone(&self.root);
        self.work(cx, move |tree, _| statfs(&*tree.handles.path(&root)?))
    }
}

fn by_key(tree: &Arc<Tree>, root: &Arc<LocalFile>, key: &[u8]) -> Result<Found<LocalFile>> {
    if !tree.lasting {
        let told = "the tree has no identity that lasts: see volume_id()";
        return Err(Error::new(Errno::EOPNOTSUPP, told));
    }
    let located = tree.handles.by_key(key)?;
    let file = if located.key == root.shared_key() {
        Arc::clone(root)
    } else {
        LocalFile::new(tree, &located, None)
    };
    Ok(Found { facts: tree.reply(&file)?, file })
}

fn lookup(
    tree: &Arc<Tree>,
    dir: &Arc<LocalFile>,
    name: Bytes,
    cx: &Cx,
) -> Result<LookupReply<LocalFile>> {
    check_name(&name)?;
    if dir.kind() != FileKind::Dir {
        return Err(Error::new(Errno::ENOTDIR, "a name was looked up in what is no directory"));
    }
    let key = dir.shared_key();
    let fd = tree.handles.path(dir)?;
    let asked = tree.ask(&key, fd.as_fd(), FileKind::Dir);
    let (fd, before) = tree.live(dir)?;
    tree.require(fd.as_fd(), &before, cx.cred(), AccessMask::EXEC)?;
    let located = match tree.handles.find(fd.as_fd(), &name) {
        Ok(located) => Some(located),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => None,
        Err(e) => return Err(Error::io(e, "looking up a name in the local tree")),
    };
    let found = match located {
        None => None,
        Some(located) => {
            let asked = tree.ask(&located.key, located.fd.as_fd(), located.st.attr.kind);
            // Once more, now that the watch is in place (W1).
            let st = tree.stat(located.fd.as_fd())?;
            let file = LocalFile::new(tree, &located, Some((Arc::clone(dir), name)));
            let facts = tree.facts(&located.key, &st, asked, || tree.writers(&file));
            Some(Found { file, facts })
        }
    };
    let after = tree.stat(fd.as_fd())?;
    let still = before.same_content(&after);
    let dir = still.then(|| tree.facts(&key, &after, asked, || Writers::Unknown));
    Ok(LookupReply { found, dir })
}

fn readlink(tree: &Arc<Tree>, file: &LocalFile) -> Result<(Bytes, Option<Facts>)> {
    if file.kind() != FileKind::Symlink {
        return Err(Error::new(Errno::EINVAL, "only symbolic links have a target"));
    }
    let asked = tree.ask_unwatched();
    let (fd, st) = tree.live(file)?;
    let target = rustix::fs::readlinkat(&*fd, c"", Vec::new())
        .map_err(|e| Error::io(e.into(), "reading a symbolic link of the local tree"))?;
    let facts = tree.facts(&file.shared_key(), &st, asked, || Writers::Unknown);
    Ok((Bytes::from(target.into_bytes()), Some(facts)))
}

fn open(
    tree: &Arc<Tree>,
    file: &LocalFile,
    intent: OpenIntent,
    cx: &Cx,
    seat: Option<Seat>,
) -> Result<(OpenToken, Option<Facts>)> {
    if intent.writes() {
        tree.check_writable()?;
        if file.kind() == FileKind::Dir {
            return Err(Error::new(Errno::EISDIR, "a directory cannot be opened for writing"));
        }
    }
    let facts = tree.reply(file)?;
    let (fd, st) = tree.live(file)?;
    let mask = match intent {
        OpenIntent::Write => AccessMask::WRITE,
        OpenIntent::ReadWrite => AccessMask::READ.union(AccessMask::WRITE),
        _ => AccessMask::READ,
    };
    tree.require(fd.as_fd(), &st, cx.cred(), mask)?;
    // Without a seat the open goes without a descriptor of its own: the file can be read as long as
    // it has a name. Directories and the rest need none.
    let token = match (file.kind(), seat) {
        (FileKind::File, Some(seat)) => {
            let fd = if intent.reads() {
                tree.handles.open_data(file)?
            } else {
                fd.try_clone().map_err(|e| Error::io(e, "keeping a file of the local tree open"))?
            };
            let may = (intent.reads(), intent.writes());
            OpenToken::new(OpenFile::new(&tree.handles, fd, file.shared_key(), may, seat))
        }
        _ => OpenToken::none(),
    };
    Ok((token, Some(facts)))
}

fn statfs(root: &OwnedFd) -> Result<StatFs> {
    let s = rustix::fs::fstatvfs(root)
        .map_err(|e| Error::io(e.into(), "asking for the space of the local tree"))?;
    let bytes = |blocks: u64| blocks.saturating_mul(s.f_frsize);
    Ok(StatFs {
        bytes_total: bytes(s.f_blocks),
        bytes_free: bytes(s.f_bfree),
        bytes_available: bytes(s.f_bavail),
        files_total: s.f_files,
        files_free: s.f_ffree,
        name_max: u32::try_from(s.f_namemax).unwrap_or(255),
    })
}
