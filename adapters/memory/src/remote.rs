//! The namespace as the core sees it.

use std::sync::Arc;

use bytes::Bytes;
use netfs::{
    Errno, Error, Result,
    coherency::VolumeEvents,
    remote::{
        AccessMask, BoxFuture, Change, Created, Cred, Cx, DirEntry, DirPage, Facts, FileKind,
        Found, LookupReply, NameChange, NewFile, OpenIntent, OpenToken, RemoteFs, RenameHow,
        SetAttr, StatFs, VolumeId,
    },
};

use crate::{
    fault::{Lie, Op},
    file::MemoryFile,
    fs::MemoryFs,
    origin::{Site, State},
    rights::{NAME_MAX, directory, error, permit, search, volume_writable},
    tree::{Node, NodeId},
};

impl RemoteFs for MemoryFs {
    type File = MemoryFile;

    fn volume_id(&self) -> VolumeId {
        self.origin.volume_id.clone()
    }

    fn volume_coherency(&self) -> Bytes {
        self.origin.state.lock().settings.volume_coherency.clone()
    }

    fn root(self: Arc<Self>, cx: Cx) -> BoxFuture<'static, Result<Found<MemoryFile>>> {
        Box::pin(async move {
            let origin = &self.origin;
            let id = origin.state.lock().tree.root().id;
            let answer = |state: &State| Ok(self.found(state, state.tree.root()));
            let mut reply = origin.call(Site::new(Op::Root, id, &cx), answer).await;
            lie(reply.answer.as_mut().ok().map(|f| &mut f.facts), &reply.verdict.lies);
            reply.end()
        })
    }

    /// A client that attaches again (a restarted context) gets the events from then on; the old handle
    /// is forgotten.
    fn attach(&self, events: VolumeEvents) {
        // Bound to a name so that the old handle is dropped after the lock.
        let _old = self.events.lock().replace(events);
    }

    /// Counts as a lookup (of no name).
    fn by_key(
        self: Arc<Self>,
        key: Bytes,
        cx: Cx,
    ) -> BoxFuture<'static, Result<Found<MemoryFile>>> {
        Box::pin(async move {
            let origin = &self.origin;
            let id = origin.state.lock().tree.by_key(&key)?.id;
            let answer = |state: &State| Ok(self.found(state, state.tree.node(id)?));
            let mut reply = origin.call(Site::new(Op::Lookup, id, &cx), answer).await;
            lie(reply.answer.as_mut().ok().map(|f| &mut f.facts), &reply.verdict.lies);
            reply.end()
        })
    }

    fn lookup(
        self: Arc<Self>,
        dir: Arc<MemoryFile>,
        name: Bytes,
        cx: Cx,
    ) -> BoxFuture<'static, Result<LookupReply<MemoryFile>>> {
        Box::pin(async move {
            let origin = &self.origin;
            let site = Site { name: Some(name.clone()), ..Site::new(Op::Lookup, dir.id, &cx) };
            let answer = |state: &State| lookup(&self, state, dir.id, &name, cx.cred());
            let mut reply = origin.call(site, answer).await;
            let target = reply.answer.as_mut().ok().and_then(|r| r.found.as_mut());
            lie(target.map(|f| &mut f.facts), &reply.verdict.lies);
            reply.end()
        })
    }

    fn readdir(
        self: Arc<Self>,
        dir: Arc<MemoryFile>,
        cookie: u64,
        plus: bool,
        cx: Cx,
    ) -> BoxFuture<'static, Result<DirPage<MemoryFile>>> {
        Box::pin(async move {
            let origin = &self.origin;
            let answer = |state: &State| readdir(&self, state, dir.id, cookie, plus, cx.cred());
            let mut reply = origin.call(Site::new(Op::Readdir, dir.id, &cx), answer).await;
            if let Ok(page) = &mut reply.answer {
                let entries = page.entries.iter_mut().filter_map(|e| e.plus.as_mut());
                let all = entries.map(|f| &mut f.facts).chain(page.dir.as_mut());
                lie(all, &reply.verdict.lies);
            }
            reply.end()
        })
    }

    fn getattr(
        self: Arc<Self>,
        file: Arc<MemoryFile>,
        cx: Cx,
    ) -> BoxFuture<'static, Result<Facts>> {
        Box::pin(async move { file.stat(Op::Getattr, &cx).await })
    }

    fn readlink(
        self: Arc<Self>,
        file: Arc<MemoryFile>,
        cx: Cx,
    ) -> BoxFuture<'static, Result<(Bytes, Option<Facts>)>> {
        Box::pin(async move {
            let answer = |state: &State| {
                let node = state.tree.node(file.id)?;
                if node.kind != FileKind::Symlink {
                    return Err(Error::new(Errno::EINVAL, "memory origin: not a symbolic link"));
                }
                let content = &node.now.content;
                let len = usize::try_from(content.size()).map_err(|_| Errno::EFBIG)?;
                Ok((Bytes::from(content.read(0, len)), Some(state.facts(node))))
            };
            let site = Site::new(Op::Readlink, file.id, &cx);
            let mut reply = self.origin.call(site, answer).await;
            lie(reply.answer.as_mut().ok().and_then(|r| r.1.as_mut()), &reply.verdict.lies);
            reply.end()
        })
    }

    fn access(
        self: Arc<Self>,
        file: Arc<MemoryFile>,
        mask: AccessMask,
        cx: Cx,
    ) -> BoxFuture<'static, Result<bool>> {
        Box::pin(async move {
            let answer = |state: &State| {
                let node = state.tree.node(file.id)?;
                Ok(!state.settings.check_access || node.allows(cx.cred(), mask))
            };
            self.origin.call(Site::new(Op::Access, file.id, &cx), answer).await.end()
        })
    }

    fn open(
        self: Arc<Self>,
        file: Arc<MemoryFile>,
        intent: OpenIntent,
        cx: Cx,
    ) -> BoxFuture<'static, Result<(OpenToken, Option<Facts>)>> {
        Box::pin(async move {
            let answer = |state: &State| {
                let node = state.tree.node(file.id)?;
                may_open(state, node, intent, cx.cred())?;
                Ok(state.facts(node))
            };
            let site = Site::new(Op::Open, file.id, &cx);
            let mut reply = self.origin.call(site, answer).await;
            lie(reply.answer.as_mut().ok(), &reply.verdict.lies);
            let facts = reply.end()?;
            Ok((self.origin.open_token(file.id, intent), Some(facts)))
        })
    }

    fn create(
        self: Arc<Self>,
        dir: Arc<MemoryFile>,
        name: Bytes,
        what: NewFile,
        cx: Cx,
    ) -> BoxFuture<'static, Result<Created<MemoryFile>>> {
        Box::pin(async move { self.do_create(dir.id, name, what, cx).await })
    }

    fn link(
        self: Arc<Self>,
        file: Arc<MemoryFile>,
        dir: Arc<MemoryFile>,
        name: Bytes,
        cx: Cx,
    ) -> BoxFuture<'static, Result<NameChange>> {
        Box::pin(async move { self.do_link(file.id, dir.id, name, cx).await })
    }

    fn remove(
        self: Arc<Self>,
        dir: Arc<MemoryFile>,
        name: Bytes,
        dir_wanted: bool,
        cx: Cx,
    ) -> BoxFuture<'static, Result<NameChange>> {
        Box::pin(async move { self.do_remove(dir.id, name, dir_wanted, cx).await })
    }

    fn rename(
        self: Arc<Self>,
        from: (Arc<MemoryFile>, Bytes),
        to: (Arc<MemoryFile>, Bytes),
        how: RenameHow,
        cx: Cx,
    ) -> BoxFuture<'static, Result<NameChange>> {
        let (from, to) = ((from.0.id, from.1), (to.0.id, to.1));
        Box::pin(async move { self.do_rename(from, to, how, cx).await })
    }

    fn set_attr(
        self: Arc<Self>,
        file: Arc<MemoryFile>,
        set: SetAttr,
        cx: Cx,
    ) -> BoxFuture<'static, Result<Change>> {
        Box::pin(async move { self.do_set_attr(file.id, set, cx).await })
    }

    fn statfs(self: Arc<Self>, cx: Cx) -> BoxFuture<'static, Result<StatFs>> {
        Box::pin(async move {
            let id = self.origin.state.lock().tree.root().id;
            let site = Site::new(Op::Statfs, id, &cx);
            self.origin.call(site, |state| Ok(statfs(state))).await.end()
        })
    }
}

