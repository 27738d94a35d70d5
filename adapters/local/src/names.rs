//! Changes of names and attributes, with the `*at` calls of the kernel.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use bytes::Bytes;
use netfs::{
    Error, Result,
    error::Errno,
    remote::{AccessMask, Change, Cx, FileKind, NameChange, RenameHow, SetAttr, SetTime},
};
use rustix::fs::{AtFlags, CWD, Gid, Mode, RenameFlags, Timespec, Timestamps, Uid};

use crate::{
    access,
    change::Target,
    file::LocalFile,
    handles::{Located, proc_path},
    identity::check_name,
    stamps::Writers,
    stat::Stat,
    tree::Tree,
};

/// A directory whose names are about to be changed.
pub(crate) struct Parent {
    key: Arc<[u8]>,
    pub(crate) fd: Arc<OwnedFd>,
    st: Stat,
}

impl Parent {
    /// Checks what the kernel does not: the name, and the rights of other users.
    pub(crate) fn open(tree: &Tree, dir: &LocalFile, name: &[u8], cx: &Cx) -> Result<Parent> {
        check_name(name)?;
        if dir.kind() != FileKind::Dir {
            return Err(Error::new(Errno::ENOTDIR, "a name was changed in what is no directory"));
        }
        tree.check_writable()?;
        let (fd, st) = tree.live(dir)?;
        if tree.own.is_other(cx.cred()) {
            let mask = AccessMask::WRITE.union(AccessMask::EXEC);
            tree.require(fd.as_fd(), &st, cx.cred(), mask)?;
        }
        Ok(Parent { key: dir.shared_key(), fd, st })
    }

    /// What stands under a name.
    pub(crate) fn find(&self, tree: &Tree, name: &[u8]) -> Result<Option<Located>> {
        match tree.handles.find(self.fd.as_fd(), name) {
            Ok(located) => Ok(Some(located)),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(Error::io(e, "looking up a name in the local tree")),
        }
    }

    /// The same, to be taken away by the caller.
    fn take(&self, tree: &Tree, name: &[u8], cx: &Cx) -> Result<Located> {
        let found = self.find(tree, name)?.ok_or_else(no_name)?;
        self.may_take(tree, &found, cx)?;
        Ok(found)
    }

    fn may_take(&self, tree: &Tree, found: &Located, cx: &Cx) -> Result<()> {
        if tree.own.is_other(cx.cred()) && !access::may_take(&self.st, &found.st, cx.cred()) {
            return Err(Error::new(Errno::EPERM, "somebody else's file in a sticky directory"));
        }
        Ok(())
    }

    /// The directory as it is now. Its changes are too young for a version, and other processes' in between
    /// cannot be told from ours.
    pub(crate) fn facts(&self, tree: &Tree) -> Option<Change> {
        let asked = tree.ask_unwatched();
        let st = tree.stat(self.fd.as_fd()).ok()?;
        Some(Change::new(None, tree.facts(&self.key, &st, asked, || Writers::Unknown)))
    }
}

pub(crate) fn link(
    tree: &Tree,
    file: &LocalFile,
    dir: &LocalFile,
    name: &[u8],
    cx: &Cx,
) -> Result<NameChange> {
    let parent = Parent::open(tree, dir, name, cx)?;
    let (fd, _) = tree.live(file)?;
    // By way of /proc: a link by descriptor takes a privilege.
    let path = proc_path(fd.as_fd());
    rustix::fs::linkat(CWD, &path, &*parent.fd, name, AtFlags::SYMLINK_FOLLOW)
        .map_err(|e| Error::io(e.into(), "linking a file of the local tree"))?;
    let file = Some(Change::new(None, tree.fresh_facts(file, fd.as_fd())?));
    Ok(NameChange { dir: parent.facts(tree), file, ..NameChange::default() })
}

