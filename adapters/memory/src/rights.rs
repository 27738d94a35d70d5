//! Who may do what, judged the way a POSIX server does.

use netfs::{
    Errno, Error, Result,
    remote::{AccessMask, Cred, Cx, FileKind},
};

use crate::{
    file::Opened,
    origin::State,
    tree::{Node, NodeId},
};

/// Longest name.
pub(crate) const NAME_MAX: usize = 255;

const SETUID: u32 = 0o4000;
pub(crate) const SETGID: u32 = 0o2000;
const STICKY: u32 = 0o1000;

pub(crate) fn error(errno: Errno, what: &'static str) -> Error {
    Error::new(errno, format!("memory origin: {what}"))
}

pub(crate) fn directory(state: &State, id: NodeId) -> Result<&Node> {
    let node = state.tree.node(id)?;
    if node.kind != FileKind::Dir {
        return Err(error(Errno::ENOTDIR, "not a directory"));
    }
    Ok(node)
}

pub(crate) fn permit(state: &State, node: &Node, cred: &Cred, mask: AccessMask) -> Result<()> {
    if state.settings.check_access && !node.allows(cred, mask) {
        return Err(error(Errno::EACCES, "permission denied"));
    }
    Ok(())
}

/// Nothing changes on a read-only server.
pub(crate) fn volume_writable(state: &State) -> Result<()> {
    if state.settings.read_only {
        return Err(error(Errno::EROFS, "the server is read-only"));
    }
    Ok(())
}

/// The file, if its data may be changed: by an open that was granted that, or by the mode bits now.
pub(crate) fn writable<'a>(state: &'a State, id: NodeId, cx: &Cx) -> Result<&'a Node> {
    let node = state.tree.node(id)?;
    match node.kind {
        FileKind::File => {}
        FileKind::Dir => return Err(error(Errno::EISDIR, "a directory has no data to change")),
        _ => return Err(error(Errno::EINVAL, "only a file has data to change")),
    }
    volume_writable(state)?;
    if !cx.token().get::<Opened>().is_some_and(|open| open.writes(id)) {
        permit(state, node, cx.cred(), AccessMask::WRITE)?;
    }
    Ok(node)
}

/// The directory of a name that is looked up.
pub(crate) fn search<'a>(
    state: &'a State,
    dir: NodeId,
    name: &[u8],
    cred: &Cred,
) -> Result<&'a Node> {
    let node = directory(state, dir)?;
    permit(state, node, cred, AccessMask::EXEC)?;
    if name.is_empty()
        || name == b"."
        || name == b".."
        || name.iter().any(|b| matches!(b, 0 | b'/'))
    {
        return Err(error(Errno::EINVAL, "not a file name"));
    }
    if name.len() > NAME_MAX {
        return Err(error(Errno::ENAMETOOLONG, "name longer than 255 bytes"));
    }
    Ok(node)
}

/// Whether names may be added to a directory.
pub(crate) fn may_add(state: &State, dir: NodeId, cred: &Cred) -> Result<()> {
    volume_writable(state)?;
    permit(state, directory(state, dir)?, cred, AccessMask::WRITE.union(AccessMask::EXEC))
}

/// Whether the name of `file` may be taken from a directory.
pub(crate) fn may_take(state: &State, dir: NodeId, file: NodeId, cred: &Cred) -> Result<()> {
    may_add(state, dir, cred)?;
    let (dir, file) = (state.tree.node(dir)?, state.tree.node(file)?);
    let owner = [dir.uid, file.uid].contains(&cred.uid) || cred.is_root();
    if dir.mode & STICKY != 0 && !owner && state.settings.check_access {
        return Err(error(Errno::EPERM, "somebody else's file in a sticky directory"));
    }
    Ok(())
}

/// Whether `cred` owns the file or need not.
pub(crate) fn must_own(state: &State, node: &Node, cred: &Cred) -> Result<()> {
    if state.settings.check_access && !cred.is_root() && cred.uid != node.uid {
        return Err(error(Errno::EPERM, "only the owner may do this"));
    }
    Ok(())
}

/// The permission bits after somebody else than root changed data or owner: what runs with the rights
/// of another is not what that one left there.
pub(crate) fn without_privileges(mode: u32, cred: &Cred) -> u32 {
    if cred.is_root() {
        return mode;
    }
    // Without the group's x bit it means mandatory locking, which gives no rights.
    let setgid = if mode & 0o010 == 0 { 0 } else { SETGID };
    mode & !SETUID & !setgid
}
