//! The namespace as the core sees it.

use std::sync::Arc;

use bytes::Bytes;
use netfs::{
    Errno, Error, Result,
    coherency::VolumeEvents,
    remote::{
        AccessMask, BoxFuture, Cred, Cx, DirEntry, DirPage, Facts, FileKind, Found, LookupReply,
        OpenIntent, OpenToken, RemoteFs, StatFs, VolumeId,
    },
};

use crate::{
    fault::{Lie, Op},
    file::MemoryFile,
    fs::MemoryFs,
    origin::{Origin, Site, State},
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
            let answer = |state: &State| Ok(found(origin, state, state.tree.root()));
            let mut reply = origin.call(Site::new(Op::Root, id, &cx), 0, answer).await;
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

    fn lookup(
        self: Arc<Self>,
        dir: Arc<MemoryFile>,
        name: Bytes,
        cx: Cx,
    ) -> BoxFuture<'static, Result<LookupReply<MemoryFile>>> {
        Box::pin(async move {
            let origin = &self.origin;
            let site = Site { name: Some(name.clone()), ..Site::new(Op::Lookup, dir.id, &cx) };
            let answer = |state: &State| lookup(origin, state, dir.id, &name, cx.cred());
            let mut reply = origin.call(site, 0, answer).await;
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
            let answer = |state: &State| readdir(origin, state, dir.id, cookie, plus, cx.cred());
            let mut reply = origin.call(Site::new(Op::Readdir, dir.id, &cx), 0, answer).await;
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
            let mut reply = self.origin.call(site, 0, answer).await;
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
            self.origin.call(Site::new(Op::Access, file.id, &cx), 0, answer).await.end()
        })
    }

    fn open(
        self: Arc<Self>,
        file: Arc<MemoryFile>,
        _intent: OpenIntent,
        cx: Cx,
    ) -> BoxFuture<'static, Result<(OpenToken, Option<Facts>)>> {
        Box::pin(async move {
            let answer = |state: &State| {
                let node = state.tree.node(file.id)?;
                permit(state, node, cx.cred(), AccessMask::READ)?;
                Ok(state.facts(node))
            };
            let site = Site::new(Op::Open, file.id, &cx);
            let mut reply = self.origin.call(site, 0, answer).await;
            lie(reply.answer.as_mut().ok(), &reply.verdict.lies);
            let facts = reply.end()?;
            Ok((self.origin.open_token(), Some(facts)))
        })
    }

    fn statfs(self: Arc<Self>, cx: Cx) -> BoxFuture<'static, Result<StatFs>> {
        Box::pin(async move {
            let id = self.origin.state.lock().tree.root().id;
            let site = Site::new(Op::Statfs, id, &cx);
            self.origin.call(site, 0, |state| Ok(statfs(state))).await.end()
        })
    }
}

fn lookup(
    origin: &Arc<Origin>,
    state: &State,
    dir: NodeId,
    name: &[u8],
    cred: &Cred,
) -> Result<LookupReply<MemoryFile>> {
    let dir = directory(state, dir)?;
    permit(state, dir, cred, AccessMask::EXEC)?;
    if name.len() > NAME_MAX {
        return Err(Error::new(Errno::ENAMETOOLONG, "memory origin: name longer than 255 bytes"));
    }
    let node = dir.dir.get(name).map(|id| state.tree.node(id)).transpose()?;
    let found = node.map(|node| found(origin, state, node));
    Ok(LookupReply { found, dir: Some(state.facts(dir)) })
}

fn readdir(
    origin: &Arc<Origin>,
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
            plus: plus.then(|| found(origin, state, node)),
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

const NAME_MAX: usize = 255;

fn directory(state: &State, id: NodeId) -> Result<&Node> {
    let node = state.tree.node(id)?;
    if node.kind != FileKind::Dir {
        return Err(Error::new(Errno::ENOTDIR, "memory origin: not a directory"));
    }
    Ok(node)
}

fn permit(state: &State, node: &Node, cred: &Cred, mask: AccessMask) -> Result<()> {
    if state.settings.check_access && !node.allows(cred, mask) {
        return Err(Error::new(Errno::EACCES, "memory origin: permission denied"));
    }
    Ok(())
}

fn found(origin: &Arc<Origin>, state: &State, node: &Node) -> Found<MemoryFile> {
    Found { file: MemoryFile::new(origin, node), facts: state.facts(node) }
}

fn lie<'a>(facts: impl IntoIterator<Item = &'a mut Facts>, lies: &[Lie]) {
    for facts in facts {
        lies.iter().for_each(|lie| lie.tell(facts));
    }
}
