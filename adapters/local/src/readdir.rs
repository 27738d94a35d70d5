//! Listing a directory: stateless, by the filesystem's own positions (`d_off`), which stay good while
//! entries come and go.

use std::{
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use bytes::Bytes;
use netfs::{
    Error, Result,
    error::Errno,
    remote::{AccessMask, Cx, DirEntry, DirPage, FileKind, Found},
};
use rustix::fs::{FileType, RawDir, RawDirEntry, SeekFrom};

use crate::{file::LocalFile, stamps::Writers, stat, tree::Tree};

/// Most entries of one reply; with files and facts each costs an open and two `statx`.
const PAGE: usize = 4096;
const PAGE_PLUS: usize = 512;
/// Bytes of one `getdents64`.
const BUFFER: usize = 64 * 1024;

/// Entries of `dir` after position `cookie`.
pub(crate) fn readdir(
    tree: &Arc<Tree>,
    dir: &Arc<LocalFile>,
    cookie: u64,
    plus: bool,
    cx: &Cx,
) -> Result<DirPage<LocalFile>> {
    if dir.kind() != FileKind::Dir {
        return Err(Error::new(Errno::ENOTDIR, "only directories have entries"));
    }
    let key = dir.shared_key();
    let path = tree.handles.path(dir)?;
    let asked = tree.ask(&key, path.as_fd(), FileKind::Dir);
    let (path, before) = tree.live(dir)?;
    tree.require(path.as_fd(), &before, cx.cred(), AccessMask::READ)?;
    // A descriptor of its own: the position belongs to the descriptor.
    let fd = tree.handles.open_data(dir)?;
    if cookie != 0 {
        rustix::fs::seek(&fd, SeekFrom::Start(cookie))
            .map_err(|e| Error::io(e.into(), "going to a position in a directory"))?;
    }
    let limit = if plus { PAGE_PLUS } else { PAGE };
    let mut page = DirPage { entries: Vec::new(), eof: false, dir: None };
    let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
    let mut raw = RawDir::new(&fd, &mut buffer);
    while page.entries.len() < limit {
        let Some(next) = raw.next() else {
            page.eof = true;
            break;
        };
        let next = next.map_err(|e| Error::io(e.into(), "reading a directory"))?;
        page.entries.extend(entry(tree, path.as_fd(), &next)?);
    }
    if plus && tree.require(path.as_fd(), &before, cx.cred(), AccessMask::EXEC).is_ok() {
        for e in &mut page.entries {
            e.plus = extra(tree, dir, path.as_fd(), &e.name);
        }
    }
    let after = tree.stat(path.as_fd())?;
    if before.same_content(&after) {
        page.dir = Some(tree.facts(&key, &after, asked, || Writers::Unknown));
    }
    Ok(page)
}

/// One entry; `None` for the directory itself and its parent.
fn entry(
    tree: &Tree,
    dir: BorrowedFd<'_>,
    raw: &RawDirEntry<'_>,
) -> Result<Option<DirEntry<LocalFile>>> {
    let name = raw.file_name().to_bytes();
    if name == b"." || name == b".." {
        return Ok(None);
    }
    let cookie = raw.next_entry_cookie();
    if cookie == 0 {
        return Err(Error::new(
            Errno::EOPNOTSUPP,
            format!("this filesystem gives directory entries no positions ({:?})", tree.volume_id),
        ));
    }
    let kind = match raw.file_type() {
        // Some filesystems do not keep the type with the name.
        FileType::Unknown => match tree.handles.find(dir, name) {
            Ok(found) => found.st.attr.kind,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(e) => return Err(Error::io(e, "asking for a directory entry's type")),
        },
        known => stat::kind(known),
    };
    Ok(Some(DirEntry {
        name: Bytes::copy_from_slice(name),
        cookie,
        kind,
        ino: raw.ino(),
        plus: None,
    }))
}

/// An entry's file and facts. Left out if it cannot be had: the name may be gone already, or be
/// another filesystem's mount point; whoever asks for it will hear why.
fn extra(
    tree: &Arc<Tree>,
    dir: &Arc<LocalFile>,
    fd: BorrowedFd<'_>,
    name: &Bytes,
) -> Option<Found<LocalFile>> {
    // Neither watched nor opened to ask about writers: nobody has asked for this file. So its facts
    // have a version only if it is known already.
    let asked = tree.ask_unwatched();
    let found = tree.handles.find(fd, name).ok()?;
    let unasked = if tree.leases { Writers::Maybe } else { Writers::Unknown };
    let facts = tree.facts(&found.key, &found.st, asked, || unasked);
    Some(Found { file: LocalFile::new(tree, &found, Some((Arc::clone(dir), name.clone()))), facts })
}
