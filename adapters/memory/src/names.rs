//! Changes of names and attributes by a client.

use bytes::Bytes;
use netfs::{
    Errno, Result,
    remote::{
        AccessMask, Change, Created, Cred, Cx, FileKind, NameChange, NewFile, RenameHow, SetAttr,
        SetTime, Version,
    },
};

use crate::{
    change::deleted,
    content::Content,
    fault::{Op, Verdict},
    file::MemoryFile,
    fs::MemoryFs,
    origin::{Acted, Site, State, key_bytes},
    rights::{
        SETGID, error, may_add, may_take, must_own, permit, search, volume_writable,
        without_privileges,
    },
    tree::{KEY_LEN, Node, NodeId},
};

/// Longest target of a symbolic link.
const TARGET_MAX: usize = 4095;

impl MemoryFs {
    pub(crate) async fn do_create(
        &self,
        dir: NodeId,
        name: Bytes,
        what: NewFile,
        cx: Cx,
    ) -> Result<Created<MemoryFile>> {
        let site = Site { name: Some(name.clone()), ..Site::new(Op::Create, dir, &cx) };
        let act = |state: &mut State, _: &Verdict| {
            let before = state.version(state.tree.node(dir)?);
            let id = create(state, (dir, &name), what, cx.cred())?;
            let found = self.found(state, state.tree.node(id)?);
            let change = state.change(before, state.tree.node(dir)?);
            let value = Created::new(found.file, found.facts, Some(change));
            Ok(Acted { value, events: vec![state.broken(dir)?] })
        };
        let mut reply = self.origin.modify(site, &self.as_client(), act).await;
        if let Ok(created) = &mut reply.answer {
            reply.verdict.lie(&mut created.found.facts);
            created.dir.iter_mut().for_each(|change| reply.verdict.tell(change));
        }
        reply.end()
    }

    pub(crate) async fn do_link(
        &self,
        file: NodeId,
        dir: NodeId,
        name: Bytes,
        cx: Cx,
    ) -> Result<NameChange> {
        let site = Site { name: Some(name.clone()), ..Site::new(Op::Link, file, &cx) };
        self.change_names(site, |state| link(state, file, (dir, &name), cx.cred())).await
    }

    pub(crate) async fn do_remove(
        &self,
        dir: NodeId,
        name: Bytes,
        dir_wanted: bool,
        cx: Cx,
    ) -> Result<NameChange> {
        let site = Site { name: Some(name.clone()), ..Site::new(Op::Remove, dir, &cx) };
        self.change_names(site, |state| remove(state, (dir, &name), dir_wanted, cx.cred())).await
    }

    pub(crate) async fn do_rename(
        &self,
        from: (NodeId, Bytes),
        to: (NodeId, Bytes),
        how: RenameHow,
        cx: Cx,
    ) -> Result<NameChange> {
        let site = Site { name: Some(from.1.clone()), ..Site::new(Op::Rename, from.0, &cx) };
        let (from, to) = ((from.0, &from.1[..]), (to.0, &to.1[..]));
        self.change_names(site, |state| rename(state, from, to, how, cx.cred())).await
    }

    pub(crate) async fn do_set_attr(&self, id: NodeId, set: SetAttr, cx: Cx) -> Result<Change> {
        let site = Site::new(Op::SetAttr, id, &cx);
        let act = |state: &mut State, _: &Verdict| {
            let before = state.version(state.tree.node(id)?);
            set_attr(state, id, set, cx.cred())?;
            let value = state.change(before, state.tree.node(id)?);
            Ok(Acted { value, events: vec![state.broken(id)?] })
        };
        let mut reply = self.origin.modify(site, &self.as_client(), act).await;
        if let Ok(change) = &mut reply.answer {
            reply.verdict.tell(change);
        }
        reply.end()
    }

    async fn change_names(
        &self,
        site: Site,
        act: impl FnOnce(&mut State) -> Result<Acted<NameChange>>,
    ) -> Result<NameChange> {
        let act = |state: &mut State, _: &Verdict| act(state);
        let mut reply = self.origin.modify(site, &self.as_client(), act).await;
        if let Ok(NameChange { dir, from, file, other, .. }) = &mut reply.answer {
            [dir, from, file, other].into_iter().flatten().for_each(|c| reply.verdict.tell(c));
        }
        reply.end()
    }
}

/// Versions by file.
type Before = Vec<(NodeId, Option<Version>)>;
type Place<'a> = (NodeId, &'a [u8]);

