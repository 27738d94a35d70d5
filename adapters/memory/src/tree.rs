//! The origin's files: a plain tree without time, faults or callers. Every change returns which files
//! it touched, so that the caller can send the events.

mod dir;
mod path;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
pub(crate) use dir::Dir;
use netfs::{
    Errno, Error, Result,
    remote::{AccessMask, Attr, Cred, FileKind, TimeSpec},
};
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
    mtime: u64,
    ctime: u64,
    pub(crate) now: Arc<Snapshot>,
    history: VecDeque<Arc<Snapshot>>,
    pub(crate) dir: Dir,
    pub(crate) settings: FileSettings,
}

/// How many old versions of each file are kept for [`Node::version`].
const HISTORY: usize = 64;

impl Node {
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
            mtime: time(self.mtime),
            ctime: time(self.ctime),
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

    fn replace(&mut self, content: Content, version: u64) {
        let old = std::mem::replace(&mut self.now, Arc::new(Snapshot { version, content }));
        self.history.push_front(old);
        self.history.truncate(HISTORY);
    }
}

/// A removed name: the directory it was in and the nodes whose last name it was.
pub(crate) struct Removed {
    pub(crate) dir: NodeId,
    pub(crate) gone: Vec<[u8; KEY_LEN]>,
}

/// A volume's files. Cloned to stage a new snapshot of a read-only volume.
#[derive(Clone)]
pub(crate) struct Tree {
    seed: u64,
    root: NodeId,
    nodes: HashMap<NodeId, Node>,
    /// How often each path has been created: the generation in the key.
    generations: HashMap<Bytes, u64>,
    /// Counts changes; stands in for the time of day in mtime and ctime.
    tick: u64,
}

impl Tree {
    /// A tree with an empty root directory. Equal seeds and equal changes make equal trees.
    pub(crate) fn new(seed: u64) -> Tree {
        let mut tree =
            Tree { seed, root: 0, nodes: HashMap::new(), generations: HashMap::new(), tick: 0 };
        tree.root = tree.new_node(Bytes::new(), FileKind::Dir, |_| Content::default());
        tree
    }

    pub(crate) fn root(&self) -> &Node {
        // The root is made by `new` and `remove` refuses the empty path.
        &self.nodes[&self.root]
    }

