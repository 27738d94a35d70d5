//! Calls that change names and attributes: what they are told and what they answer.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Found,
    facts::{Facts, TimeSpec},
    write::Change,
};

/// What to make ([`RemoteFs::create`](super::RemoteFs::create)).
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum NewFile {
    /// An empty regular file with these permission bits (0o7777).
    File(u32),
    /// A directory with these permission bits.
    Dir(u32),
    /// A symbolic link with this target.
    Symlink(Bytes),
}

/// A file that was made.
pub struct Created<F> {
    /// The file, with what the reply said about it.
    pub found: Found<F>,
    /// The directory before and after, if the reply said (NFS: `change_info4`).
    pub dir: Option<Change>,
}

impl<F> Created<F> {
    /// A file that was made.
    #[must_use]
    pub fn new(file: Arc<F>, facts: Facts, dir: Option<Change>) -> Created<F> {
        Created { found: Found { file, facts }, dir }
    }
}

/// What the reply to a change of names said. Where a [`Change`] says which version the call found, the core
/// can tell that nobody else changed the directory (or file) in between, and keeps what it has cached of it;
/// without, it asks again.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NameChange {
    /// The directory that has the name now or had it (for a rename: the one moved to).
    pub dir: Option<Change>,
    /// The directory moved from, where it is another one.
    pub from: Option<Change>,
    /// The file itself: the one linked, moved, or whose name was removed and that has others.
    pub file: Option<Change>,
    /// The one that stood where a file was moved to, if it lives: it has other names, or was moved the other
    /// way ([`RenameHow::Exchange`]).
    pub other: Option<Change>,
    /// The key of a file whose last name this was or was replaced by the move: it is gone.
    pub gone: Option<Bytes>,
}

/// How a name may be moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RenameHow {
    /// Replaces what stands there.
    #[default]
    Replace,
    /// `EEXIST` if something stands there (`RENAME_NOREPLACE`).
    NoReplace,
    /// The two names change places (`RENAME_EXCHANGE`).
    Exchange,
}

/// A time to set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    /// The server's clock.
    Now,
    /// This one.
    To(TimeSpec),
}

/// Attributes to change; `None` leaves one as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SetAttr {
    /// Permission bits (0o7777).
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last data change.
    pub mtime: Option<SetTime>,
}