pub(crate) fn remove(
    tree: &Tree,
    dir: &LocalFile,
    name: &[u8],
    dir_wanted: bool,
    cx: &Cx,
) -> Result<NameChange> {
    let parent = Parent::open(tree, dir, name, cx)?;
    let found = parent.take(tree, name, cx)?;
    let flags = if dir_wanted { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    rustix::fs::unlinkat(&*parent.fd, name, flags)
        .map_err(|e| Error::io(e.into(), "removing a name from the local tree"))?;
    let (file, gone) = left(tree, &found);
    Ok(NameChange { dir: parent.facts(tree), file, gone, ..NameChange::default() })
}

pub(crate) fn rename(
    tree: &Tree,
    from: (&LocalFile, &[u8]),
    to: (&LocalFile, &[u8]),
    how: RenameHow,
    cx: &Cx,
) -> Result<NameChange> {
    let from_dir = Parent::open(tree, from.0, from.1, cx)?;
    let to_dir = Parent::open(tree, to.0, to.1, cx)?;
    let moved = from_dir.take(tree, from.1, cx)?;
    let other = to_dir.find(tree, to.1)?;
    if let Some(other) = &other {
        to_dir.may_take(tree, other, cx)?;
    }
    let is_dir = moved.st.attr.kind == FileKind::Dir;
    if is_dir && from_dir.key != to_dir.key && tree.own.is_other(cx.cred()) {
        // Its `..` changes.
        tree.require(moved.fd.as_fd(), &moved.st, cx.cred(), AccessMask::WRITE)?;
    }
    let flags = match how {
        RenameHow::Replace => RenameFlags::empty(),
        RenameHow::NoReplace => RenameFlags::NOREPLACE,
        RenameHow::Exchange => RenameFlags::EXCHANGE,
    };
    rustix::fs::renameat_with(&*from_dir.fd, from.1, &*to_dir.fd, to.1, flags)
        .map_err(|e| Error::io(e.into(), "moving a name in the local tree"))?;
    let (other, gone) = other.map_or((None, None), |other| left(tree, &other));
    Ok(NameChange {
        dir: to_dir.facts(tree),
        from: if from_dir.key == to_dir.key { None } else { from_dir.facts(tree) },
        file: left(tree, &moved).0,
        other,
        gone,
    })
}

/// What is left of a file after one of its names was changed: its facts, or its key if it is gone.
fn left(tree: &Tree, found: &Located) -> (Option<Change>, Option<Bytes>) {
    let asked = tree.ask_unwatched();
    // A file that cannot be looked at any more: nothing is said of it.
    let Ok(st) = tree.stat(found.fd.as_fd()) else { return (None, None) };
    if st.unlinked() {
        tree.handles.forget(&found.key);
        return (None, Some(Bytes::copy_from_slice(&found.key)));
    }
    (Some(Change::new(None, tree.facts(&found.key, &st, asked, || Writers::Maybe))), None)
}

/// In the file's lane of changes.
pub(crate) fn set_attr(tree: &Tree, file: &LocalFile, set: SetAttr, cx: &Cx) -> Result<Change> {
    set.uid.iter().chain(&set.gid).try_for_each(|id| access::is_id(*id))?;
    tree.check_writable()?;
    let (fd, st) = tree.live(file)?;
    if tree.own.is_other(cx.cred()) {
        let may_write = || tree.require(fd.as_fd(), &st, cx.cred(), AccessMask::WRITE).is_ok();
        if !access::may_set(&st, cx.cred(), set, may_write) {
            return Err(Error::new(Errno::EPERM, "only the file's owner may do this"));
        }
    }
    let target = Target::attributes(tree, file, Arc::clone(&fd))?;
    if set.uid.is_some() || set.gid.is_some() {
        chown(fd.as_fd(), set.uid.map(Uid::from_raw), set.gid.map(Gid::from_raw))?;
    }
    if let Some(mode) = set.mode {
        // After the owner: changing that takes the set-id bits away.
        chmod(fd.as_fd(), mode)?;
    }
    if set.atime.is_some() || set.mtime.is_some() {
        let times =
            Timestamps { last_access: timespec(set.atime), last_modification: timespec(set.mtime) };
        rustix::fs::utimensat(&*fd, c"", &times, AtFlags::EMPTY_PATH)
            .map_err(|e| Error::io(e.into(), "setting times in the local tree"))?;
    }
    target.end()
}

fn timespec(time: Option<SetTime>) -> Timespec {
    let (tv_sec, tv_nsec) = match time {
        None => (0, rustix::fs::UTIME_OMIT),
        Some(SetTime::Now) => (0, rustix::fs::UTIME_NOW),
        Some(SetTime::To(t)) => (t.sec, t.nsec.into()),
    };
    Timespec { tv_sec, tv_nsec }
}

fn chown(fd: BorrowedFd<'_>, uid: Option<Uid>, gid: Option<Gid>) -> Result<()> {
    rustix::fs::chownat(fd, c"", uid, gid, AtFlags::EMPTY_PATH)
        .map_err(|e| Error::io(e.into(), "changing an owner in the local tree"))
}

fn chmod(fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
    // By way of /proc: before Linux 6.6 no call changes the mode of an `O_PATH` descriptor.
    rustix::fs::chmod(proc_path(fd), bits(mode))
        .map_err(|e| Error::io(e.into(), "changing a mode in the local tree"))
}

pub(crate) fn bits(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777)
}

fn no_name() -> Error {
    Error::new(Errno::ENOENT, "no such name in the local tree")
}