fn create(state: &mut State, place: Place<'_>, what: NewFile, cred: &Cred) -> Result<NodeId> {
    let dir = search(state, place.0, place.1, cred)?;
    // A directory with the setgid bit hands its group down.
    let inherit = (dir.mode & SETGID != 0).then_some(dir.gid);
    if state.tree.get(place)?.is_some() {
        return Err(error(Errno::EEXIST, "the name exists"));
    }
    may_add(state, place.0, cred)?;
    let (kind, mode, content) = match what {
        NewFile::File(mode) => (FileKind::File, mode & 0o7777, Content::default()),
        NewFile::Dir(mode) => {
            let setgid = if inherit.is_some() { SETGID } else { 0 };
            (FileKind::Dir, mode & 0o7777 | setgid, Content::default())
        }
        NewFile::Symlink(target) => {
            match target.len() {
                0 => return Err(error(Errno::ENOENT, "a link to nowhere")),
                1..=TARGET_MAX => {}
                _ => return Err(error(Errno::ENAMETOOLONG, "a link's target is too long")),
            }
            (FileKind::Symlink, 0o777, Content::literal(target))
        }
        _ => return Err(error(Errno::EOPNOTSUPP, "no files of that kind")),
    };
    let id = state.tree.create_in(place, kind, |_| content)?;
    let node = state.tree.node_mut(id)?;
    (node.mode, node.uid, node.gid) = (mode, cred.uid, inherit.unwrap_or(cred.gid));
    Ok(id)
}

fn link(
    state: &mut State,
    file: NodeId,
    place: Place<'_>,
    cred: &Cred,
) -> Result<Acted<NameChange>> {
    let kind = state.tree.node(file)?.kind;
    search(state, place.0, place.1, cred)?;
    if state.tree.get(place)?.is_some() {
        return Err(error(Errno::EEXIST, "the name exists"));
    }
    may_add(state, place.0, cred)?;
    if kind == FileKind::Dir {
        return Err(error(Errno::EPERM, "a directory has one name"));
    }
    let before = state.before([place.0, file]);
    state.tree.link_in(file, place, state.settings.attr_moves_version)?;
    let events = vec![state.broken(place.0)?, state.broken(file)?];
    Ok(Acted { value: state.names(&before, [Some(place.0), None, Some(file), None], &[]), events })
}

fn remove(
    state: &mut State,
    place: Place<'_>,
    dir_wanted: bool,
    cred: &Cred,
) -> Result<Acted<NameChange>> {
    let dir = search(state, place.0, place.1, cred)?;
    let file = dir.dir.get(place.1).ok_or_else(no_name)?;
    may_take(state, place.0, file, cred)?;
    replaceable(state.tree.node(file)?, dir_wanted)?;
    let before = state.before([place.0, file]);
    let gone = state.tree.remove_in(place, state.settings.attr_moves_version)?;
    let mut events = deleted(&state.tree, &gone);
    // Another name of the file lives on; its link count changed.
    events.extend(state.broken(file).ok());
    events.push(state.broken(place.0)?);
    let value = state.names(&before, [Some(place.0), None, Some(file), None], &gone);
    Ok(Acted { value, events })
}

fn rename(
    state: &mut State,
    from: Place<'_>,
    to: Place<'_>,
    how: RenameHow,
    cred: &Cred,
) -> Result<Acted<NameChange>> {
    let moved = search(state, from.0, from.1, cred)?.dir.get(from.1).ok_or_else(no_name)?;
    let other = search(state, to.0, to.1, cred)?.dir.get(to.1);
    match (how, other) {
        (RenameHow::NoReplace, Some(_)) => return Err(error(Errno::EEXIST, "the name exists")),
        (RenameHow::Exchange, None) => return Err(no_name()),
        _ => {}
    }
    volume_writable(state)?;
    let from_dir = (from.0 != to.0).then_some(from.0);
    let whose = [Some(to.0), from_dir, Some(moved), other.filter(|other| *other != moved)];
    let before = state.before(whose.into_iter().flatten());
    if other == Some(moved) {
        // Two names of one file, or one name: nothing happens.
        let value = state.names(&before, whose, &[]);
        return Ok(Acted { value, events: Vec::new() });
    }
    may_move(state, moved, from.0, to.0, cred)?;
    let move_version = state.settings.attr_moves_version;
    let gone = match other {
        Some(other) if how == RenameHow::Exchange => {
            may_move(state, other, to.0, from.0, cred)?;
            state.tree.exchange(from, to, move_version)?;
            Vec::new()
        }
        _ => {
            may_add(state, to.0, cred)?;
            if let Some(other) = other {
                may_take(state, to.0, other, cred)?;
                let is_dir = state.tree.node(moved)?.kind == FileKind::Dir;
                replaceable(state.tree.node(other)?, is_dir)?;
            }
            state.tree.rename_in(from, to, move_version)?
        }
    };
    let mut events = deleted(&state.tree, &gone);
    for id in [Some(to.0), from_dir, Some(moved)].into_iter().flatten() {
        events.push(state.broken(id)?);
    }
    // What was replaced and has other names, or went the other way.
    events.extend(other.and_then(|id| state.broken(id).ok()));
    Ok(Acted { value: state.names(&before, whose, &gone), events })
}

