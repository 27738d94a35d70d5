//! Names, found and not found (moka), valid exactly as long as their directory is.

use bytes::Bytes;

use super::mount::Node;
use crate::{
    coherency::{Epoch, Validity},
    inode::Inode,
    remote::Version,
};

/// What a name stood for in one version of its directory.
#[derive(Clone)]
struct Dentry {
    /// The directory's version when the reply was made, and the epoch of the request: the entry holds
    /// while the directory is still that version, or has seen no event at all (A3.20).
    dir_version: Option<Version>,
    epoch: Epoch,
    /// `None` = the server said there is no such name.
    node: Option<Node>,
}

/// One mount's name cache. Keyed by the directory's inode id, which is never reused.
pub(super) struct Dentries {
    cache: moka::sync::Cache<(u64, Bytes), Dentry>,
}

/// What the cache says about a name.
pub(super) enum Cached {
    Found(Node),
    Negative,
    Unknown,
}

impl Dentries {
    pub(super) fn new(capacity: u64) -> Dentries {
        Dentries { cache: moka::sync::Cache::builder().max_capacity(capacity).build() }
    }

    /// Only with a directory that is valid now may a name be answered from here.
    pub(super) fn get(&self, dir: &Inode, name: &Bytes) -> Cached {
        if dir.cell.valid_now() != Validity::Valid {
            return Cached::Unknown;
        }
        let key = (dir.id, name.clone());
        let Some(dentry) = self.cache.get(&key) else { return Cached::Unknown };
        let current = match &dentry.dir_version {
            Some(version) => dir.cell.version().as_ref() == Some(version),
            None => dir.cell.quiet_since(&dentry.epoch),
        };
        if !current {
            self.cache.invalidate(&key);
            return Cached::Unknown;
        }
        match dentry.node {
            // The file went, perhaps for another of the same name.
            Some(node) if node.inode.check_exists().is_err() => Cached::Unknown,
            Some(node) => Cached::Found(node),
            None => Cached::Negative,
        }
    }

    pub(super) fn put(
        &self,
        dir: &Inode,
        name: Bytes,
        dir_version: Option<Version>,
        epoch: Epoch,
        node: Option<Node>,
    ) {
        self.cache.insert((dir.id, name), Dentry { dir_version, epoch, node });
    }

    /// Forgets one name, which this client has changed.
    pub(super) fn forget(&self, dir: &Inode, name: &Bytes) {
        self.cache.invalidate(&(dir.id, name.clone()));
    }

    /// Lets go of all names (and the inodes they keep alive).
    pub(super) fn clear(&self) {
        self.cache.invalidate_all();
        self.cache.run_pending_tasks();
    }
}
