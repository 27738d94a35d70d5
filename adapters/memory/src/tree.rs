//! The origin's files: a plain tree without time, faults or callers. Every change returns which files
//! it touched, so that the caller can send the events.

mod data;
mod dir;
mod names;
mod node;
mod path;
mod unstable;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
pub(crate) use dir::Dir;
pub(crate) use names::{Removed, Renamed};
use netfs::{
    Errno, Error, Result,
    remote::{FileKind, TimeSpec},
};
pub(crate) use node::Node;
pub(crate) use path::display;

use crate::{content::Content, hash, settings::FileSettings};

/// One version of a file: its number and what it holds. Immutable.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// The data version, a counter that starts at 1 and moves with each change of the data.
    pub version: u64,
    /// What the version holds.
    pub content: Content,
}

/// Number of a node, unique in its tree for ever.
pub(crate) type NodeId = u64;

/// Bytes of a key: node number and generation of its path, big-endian.
pub(crate) const KEY_LEN: usize = 16;

/// A volume's files. Cloned to stage a new snapshot of a read-only volume.
#[derive(Clone)]
pub(crate) struct Tree {
    seed: u64,
    root: NodeId,
    nodes: HashMap<NodeId, Node>,
    /// Files without a name that somebody has open.
    orphans: HashMap<NodeId, Node>,
    /// How often each file is open, of those that are kept for it.
    opens: HashMap<NodeId, usize>,
    /// How often each path has been created: the generation in the key.
    generations: HashMap<Bytes, u64>,
    /// Counts changes; stands in for the time of day in mtime and ctime.
    tick: u64,
}

impl Tree {
    /// A tree with an empty root directory. Equal seeds and equal changes make equal trees.
    pub(crate) fn new(seed: u64) -> Tree {
        let (nodes, orphans, opens) = (HashMap::new(), HashMap::new(), HashMap::new());
        let mut tree =
            Tree { seed, root: 0, nodes, orphans, opens, generations: HashMap::new(), tick: 0 };
        tree.root = tree.new_node(Bytes::new(), FileKind::Dir, |_| Content::default());
        tree
    }

    pub(crate) fn root(&self) -> &Node {
        // The root is made by `new` and `remove` refuses the empty path.
        &self.nodes[&self.root]
    }

    /// The file of that key.
    pub(crate) fn by_key(&self, key: &[u8]) -> Result<&Node> {
        let found = self.nodes.values().find(|node| node.key == key);
        found.ok_or_else(|| Error::new(Errno::ESTALE, "the file was deleted"))
    }

    pub(crate) fn node(&self, id: NodeId) -> Result<&Node> {
        let node = self.nodes.get(&id).or_else(|| self.orphans.get(&id));
        node.ok_or_else(|| Error::new(Errno::ESTALE, "the file was deleted"))
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> Result<&mut Node> {
        let node = self.nodes.get_mut(&id).or_else(|| self.orphans.get_mut(&id));
        node.ok_or_else(|| Error::new(Errno::ESTALE, "the file was deleted"))
    }

    /// Whether a file has lost its last name and is kept for those who have it open.
    pub(crate) fn is_orphan(&self, key: &[u8; KEY_LEN]) -> bool {
        self.orphans.values().any(|node| node.key == *key)
    }

    /// An open that keeps the file begins.
    pub(crate) fn opened(&mut self, id: NodeId) {
        *self.opens.entry(id).or_insert(0) += 1;
    }

    /// One ends, of those that were counted; the last one takes a file without a name along.
    pub(crate) fn closed(&mut self, id: NodeId) {
        let Some(opens) = self.opens.get_mut(&id) else { return };
        *opens -= 1;
        if *opens == 0 {
            self.opens.remove(&id);
            self.orphans.remove(&id);
        }
    }

    /// Takes the opens over from the tree before.
    pub(crate) fn succeed(&mut self, before: Tree) {
        self.opens = before.opens;
        self.orphans.extend(before.orphans);
        self.orphans.retain(|id, _| self.opens.contains_key(id));
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn data_bytes(&self) -> u64 {
        let all = self.nodes.values().chain(self.orphans.values());
        all.map(|n| n.now.content.data_bytes()).fold(0, u64::saturating_add)
    }

    /// The regular files' paths, sorted.
    pub(crate) fn files(&self) -> Vec<Bytes> {
        let files = self.nodes.values().filter(|n| n.kind == FileKind::File);
        let mut paths: Vec<Bytes> = files.map(|n| n.path.clone()).collect();
        paths.sort();
        paths
    }

    /// The node at `path` (`/` separated, any other bytes; empty = root).
    pub(crate) fn at(&self, path: &[u8]) -> Result<&Node> {
        let mut node = self.root();
        for name in path::components(path)? {
            let id = node.dir.get(name).ok_or_else(|| path::error(Errno::ENOENT, path))?;
            node = self.node(id)?;
        }
        Ok(node)
    }

    /// Counts one more change.
    pub(crate) fn next_tick(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }

    /// The time of one more change.
    pub(crate) fn next_time(&mut self) -> TimeSpec {
        time(self.next_tick())
    }

    fn new_node(
        &mut self,
        path: Bytes,
        kind: FileKind,
        content: impl FnOnce(u64) -> Content,
    ) -> NodeId {
        let now = self.next_time();
        let generation = self.generations.entry(path.clone()).or_insert(0);
        *generation += 1;
        let generation = *generation;
        // The number comes from the path, not from the order of creation: a tree built again with one
        // more file has the same keys and the same content for all others.
        let mut id = hash::combine(&[hash::bytes(self.seed, &path), generation]);
        while id == 0 || self.nodes.contains_key(&id) {
            id = hash::mix(id);
        }
        let mut key = [0; KEY_LEN];
        key[..8].copy_from_slice(&id.to_be_bytes());
        key[8..].copy_from_slice(&generation.to_be_bytes());
        let is_dir = kind == FileKind::Dir;
        let node = Node {
            id,
            key,
            kind,
            path,
            mode: if is_dir {
                0o755
            } else if kind == FileKind::Symlink {
                0o777
            } else {
                0o644
            },
            uid: 0,
            gid: 0,
            nlink: if is_dir { 2 } else { 1 },
            atime: now,
            mtime: now,
            ctime: now,
            now: Arc::new(Snapshot { version: 1, content: content(id) }),
            history: VecDeque::new(),
            unstable: None,
            dir: Dir::default(),
            settings: FileSettings::default(),
        };
        self.nodes.insert(id, node);
        id
    }
}

/// Change counts as times: seconds since a fixed day, so that runs are repeatable.
fn time(tick: u64) -> TimeSpec {
    let sec = 1_600_000_000_u64.saturating_add(tick);
    TimeSpec { sec: i64::try_from(sec).unwrap_or(i64::MAX), nsec: 0 }
}

#[cfg(test)]
mod tests;
