//! One file of the tree, and what is known of it.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use netfs::remote::{AccessMask, Attr, Cred, FileKind, TimeSpec};

use super::{Dir, KEY_LEN, NodeId, Snapshot, unstable::Unstable};
use crate::{content::Content, settings::FileSettings};

/// A file, directory or symbolic link.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) key: [u8; KEY_LEN],
    pub(crate) kind: FileKind,
    /// Where the file is now, for logs and for matching faults; the first of several hard links.
    pub(crate) path: Bytes,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) nlink: u32,
    pub(crate) atime: TimeSpec,
    pub(crate) mtime: TimeSpec,
    pub(super) ctime: TimeSpec,
    pub(crate) now: Arc<Snapshot>,
    pub(super) history: VecDeque<Arc<Snapshot>>,
    /// What was written and not yet committed.
    pub(super) unstable: Option<Unstable>,
    pub(crate) dir: Dir,
    pub(crate) settings: FileSettings,
}

/// How many old versions of each file are kept for [`Node::version`].
const HISTORY: usize = 64;

impl Node {
    /// What a restart of the server would leave.
    pub(crate) fn durable(&self) -> Content {
        self.unstable.as_ref().map_or(&self.now.content, |unstable| &unstable.durable).clone()
    }

    /// All attributes.
    pub(crate) fn attr(&self) -> Attr {
        let data = self.now.content.data_bytes();
        Attr {
            allocated: data.checked_next_multiple_of(4096).unwrap_or(data),
            mode: self.mode,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            ino: self.id,
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            ..Attr::plain(self.kind, self.now.content.size())
        }
    }

    /// Judges a credential the way a POSIX server does.
    pub(crate) fn allows(&self, cred: &Cred, mask: AccessMask) -> bool {
        if cred.is_root() {
            let any_exec = self.kind == FileKind::Dir || self.mode & 0o111 != 0;
            return any_exec || !mask.contains(AccessMask::EXEC);
        }
        let shift = match () {
            () if cred.uid == self.uid => 6,
            () if cred.in_group(self.gid) => 3,
            () => 0,
        };
        let granted = (self.mode >> shift) & 7;
        u32::from(mask.bits()) & !granted == 0
    }

    /// A version that was current at some time, if it is not too old to be kept.
    pub(crate) fn version(&self, version: u64) -> Option<&Arc<Snapshot>> {
        std::iter::once(&self.now).chain(&self.history).find(|s| s.version == version)
    }

    pub(super) fn replace(&mut self, content: Content, version: u64) {
        let old = std::mem::replace(&mut self.now, Arc::new(Snapshot { version, content }));
        self.history.push_front(old);
        self.history.truncate(HISTORY);
    }
}