    pub(crate) fn node(&self, id: NodeId) -> Result<&Node> {
        self.nodes.get(&id).ok_or_else(|| Error::new(Errno::ESTALE, "the file was deleted"))
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> Result<&mut Node> {
        self.nodes.get_mut(&id).ok_or_else(|| Error::new(Errno::ESTALE, "the file was deleted"))
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn data_bytes(&self) -> u64 {
        self.nodes.values().map(|n| n.now.content.data_bytes()).fold(0, u64::saturating_add)
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

    /// Makes a node at `path`, with its parent directories. `content` gets the content seed.
    pub(crate) fn create(
        &mut self,
        path: &[u8],
        kind: FileKind,
        content: impl FnOnce(u64) -> Content,
    ) -> Result<(NodeId, NodeId)> {
        let (parent, name) = path::split(path)?;
        let dir = self.make_dirs(parent)?;
        if self.node(dir)?.dir.get(name).is_some() {
            return Err(path::error(Errno::EEXIST, path));
        }
        let full = path::join(&self.node(dir)?.path, name);
        let id = self.new_node(full, kind, content);
        self.insert(dir, name, id)?;
        Ok((dir, id))
    }

    /// Makes `path` a directory with its parents, unless it is one.
    pub(crate) fn make_dirs(&mut self, path: &[u8]) -> Result<NodeId> {
        let mut at = self.root;
        for name in path::components(path)? {
            let node = self.node(at)?;
            at = match node.dir.get(name) {
                Some(id) => id,
                None => {
                    let full = path::join(&node.path, name);
                    let id = self.new_node(full, FileKind::Dir, |_| Content::default());
                    self.insert(at, name, id)?;
                    id
                }
            };
            if self.node(at)?.kind != FileKind::Dir {
                return Err(path::error(Errno::ENOTDIR, path));
            }
        }
        Ok(at)
    }

    /// Gives `target` another name.
    pub(crate) fn link(&mut self, target: &[u8], path: &[u8]) -> Result<(NodeId, NodeId)> {
        let id = self.at(target)?.id;
        if self.node(id)?.kind == FileKind::Dir {
            return Err(path::error(Errno::EPERM, target));
        }
        let (parent, name) = path::split(path)?;
        let dir = self.at(parent)?.id;
        if self.node(dir)?.dir.get(name).is_some() {
            return Err(path::error(Errno::EEXIST, path));
        }
        self.insert(dir, name, id)?;
        let tick = self.next_tick();
        let node = self.node_mut(id)?;
        node.nlink += 1;
        node.ctime = tick;
        Ok((dir, id))
    }

    /// Removes a name; a directory goes with everything in it.
    pub(crate) fn remove(&mut self, path: &[u8]) -> Result<Removed> {
        let (parent, name) = path::split(path)?;
        let dir = self.at(parent)?.id;
        let id = self.at(path)?.id;
        self.detach(dir, name)?;
        let mut gone = Vec::new();
        let mut pending = vec![id];
        while let Some(id) = pending.pop() {
            let tick = self.next_tick();
            let node = self.node_mut(id)?;
            if node.kind != FileKind::Dir && node.nlink > 1 {
                node.nlink -= 1;
                node.ctime = tick;
                continue;
            }
            pending.extend(node.dir.ids());
            gone.push(node.key);
            self.nodes.remove(&id);
        }
        Ok(Removed { dir, gone })
    }

    /// Moves a name, replacing what stands there. Returns both directories and what was replaced.
    pub(crate) fn rename(&mut self, from: &[u8], to: &[u8]) -> Result<(NodeId, Removed)> {
        let (from_parent, from_name) = path::split(from)?;
        let (to_parent, to_name) = path::split(to)?;
        let (from_dir, to_dir) = (self.at(from_parent)?.id, self.at(to_parent)?.id);
        let id = self.at(from)?.id;
        let target = path::join(&self.node(to_dir)?.path, to_name);
        let source = self.node(id)?;
        if source.kind == FileKind::Dir && path::is_inside(&target, &source.path) {
            return Err(path::error(Errno::EINVAL, to));
        }
        let old_path = source.path.clone();
        let gone = match self.node(to_dir)?.dir.get(to_name) {
            Some(other) if other == id => {
                return Ok((from_dir, Removed { dir: to_dir, gone: vec![] }));
            }
            Some(_) => self.remove(to)?.gone,
            None => Vec::new(),
        };
        self.detach(from_dir, from_name)?;
        self.insert(to_dir, to_name, id)?;
        self.move_paths(&old_path, &target);
        Ok((from_dir, Removed { dir: to_dir, gone }))
    }

    /// Replaces a file's data; the version moves unless `keep_version` (a server that lies).
    pub(crate) fn set_content(
        &mut self,
        id: NodeId,
        content: Content,
        keep_version: bool,
    ) -> Result<u64> {
        let tick = self.next_tick();
        let node = self.node_mut(id)?;
        let version = if keep_version { node.now.version } else { node.now.version + 1 };
        node.replace(content, version);
        (node.mtime, node.ctime) = (tick, tick);
        Ok(version)
    }

    /// Changes attributes; the data version moves too if `move_version` (an NFS change attribute).
    pub(crate) fn set_attr(
        &mut self,
        id: NodeId,
        move_version: bool,
        change: impl FnOnce(&mut Node),
    ) -> Result<u64> {
        let tick = self.next_tick();
        let node = self.node_mut(id)?;
        change(node);
        node.ctime = tick;
        if move_version {
            let content = node.now.content.clone();
            let version = node.now.version + 1;
            node.replace(content, version);
        }
        Ok(node.now.version)
    }

    /// Counts one more change.
    pub(crate) fn next_tick(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }

    fn new_node(
        &mut self,
        path: Bytes,
        kind: FileKind,
        content: impl FnOnce(u64) -> Content,
    ) -> NodeId {
        let tick = self.next_tick();
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
            mtime: tick,
            ctime: tick,
            now: Arc::new(Snapshot { version: 1, content: content(id) }),
            history: VecDeque::new(),
            dir: Dir::default(),
            settings: FileSettings::default(),
        };
        self.nodes.insert(id, node);
        id
    }

    fn insert(&mut self, dir: NodeId, name: &[u8], id: NodeId) -> Result<()> {
        let is_dir = self.node(id)?.kind == FileKind::Dir;
        self.dir_changed(dir)?;
        let parent = self.node_mut(dir)?;
        parent.dir.insert(Bytes::copy_from_slice(name), id);
        parent.nlink += u32::from(is_dir);
        Ok(())
    }

    fn detach(&mut self, dir: NodeId, name: &[u8]) -> Result<()> {
        self.dir_changed(dir)?;
        let removed = self.node_mut(dir)?.dir.remove(name);
        if let Some(id) = removed {
            let is_dir = self.node(id)?.kind == FileKind::Dir;
            self.node_mut(dir)?.nlink -= u32::from(is_dir);
        }
        Ok(())
    }

    /// A directory's version moves with each change of its entries.
    fn dir_changed(&mut self, dir: NodeId) -> Result<()> {
        self.set_content(dir, Content::default(), false).map(drop)
    }

    fn move_paths(&mut self, from: &[u8], to: &[u8]) {
        for node in self.nodes.values_mut().filter(|n| path::is_inside(&n.path, from)) {
            let rest = &node.path[from.len()..];
            node.path = Bytes::from([to, rest].concat());
        }
    }
}

/// Change counts as times: seconds since a fixed day, so that runs are repeatable.
fn time(tick: u64) -> TimeSpec {
    let sec = 1_600_000_000_u64.saturating_add(tick);
    TimeSpec { sec: i64::try_from(sec).unwrap_or(i64::MAX), nsec: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(tree: &mut Tree, path: &str) -> [u8; KEY_LEN] {
        let (_, id) = tree
            .create(path.as_bytes(), FileKind::File, |seed| Content::pattern(seed, 1, 10))
            .unwrap();
        tree.node(id).unwrap().key
    }

    #[test]
    fn a_recreated_name_has_another_key_and_other_content() {
        let mut tree = Tree::new(1);
        let first = file(&mut tree, "d/a");
        let old = tree.at(b"d/a").unwrap().now.content.clone();
        tree.remove(b"d/a").unwrap();
        let second = file(&mut tree, "d/a");
        assert_ne!(first, second);
        assert_ne!(old, tree.at(b"d/a").unwrap().now.content);
    }

    #[test]
    fn keys_do_not_depend_on_what_else_is_in_the_tree() {
        let (mut one, mut two) = (Tree::new(1), Tree::new(1));
        file(&mut two, "other");
        assert_eq!(file(&mut one, "d/a"), file(&mut two, "d/a"));
    }

    #[test]
    fn a_rename_keeps_keys_and_moves_the_paths_below() {
        let mut tree = Tree::new(1);
        let key = file(&mut tree, "d/sub/a");
        file(&mut tree, "dx");
        tree.rename(b"d", b"e").unwrap();
        let node = tree.at(b"e/sub/a").unwrap();
        assert_eq!((node.key, &node.path[..]), (key, &b"e/sub/a"[..]));
        assert_eq!(&tree.at(b"dx").unwrap().path[..], b"dx");
        assert_eq!(tree.at(b"d").err().unwrap().errno(), Errno::ENOENT);
        let inside = tree.rename(b"e", b"e/sub/e").err().unwrap();
        assert_eq!(inside.errno(), Errno::EINVAL);
    }

    #[test]
    fn a_rename_over_a_file_replaces_it() {
        let mut tree = Tree::new(1);
        let (a, b) = (file(&mut tree, "a"), file(&mut tree, "b"));
        let (_, removed) = tree.rename(b"a", b"b").unwrap();
        assert_eq!(removed.gone, [b]);
        assert_eq!(tree.at(b"b").unwrap().key, a);
    }

    #[test]
    fn the_last_link_takes_the_file() {
        let mut tree = Tree::new(1);
        let key = file(&mut tree, "a");
        tree.link(b"a", b"b").unwrap();
        assert_eq!(tree.at(b"b").unwrap().nlink, 2);
        assert!(tree.remove(b"a").unwrap().gone.is_empty());
        assert_eq!(tree.at(b"b").unwrap().nlink, 1);
        assert_eq!(tree.remove(b"b").unwrap().gone, [key]);
    }

    #[test]
    fn removing_a_directory_takes_everything_below() {
        let mut tree = Tree::new(1);
        let key = file(&mut tree, "d/sub/a");
        let before = tree.root().nlink;
        assert!(tree.remove(b"d").unwrap().gone.contains(&key));
        assert_eq!((tree.len(), tree.root().nlink), (1, before - 1));
        assert_eq!(tree.remove(b"").err().unwrap().errno(), Errno::EINVAL);
    }

    #[test]
    fn rights_follow_owner_group_and_other() {
        let mut tree = Tree::new(1);
        file(&mut tree, "a");
        let id = tree.at(b"a").unwrap().id;
        tree.set_attr(id, false, |n| (n.mode, n.uid, n.gid) = (0o640, 10, 20)).unwrap();
        let node = tree.at(b"a").unwrap();
        let rw = AccessMask::READ.union(AccessMask::WRITE);
        assert!(node.allows(&Cred::new(10, 1), rw));
        assert!(node.allows(&Cred::new(11, 20), AccessMask::READ));
        assert!(!node.allows(&Cred::new(11, 20), rw));
        assert!(!node.allows(&Cred::new(11, 21), AccessMask::READ));
        assert!(node.allows(&Cred::new(0, 0), rw));
        assert!(!node.allows(&Cred::new(0, 0), AccessMask::EXEC));
    }
}
