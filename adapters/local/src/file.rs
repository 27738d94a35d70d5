//! One file of the tree.

use std::{fmt, ops::Range, os::fd::OwnedFd, sync::Arc};

use bytes::Bytes;
use netfs::{
    Result,
    remote::{BoxFuture, Change, Cx, Facts, FileKind, IoLimits, ReadSub, RemoteFile, WriteSub},
};
use parking_lot::Mutex;
use rustix::fs::FallocateFlags;

use crate::{change, handles::Located, pool::Lane, read, sys, tree, tree::Tree, write};

/// Where a file was found: a directory and a name in it.
pub(crate) type Place = (Arc<LocalFile>, Bytes);

/// A file of a [`LocalFs`](crate::LocalFs). It holds no descriptor of its own.
pub struct LocalFile {
    tree: Arc<Tree>,
    key: Arc<[u8]>,
    kind: FileKind,
    handle: Option<sys::FileHandle>,
    place: Mutex<Option<Place>>,
    /// The root's descriptor, which everything else is found from.
    pinned: Option<Arc<OwnedFd>>,
}

impl LocalFile {
    pub(crate) fn new(tree: &Arc<Tree>, found: &Located, place: Option<Place>) -> Arc<LocalFile> {
        Arc::new(LocalFile {
            tree: Arc::clone(tree),
            key: Arc::clone(&found.key),
            kind: found.st.attr.kind,
            handle: found.handle.clone(),
            place: Mutex::new(place),
            pinned: None,
        })
    }

    pub(crate) fn root(tree: &Arc<Tree>, fd: Arc<OwnedFd>, key: Arc<[u8]>) -> Arc<LocalFile> {
        Arc::new(LocalFile {
            tree: Arc::clone(tree),
            key,
            kind: FileKind::Dir,
            handle: None,
            place: Mutex::new(None),
            pinned: Some(fd),
        })
    }

    /// What kind of file it is. A file never changes its kind.
    #[must_use]
    pub fn kind(&self) -> FileKind {
        self.kind
    }

    pub(crate) fn shared_key(&self) -> Arc<[u8]> {
        Arc::clone(&self.key)
    }

    pub(crate) fn handle(&self) -> Option<&sys::FileHandle> {
        self.handle.as_ref()
    }

    pub(crate) fn place(&self) -> Option<Place> {
        self.place.lock().clone()
    }

    pub(crate) fn pinned(&self) -> Option<&Arc<OwnedFd>> {
        self.pinned.as_ref()
    }

    /// Where changes of the file wait for each other.
    pub(crate) fn changes(&self) -> Lane {
        Lane::Changes(self.shared_key())
    }

    fn work<T: Send + 'static>(
        self: Arc<Self>,
        lane: Lane,
        cx: Cx,
        job: impl FnOnce(&LocalFile, &Arc<Tree>, &Cx) -> Result<T> + Send + 'static,
    ) -> BoxFuture<'static, Result<T>> {
        let tree = Arc::clone(&self.tree);
        Box::pin(tree::run(tree, Some(lane), cx, move |tree, cx| job(&self, tree, cx)))
    }

    fn change<T: Send + 'static>(
        self: Arc<Self>,
        cx: Cx,
        job: impl FnOnce(&LocalFile, &Arc<Tree>, &Cx) -> Result<T> + Send + 'static,
    ) -> BoxFuture<'static, Result<T>> {
        let lane = self.changes();
        self.work(lane, cx, job)
    }
}

impl fmt::Debug for LocalFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.place().map(|(_, name)| name);
        f.debug_struct("LocalFile")
            .field("kind", &self.kind)
            .field("found_as", &name)
            .finish_non_exhaustive()
    }
}

impl Drop for LocalFile {
    fn drop(&mut self) {
        // Each file keeps its directory. Let go of a long chain in a loop: as nested drops it would
        // be as deep in the stack as the tree is.
        let mut next = self.place.get_mut().take();
        while let Some((dir, _)) = next {
            next = Arc::into_inner(dir).and_then(|mut dir| dir.place.get_mut().take());
        }
    }
}

impl RemoteFile for LocalFile {
    fn key(&self) -> &[u8] {
        &self.key
    }

    fn limits(&self) -> IoLimits {
        self.tree.limits
    }

    fn read(self: Arc<Self>, sub: ReadSub) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let tree = Arc::clone(&self.tree);
            let inner = Arc::clone(&tree);
            let job = move || read::read(&inner, &self, sub);
            // A sub that did not get to its job was dropped with it, which the core takes as
            // cancelled; there is nobody else to tell.
            if let Err(e) = tree.pool.run(None, job).await {
                tracing::debug!("a read of the local tree was not run: {e}");
            }
        })
    }

    fn write(self: Arc<Self>, sub: WriteSub) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let tree = Arc::clone(&self.tree);
            let (inner, lane) = (Arc::clone(&tree), self.changes());
            let job = move || write::write(&inner, &self, sub);
            // As for reads: a sub that did not get to its job was dropped with it.
            if let Err(e) = tree.pool.run(Some(lane), job).await {
                tracing::debug!("a write of the local tree was not run: {e}");
            }
        })
    }

    /// Syncs the whole file, whatever the range.
    fn commit(
        self: Arc<Self>,
        _range: Range<u64>,
        cx: Cx,
    ) -> BoxFuture<'static, Result<(Bytes, Option<Change>)>> {
        // A sync changes nothing that a version shows.
        let lane = Lane::Syncs(self.shared_key());
        self.work(lane, cx, |file, tree, _| Ok((tree.unsynced.sync(&file.key)?, None)))
    }

    fn set_size(self: Arc<Self>, size: u64, cx: Cx) -> BoxFuture<'static, Result<Change>> {
        self.change(cx, move |file, tree, cx| change::set_size(tree, file, size, cx))
    }

    fn allocate(
        self: Arc<Self>,
        range: Range<u64>,
        keep_size: bool,
        cx: Cx,
    ) -> BoxFuture<'static, Result<Change>> {
        let flags = if keep_size { FallocateFlags::KEEP_SIZE } else { FallocateFlags::empty() };
        self.change(cx, move |file, tree, cx| change::allocate(tree, file, &range, flags, cx))
    }

    fn deallocate(
        self: Arc<Self>,
        range: Range<u64>,
        cx: Cx,
    ) -> BoxFuture<'static, Result<Change>> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.change(cx, move |file, tree, cx| change::allocate(tree, file, &range, flags, cx))
    }

    fn validate(self: Arc<Self>, cx: Cx) -> BoxFuture<'static, Result<Facts>> {
        let tree = Arc::clone(&self.tree);
        Box::pin(tree::run(tree, None, cx, move |tree, _| tree.reply(&self)))
    }
}