/// Whether a file's name may go from one directory to another.
fn may_move(state: &State, file: NodeId, from: NodeId, to: NodeId, cred: &Cred) -> Result<()> {
    may_take(state, from, file, cred)?;
    may_add(state, to, cred)?;
    let node = state.tree.node(file)?;
    if node.kind == FileKind::Dir && from != to {
        // Its `..` changes.
        permit(state, node, cred, AccessMask::WRITE)?;
    }
    Ok(())
}

/// Whether a name may be taken from `node` by removing it, or by moving a directory (or not) over it.
fn replaceable(node: &Node, dir: bool) -> Result<()> {
    match (node.kind == FileKind::Dir, dir) {
        (true, false) => Err(error(Errno::EISDIR, "a directory")),
        (false, true) => Err(error(Errno::ENOTDIR, "not a directory")),
        (true, true) if node.dir.ids().next().is_some() => {
            Err(error(Errno::from_raw(libc::ENOTEMPTY), "a directory that is not empty"))
        }
        _ => Ok(()),
    }
}

fn set_attr(state: &mut State, id: NodeId, set: SetAttr, cred: &Cred) -> Result<()> {
    let node = state.tree.node(id)?;
    volume_writable(state)?;
    let mut mode = node.mode;
    if set.uid.is_some() || set.gid.is_some() {
        may_chown(state, node, set, cred)?;
        mode = without_privileges(mode, cred);
    }
    if let Some(bits) = set.mode {
        must_own(state, node, cred)?;
        let gid = set.gid.unwrap_or(node.gid);
        let foreign = state.settings.check_access && !cred.is_root() && !cred.in_group(gid);
        mode = bits & 0o7777 & if foreign { !SETGID } else { !0 };
    }
    for time in [set.atime, set.mtime].into_iter().flatten() {
        let own = must_own(state, node, cred);
        match time {
            // "Now" is what a write would do too.
            SetTime::Now if own.is_err() => permit(state, node, cred, AccessMask::WRITE)?,
            _ => own?,
        }
    }
    let now = state.tree.next_time();
    let at = |time: SetTime| match time {
        SetTime::Now => now,
        SetTime::To(time) => time,
    };
    state.tree.set_attr(id, state.settings.attr_moves_version, |node| {
        node.mode = mode;
        node.uid = set.uid.unwrap_or(node.uid);
        node.gid = set.gid.unwrap_or(node.gid);
        node.atime = set.atime.map_or(node.atime, at);
        node.mtime = set.mtime.map_or(node.mtime, at);
    })?;
    Ok(())
}

/// Only root gives files away; an owner may choose among their groups.
fn may_chown(state: &State, node: &Node, set: SetAttr, cred: &Cred) -> Result<()> {
    must_own(state, node, cred)?;
    if !state.settings.check_access || cred.is_root() {
        return Ok(());
    }
    let same_user = set.uid.is_none_or(|uid| uid == node.uid);
    let own_group = set.gid.is_none_or(|gid| gid == node.gid || cred.in_group(gid));
    if same_user && own_group { Ok(()) } else { Err(error(Errno::EPERM, "only root may do this")) }
}

fn no_name() -> netfs::Error {
    error(Errno::ENOENT, "no such name")
}

impl State {
    /// The versions of directories and files whose names are about to be changed.
    fn before(&self, ids: impl IntoIterator<Item = NodeId>) -> Before {
        let version = |id| (id, self.tree.node(id).ok().and_then(|node| self.version(node)));
        ids.into_iter().map(version).collect()
    }

    /// What a reply says about names that changed: of the directory, the one moved from, the file, and the one
    /// that stood there. A file or directory that is gone has no facts.
    fn names(
        &self,
        before: &Before,
        whose: [Option<NodeId>; 4],
        gone: &[[u8; KEY_LEN]],
    ) -> NameChange {
        let change = |id: Option<NodeId>| {
            let node = self.tree.node(id?).ok().filter(|node| !gone.contains(&node.key))?;
            let found = before.iter().find(|(of, _)| Some(*of) == id);
            Some(self.change(found.and_then(|(_, version)| version.clone()), node))
        };
        let [dir, from, file, other] = whose.map(change);
        NameChange { dir, from, file, other, gone: gone.first().map(key_bytes) }
    }
}
