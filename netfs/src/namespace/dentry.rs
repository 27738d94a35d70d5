//! Names, found and not found (moka), valid exactly as long as their directory is.
//!
//! A change of names by this mount that met nobody else's moves the directory to another version under which
//! all other names are what they were: they are *carried* over, those that changed are entered anew.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::mount::Node;
use crate::{
    coherency::{Epoch, Validity},
    inode::Inode,
    remote::Version,
    sync::Mutex,
};

/// Directories whose names are carried, and versions of each; past that some names are looked up again.
const CARRIED_MAX: (usize, usize) = (64, 4096);

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
    /// By directory. Held while names are entered: a reply from before a change of ours must not come after
    /// it under a version that is carried.
    carried: Mutex<HashMap<u64, Carried>>,
}

/// Versions of a directory that only changes of ours lie between.
struct Carried {
    before: HashSet<Version>,
    now: Version,
}

/// What the cache says about a name.
pub(super) enum Cached {
    /// And the directory's version under which it stands for that.
    Found(Node, Option<Version>),
    Negative(Option<Version>),
    Unknown,
}

impl Dentries {
    pub(super) fn new(capacity: u64) -> Dentries {
        let cache = moka::sync::Cache::builder().max_capacity(capacity).build();
        Dentries { cache, carried: Mutex::default() }
    }

    /// Only with a directory that is valid now may a name be answered from here.
    pub(super) fn get(&self, dir: &Inode, name: &Bytes) -> Cached {
        if dir.cell.valid_now() != Validity::Valid {
            return Cached::Unknown;
        }
        let key = (dir.id, name.clone());
        let Some(dentry) = self.cache.get(&key) else { return Cached::Unknown };
        // Before the look whether it is quiet: then it is the version of that time, too.
        let now = dir.cell.version();
        let current = match &dentry.dir_version {
            Some(version) => {
                now.as_ref() == Some(version) || self.carries(dir, version, now.as_ref())
            }
            None => dir.cell.quiet_since(&dentry.epoch),
        };
        if !current {
            self.cache.invalidate(&key);
            return Cached::Unknown;
        }
        match dentry.node {
            // The file went, perhaps for another of the same name.
            Some(node) if node.inode.check_exists().is_err() => Cached::Unknown,
            Some(node) => Cached::Found(node, now),
            None => Cached::Negative(now),
        }
    }

    fn carries(&self, dir: &Inode, version: &Version, now: Option<&Version>) -> bool {
        let carried = self.carried.lock();
        let of = carried.get(&dir.id).filter(|of| Some(&of.now) == now);
        of.is_some_and(|of| of.before.contains(version))
    }

    /// Names of which the reply to a change of ours spoke: from `known` to `now`, if it said so and nobody else
    /// changed the directory in between, which has been taken over. Else they are forgotten.
    pub(super) fn edit(
        &self,
        dir: &Inode,
        moved: Option<(&Version, &Version)>,
        epoch: Epoch,
        names: impl IntoIterator<Item = (Bytes, Option<Node>)>,
    ) {
        let mut carried = self.carried.lock();
        let Some((known, now)) = moved else {
            carried.remove(&dir.id);
            names.into_iter().for_each(|(name, _)| self.forget(dir, name));
            return;
        };
        if carried.len() >= CARRIED_MAX.0 && !carried.contains_key(&dir.id) {
            carried.clear();
        }
        let of = carried
            .entry(dir.id)
            .or_insert_with(|| Carried { before: HashSet::new(), now: known.clone() });
        if of.now != *known || of.before.len() >= CARRIED_MAX.1 {
            of.before.clear();
        }
        of.before.insert(known.clone());
        of.now = now.clone();
        for (name, node) in names {
            let dentry = Dentry { dir_version: Some(now.clone()), epoch, node };
            self.cache.insert((dir.id, name), dentry);
        }
    }

    /// Forgets a name.
    pub(super) fn forget(&self, dir: &Inode, name: Bytes) {
        self.cache.invalidate(&(dir.id, name));
    }

    pub(super) fn put(
        &self,
        dir: &Inode,
        name: Bytes,
        dir_version: Option<Version>,
        epoch: Epoch,
        node: Option<Node>,
    ) {
        let _no_edit = self.carried.lock();
        // Of a version from before a change of ours nobody knows any more which names it concerned.
        if dir_version.is_none() || dir.cell.version() == dir_version {
            self.cache.insert((dir.id, name), Dentry { dir_version, epoch, node });
        }
    }

    /// Lets go of all names (and the inodes they keep alive).
    pub(super) fn clear(&self) {
        self.cache.invalidate_all();
        self.cache.run_pending_tasks();
    }
}
