//! What a change says of itself: the version it found and the one it left.
//!
//! The tuple is taken before and after, while no other change by this adapter is under way
//! ([`Lane::Changes`](crate::pool::Lane)). Nothing tells whether another process changed the file between the
//! two: such a change is taken for a part of ours (see the crate's "what it cannot see").

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use netfs::{
    Error, Result,
    error::Errno,
    remote::{AccessMask, Attr, Change, Cred, Cx, Facts, FileKind, Version},
};
use rustix::fs::{FallocateFlags, Mode};

use crate::{
    file::LocalFile,
    handles::{open_for_writing, stale},
    opened::OpenFile,
    stat::Stat,
    tree::{self, Tree},
};

/// A file about to be changed: how to reach it, as it is.
pub(crate) struct Target<'a> {
    tree: &'a Tree,
    file: &'a LocalFile,
    base: Base<'a>,
    before: Option<Version>,
    /// What its mode becomes with the change of its data, if that is another one.
    plain_mode: Option<u32>,
}

enum Base<'a> {
    Token(&'a OpenFile),
    Shared(Arc<OwnedFd>),
}

impl Base<'_> {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Base::Token(open) => open.fd.as_fd(),
            Base::Shared(fd) => fd.as_fd(),
        }
    }
}

impl<'a> Target<'a> {
    /// A regular file whose data is to be changed: by right of the open, or of the caller now. In the file's lane
    /// of changes.
    pub(crate) fn data(tree: &'a Tree, file: &'a LocalFile, cx: &'a Cx) -> Result<Target<'a>> {
        match file.kind() {
            FileKind::File => {}
            FileKind::Dir => return Err(Error::new(Errno::EISDIR, "a directory has no data")),
            _ => return Err(Error::new(Errno::EINVAL, "only regular files have data to change")),
        }
        tree.check_writable()?;
        let open = cx.token().get::<OpenFile>().filter(|open| open.writes(&file.shared_key()));
        if let Some(open) = open {
            return Target::begin(tree, file, Base::Token(open), Some(cx.cred()));
        }
        let (fd, st) = tree.live(file)?;
        tree.require(fd.as_fd(), &st, cx.cred(), AccessMask::WRITE)?;
        Target::begin(tree, file, Base::Shared(fd), Some(cx.cred()))
    }

    /// Any file, whose attributes are to be changed; the caller has seen to the rights.
    pub(crate) fn attributes(
        tree: &'a Tree,
        file: &'a LocalFile,
        fd: Arc<OwnedFd>,
    ) -> Result<Target<'a>> {
        Target::begin(tree, file, Base::Shared(fd), None)
    }

    /// `writer`: who changes the data, if anybody does.
    fn begin(
        tree: &'a Tree,
        file: &'a LocalFile,
        base: Base<'a>,
        writer: Option<&Cred>,
    ) -> Result<Target<'a>> {
        let asked = tree.ask_unwatched();
        let st = tree.stat(base.fd())?;
        let key = file.shared_key();
        let settled = tree.stamps.settled(&key, &st, asked.at, || tree.writers(file));
        let before = settled.then(|| st.version()).flatten();
        let plain_mode = writer.and_then(|writer| plain_mode(&st.attr, writer));
        Ok(Target { tree, file, base, before, plain_mode })
    }

    /// A descriptor for writing, of a file that has lost its set-id bits where the writer's own system calls
    /// would have taken them (row 61): a kernel leaves them to a process that is root, which this one may be
    /// for somebody else. It must be closed before [`end`](Target::end): while it is open nobody can
    /// be told from other writers.
    pub(crate) fn open(&self) -> Result<OwnedFd> {
        let fd = open_for_writing(self.base.fd()).map_err(|e| match e.raw_os_error() {
            // The way to a file that is gone, on a network mount.
            Some(libc::ESTALE | libc::ENOENT) => stale(),
            _ => Error::io(e, "opening a file of the local tree for writing"),
        })?;
        // Any other process's bits the kernel takes itself.
        if let Some(mode) = self.plain_mode.filter(|_| rustix::process::geteuid().is_root()) {
            rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode))
                .map_err(|e| Error::io(e.into(), "taking the set-id bits of a file"))?;
        }
        Ok(fd)
    }

    /// After the change: what a reply says of it.
    pub(crate) fn end(self) -> Result<Change> {
        let Target { tree, file, base, before, .. } = self;
        let after = tree.fresh_facts(file, base.fd())?;
        Ok(Change::new(before, after))
    }
}

/// The permission bits that a change of its data by `writer` leaves a file, if they are others than it has: as the
/// kernel, without set-user-id, and without set-group-id if its group may execute it or is not the writer's.
fn plain_mode(attr: &Attr, writer: &Cred) -> Option<u32> {
    if writer.is_root() {
        return None;
    }
    let gid_goes = attr.mode & 0o010 != 0 || !writer.in_group(attr.gid);
    let bits = attr.mode & (0o4000 | if gid_goes { 0o2000 } else { 0 });
    (bits != 0).then_some(attr.mode & !bits)
}

impl Tree {
    /// The facts of a file that we just changed or made, with a version if the kernel lets us know that
    /// this is what it holds.
    pub(crate) fn fresh_facts(&self, file: &LocalFile, fd: BorrowedFd<'_>) -> Result<Facts> {
        let key = file.shared_key();
        let asked = self.ask(&key, fd, file.kind());
        let st = self.stat(fd)?;
        let again = || self.stat(fd).is_ok_and(|now: Stat| now.same_content(&st));
        let known = self.stamps.fresh(&key, &st, || self.writers(file), again);
        Ok(tree::facts(&st, known.then_some(asked)))
    }
}

/// Changes the data of a file other than by a write, on the disk too: no commit follows.
pub(crate) fn change_data(
    tree: &Tree,
    file: &LocalFile,
    cx: &Cx,
    change: impl FnOnce(BorrowedFd<'_>) -> rustix::io::Result<()>,
) -> Result<Change> {
    let target = Target::data(tree, file, cx)?;
    let fd = target.open()?;
    let failed = |e: rustix::io::Errno| Error::io(e.into(), "changing a file of the local tree");
    change(fd.as_fd()).map_err(failed)?;
    rustix::fs::fdatasync(&fd).map_err(failed)?;
    drop(fd);
    target.end()
}

pub(crate) fn set_size(tree: &Tree, file: &LocalFile, size: u64, cx: &Cx) -> Result<Change> {
    if size > tree.limits.max_size {
        return Err(Error::new(Errno::EFBIG, "a size past the largest"));
    }
    change_data(tree, file, cx, |fd| rustix::fs::ftruncate(fd, size))
}

/// `fallocate(2)`.
pub(crate) fn allocate(
    tree: &Tree,
    file: &LocalFile,
    range: &std::ops::Range<u64>,
    flags: FallocateFlags,
    cx: &Cx,
) -> Result<Change> {
    if range.is_empty() {
        return Err(Error::new(Errno::EINVAL, "an empty range"));
    }
    if range.end > tree.limits.max_size {
        return Err(Error::new(Errno::EFBIG, "a range past the largest size"));
    }
    let (offset, len) = (range.start, range.end - range.start);
    change_data(tree, file, cx, |fd| {
        loop {
            // A long allocation is interrupted by any signal, and continued by asking again.
            match rustix::fs::fallocate(fd, flags, offset, len) {
                Err(rustix::io::Errno::INTR) => {}
                done => return done,
            }
        }
    })
}
