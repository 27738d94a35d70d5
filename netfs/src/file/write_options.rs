//! How one write is made, and write groups.

use std::fmt;

use super::{Sync, writing::persist_as};
use crate::{
    error::{Errno, Error, Result},
    folio::Group,
    inode::Inode,
    read::Who,
    sync::Arc,
    writeback::groups::What,
};

/// How to write: what is not asked for is as the file was [opened](crate::OpenOptions).
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteOptions<'a> {
    /// Past both caches, straight from the caller's bytes (row 86). The call returns when they are on the
    /// server's stable storage: how many of them, if something failed after some.
    pub unbuffered: bool,
    /// When the call returns, if that is later than the open says.
    pub sync: Sync,
    /// The group the bytes belong to.
    pub group: Option<&'a WriteGroup>,
}

impl<'a> WriteOptions<'a> {
    /// An ordinary write, in a group.
    #[must_use]
    pub fn in_group(group: &'a WriteGroup) -> WriteOptions<'a> {
        WriteOptions { group: Some(group), ..WriteOptions::default() }
    }

    /// A write past both caches.
    #[must_use]
    pub fn unbuffered() -> WriteOptions<'static> {
        WriteOptions { unbuffered: true, ..WriteOptions::default() }
    }
}

/// An ordering barrier between writes of one file, made by [`File::write_group`](crate::File::write_group).
///
/// All of a group is on the server's stable storage before any byte of a later group of the file is sent,
/// whoever uploads them: fsync, the flusher, a write that waits for the server. A group is over once a later
/// one has been written in. Bytes of no group are in no order to those of groups.
pub struct WriteGroup {
    who: Who,
    group: Group,
}

impl WriteGroup {
    pub(super) fn begin(who: Who) -> WriteGroup {
        let group = who.inode.wb.begin_group();
        WriteGroup { who, group }
    }

    /// One of before a restart, by its number.
    pub(super) fn again(who: Who, number: u64) -> WriteGroup {
        let group = who.inode.wb.group_again(number);
        WriteGroup { who, group }
    }

    /// Its number, for writes to that file.
    pub(super) fn of(&self, inode: &Arc<Inode>) -> Result<Group> {
        if !Arc::ptr_eq(&self.who.inode, inode) {
            return Err(Error::new(Errno::EINVAL, "a write group of another file"));
        }
        Ok(self.group)
    }

    /// Brings what was written in this group, and in those before it, to the server's stable storage.
    ///
    /// # Errors
    /// As [`File::fsync`](crate::File::fsync); discarded bytes are not reported here.
    pub async fn flush(&self) -> Result<()> {
        persist_as(&self.who, What::UpTo(self.group)).await
    }

    /// The same for threads.
    ///
    /// # Errors
    /// As [`flush`](WriteGroup::flush).
    pub fn blocking_flush(&self) -> Result<()> {
        pollster::block_on(self.flush())
    }
}

impl fmt::Debug for WriteGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WriteGroup({} of inode {})", self.group.0, self.who.inode.id)
    }
}
