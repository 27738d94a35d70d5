//! Making files, so that nobody can slip in another one.
//!
//! Whoever may change a directory may put a file of somebody else's under a name there as soon as we have made
//! ours. So nothing is done to what merely stands under the name afterwards:
//!
//! - **M1** For another user the kernel makes the file with that user's rights
//!   ([`act_for`](crate::access::Own::act_for)): it is theirs from the start, and nothing is ever given away.
//! - **M2** A regular file is what the descriptor stands for that made it; its mode is set through that.
//! - **M3** Of a directory the kernel tells only the name. What stands there gets the mode that was asked for only if
//!   it is known to be new: a directory of the maker's that was born after the call began.
//! - **M4** No mode is set in a directory with a default ACL: what the kernel left out of the one that was asked for
//!   it left out because of that.
//! - **M5** Nothing is removed again: by a name it might be somebody else's.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use bytes::Bytes;
use netfs::{
    Error, Result,
    error::Errno,
    remote::{Created, Cx, FileKind, NewFile, TimeSpec},
};
use rustix::{fs::OFlags, process::geteuid};

use crate::{
    access::has_default_acl,
    file::LocalFile,
    handles::{Located, proc_path, stale},
    names::{Parent, bits},
    stamps::Moment,
    tree::Tree,
};

/// The set-id bits.
const SET_ID: u32 = 0o6000;

pub(crate) fn create(
    tree: &Arc<Tree>,
    dir: &Arc<LocalFile>,
    name: Bytes,
    what: &NewFile,
    cx: &Cx,
) -> Result<Created<LocalFile>> {
    let parent = Parent::open(tree, dir, &name, cx)?;
    let begun = Moment::now().wall;
    let new = tree.own.act_for(cx.cred(), || make(tree, &parent, &name, what))?;
    if let NewFile::Dir(mode) = what {
        let maker = if tree.own.acts_for(cx.cred()) { cx.cred().uid } else { geteuid().as_raw() };
        if is_new_dir(tree, &new, maker, begun) {
            set_dir_mode(&parent, &new, *mode)?;
        }
    }
    let file = LocalFile::new(tree, &new, Some((Arc::clone(dir), name)));
    let facts = tree.fresh_facts(&file, new.fd.as_fd())?;
    Ok(Created::new(file, facts, parent.facts(tree)))
}

/// Makes the file, by the rights of the calling thread.
fn make(tree: &Tree, parent: &Parent, name: &[u8], what: &NewFile) -> Result<Located> {
    let failed = |e: rustix::io::Errno| Error::io(e.into(), "making a file in the local tree");
    match what {
        NewFile::File(mode) => adopt(tree, parent, &open_new(parent, name, *mode)?, *mode),
        NewFile::Dir(mode) => {
            rustix::fs::mkdirat(&parent.fd, name, bits(*mode)).map_err(failed)?;
            look(tree, parent, name, FileKind::Dir)
        }
        NewFile::Symlink(target) => {
            rustix::fs::symlinkat(&target[..], &parent.fd, name).map_err(failed)?;
            look(tree, parent, name, FileKind::Symlink)
        }
        _ => Err(Error::new(Errno::EOPNOTSUPP, "no files of that kind")),
    }
}

fn open_new(parent: &Parent, name: &[u8], mode: u32) -> Result<OwnedFd> {
    let flags = OFlags::CREATE
        | OFlags::EXCL
        | OFlags::WRONLY
        | OFlags::NOFOLLOW
        | OFlags::NOCTTY
        | OFlags::CLOEXEC;
    rustix::fs::openat(&parent.fd, name, flags, bits(mode))
        .map_err(|e| Error::io(e.into(), "making a file in the local tree"))
}

/// The file that `made` has just made (M2), with the mode that was asked for: the kernel took the process's umask
/// away (but see M4).
fn adopt(tree: &Tree, parent: &Parent, made: &OwnedFd, mode: u32) -> Result<Located> {
    let new = tree
        .handles
        .found_as(made.as_fd())
        .map_err(|e| Error::io(e, "looking at a new file of the local tree"))?;
    if new.st.attr.mode != mode & 0o7777 && !has_default_acl(parent.fd.as_fd()) {
        allowed(rustix::fs::fchmod(made, bits(mode)))?;
    }
    Ok(new)
}

/// What stands under a name that was just made.
fn look(tree: &Tree, parent: &Parent, name: &[u8], kind: FileKind) -> Result<Located> {
    let found = parent.find(tree, name)?.filter(|found| found.st.attr.kind == kind);
    // Somebody was faster; what we made is theirs now.
    found.ok_or_else(stale)
}

/// Whether it is surely a directory that `maker` made after `begun` (M3). Where another host's clock tells the time
/// of birth, or nobody does, nothing is sure: then the process's umask counts.
fn is_new_dir(tree: &Tree, found: &Located, maker: u32, begun: TimeSpec) -> bool {
    let st = &found.st;
    let born_here = tree.kind.host_clock && st.btime.is_some_and(|born| born >= begun);
    born_here && st.attr.kind == FileKind::Dir && st.attr.uid == maker && st.attr.nlink <= 2
}

/// Gives a new directory its mode. Set-id bits are what the kernel made of them, as with `mkdir(2)`.
fn set_dir_mode(parent: &Parent, new: &Located, mode: u32) -> Result<()> {
    let now = new.st.attr.mode;
    let wanted = mode & !SET_ID & 0o7777 | now & SET_ID;
    if now == wanted || has_default_acl(parent.fd.as_fd()) {
        return Ok(());
    }
    // By way of /proc: before Linux 6.6 no call changes the mode of an `O_PATH` descriptor.
    allowed(rustix::fs::chmod(proc_path(new.fd.as_fd()), bits(wanted)))
}

/// A filesystem without such modes (FAT) makes files as it does; the reply says how.
fn allowed(set: rustix::io::Result<()>) -> Result<()> {
    match set {
        Ok(()) | Err(rustix::io::Errno::PERM | rustix::io::Errno::OPNOTSUPP) => Ok(()),
        Err(e) => Err(Error::io(e.into(), "setting the mode of a new file of the local tree")),
    }
}

#[cfg(test)]
mod tests;