fn may_open(state: &State, node: &Node, intent: OpenIntent, cred: &Cred) -> Result<()> {
    if intent.reads() {
        permit(state, node, cred, AccessMask::READ)?;
    }
    if intent.writes() {
        if node.kind == FileKind::Dir {
            return Err(error(Errno::EISDIR, "a directory cannot be opened for writing"));
        }
        permit(state, node, cred, AccessMask::WRITE)?;
        volume_writable(state)?;
    }
    Ok(())
}

fn lookup(
    fs: &MemoryFs,
    state: &State,
    dir: NodeId,
    name: &[u8],
    cred: &Cred,
) -> Result<LookupReply<MemoryFile>> {
    let dir = search(state, dir, name, cred)?;
    let node = dir.dir.get(name).map(|id| state.tree.node(id)).transpose()?;
    let found = node.map(|node| fs.found(state, node));
    Ok(LookupReply { found, dir: Some(state.facts(dir)) })
}

fn readdir(
    fs: &MemoryFs,
    state: &State,
    dir: NodeId,
    cookie: u64,
    plus: bool,
    cred: &Cred,
) -> Result<DirPage<MemoryFile>> {
    let dir = directory(state, dir)?;
    permit(state, dir, cred, AccessMask::READ)?;
    // Attributes of entries take the right to search, as with stat on each.
    let plus = plus && permit(state, dir, cred, AccessMask::EXEC).is_ok();
    let mut after = dir.dir.after(cookie);
    let mut entries = Vec::new();
    for (cookie, name, id) in after.by_ref().take(state.settings.readdir_page.max(1)) {
        let node = state.tree.node(id)?;
        entries.push(DirEntry {
            name: name.clone(),
            cookie,
            kind: node.kind,
            ino: node.id,
            plus: plus.then(|| fs.found(state, node)),
        });
    }
    Ok(DirPage { entries, eof: after.next().is_none(), dir: Some(state.facts(dir)) })
}

fn statfs(state: &State) -> StatFs {
    const TOTAL: u64 = 1 << 50;
    const FILES: u64 = 1 << 32;
    state.settings.statfs.unwrap_or_else(|| {
        let bytes_free = TOTAL.saturating_sub(state.tree.data_bytes());
        StatFs {
            bytes_total: TOTAL,
            bytes_free,
            bytes_available: bytes_free,
            files_total: FILES,
            files_free: FILES.saturating_sub(state.tree.len() as u64),
            name_max: NAME_MAX as u32,
        }
    })
}

impl MemoryFs {
    pub(crate) fn found(&self, state: &State, node: &Node) -> Found<MemoryFile> {
        let file = MemoryFile::new(&self.origin, self.as_client(), node);
        Found { file, facts: state.facts(node) }
    }
}

fn lie<'a>(facts: impl IntoIterator<Item = &'a mut Facts>, lies: &[Lie]) {
    for facts in facts {
        lies.iter().for_each(|lie| lie.tell(facts));
    }
}
