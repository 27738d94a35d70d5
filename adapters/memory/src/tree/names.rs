//! Changes of names: by path, for tests and third parties, and by directory and name, for clients.

use bytes::Bytes;
use netfs::{Errno, Error, Result, remote::FileKind};

use super::{KEY_LEN, NodeId, Tree, path};
use crate::content::Content;

/// A removed name: the directory it was in and the nodes whose last name it was.
pub(crate) struct Removed {
    pub(crate) dir: NodeId,
    pub(crate) gone: Vec<[u8; KEY_LEN]>,
}

/// A moved name: both directories and what was replaced for good.
pub(crate) struct Renamed {
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) gone: Vec<[u8; KEY_LEN]>,
}

/// A name and the directory it is in.
pub(crate) type Place<'a> = (NodeId, &'a [u8]);

/// By path. `move_version`: a change of a file's names moves its version too.
impl Tree {
    /// Makes a node at `path`, with its parent directories. `content` gets the content seed.
    pub(crate) fn create(
        &mut self,
        path: &[u8],
        kind: FileKind,
        content: impl FnOnce(u64) -> Content,
    ) -> Result<(NodeId, NodeId)> {
        let (parent, name) = path::split(path)?;
        let dir = self.make_dirs(parent)?;
        Ok((dir, self.create_in((dir, name), kind, content)?))
    }

    /// Gives `target` another name.
    pub(crate) fn link(
        &mut self,
        target: &[u8],
        path: &[u8],
        move_version: bool,
    ) -> Result<(NodeId, NodeId)> {
        let id = self.at(target)?.id;
        let (parent, name) = path::split(path)?;
        let dir = self.at(parent)?.id;
        self.link_in(id, (dir, name), move_version)?;
        Ok((dir, id))
    }

    /// Removes a name; a directory goes with everything in it.
    pub(crate) fn remove(&mut self, path: &[u8], move_version: bool) -> Result<Removed> {
        let (parent, name) = path::split(path)?;
        let dir = self.at(parent)?.id;
        Ok(Removed { dir, gone: self.remove_in((dir, name), move_version)? })
    }

    /// Moves a name, replacing what stands there.
    pub(crate) fn rename(&mut self, from: &[u8], to: &[u8], move_version: bool) -> Result<Renamed> {
        let (from_parent, from_name) = path::split(from)?;
        let (to_parent, to_name) = path::split(to)?;
        let (from, to) = (self.at(from_parent)?.id, self.at(to_parent)?.id);
        let gone = self.rename_in((from, from_name), (to, to_name), move_version)?;
        Ok(Renamed { from, to, gone })
    }
}

/// By directory and name.
impl Tree {
    /// The node that a name stands for.
    pub(crate) fn get(&self, (dir, name): Place<'_>) -> Result<Option<NodeId>> {
        Ok(self.node(dir)?.dir.get(name))
    }

    fn expect(&self, place: Place<'_>) -> Result<NodeId> {
        self.get(place)?.ok_or_else(|| path::error(Errno::ENOENT, place.1))
    }

    /// Makes a node under a name that is free.
    pub(crate) fn create_in(
        &mut self,
        place: Place<'_>,
        kind: FileKind,
        content: impl FnOnce(u64) -> Content,
    ) -> Result<NodeId> {
        let full = self.free(place)?;
        let id = self.new_node(full, kind, content);
        self.insert(place, id)?;
        Ok(id)
    }

    /// Gives a node a name that is free.
    pub(crate) fn link_in(
        &mut self,
        id: NodeId,
        place: Place<'_>,
        move_version: bool,
    ) -> Result<()> {
        if self.node(id)?.kind == FileKind::Dir {
            return Err(Error::new(Errno::EPERM, "memory origin: a directory has one name"));
        }
        self.free(place)?;
        self.insert(place, id)?;
        self.set_attr(id, move_version, |node| node.nlink += 1).map(drop)
    }

    /// Removes a name; a directory goes with everything in it. Returns what is gone for good.
    pub(crate) fn remove_in(
        &mut self,
        place: Place<'_>,
        move_version: bool,
    ) -> Result<Vec<[u8; KEY_LEN]>> {
        let id = self.expect(place)?;
        self.detach(place)?;
        let mut gone = Vec::new();
        let mut pending = vec![id];
        while let Some(id) = pending.pop() {
            let node = self.node(id)?;
            if node.kind != FileKind::Dir && node.nlink > 1 {
                self.set_attr(id, move_version, |node| node.nlink -= 1)?;
                continue;
            }
            pending.extend(node.dir.ids());
            gone.push(node.key);
            let removed = self.nodes.remove(&id).filter(|_| self.opens.contains_key(&id));
            if let Some(mut node) = removed {
                node.nlink = 0;
                node.ctime = self.next_time();
                self.orphans.insert(id, node);
            }
        }
        Ok(gone)
    }

    /// Moves a name, replacing what stands there. Returns what is gone for good.
    pub(crate) fn rename_in(
        &mut self,
        from: Place<'_>,
        to: Place<'_>,
        move_version: bool,
    ) -> Result<Vec<[u8; KEY_LEN]>> {
        let id = self.expect(from)?;
        let target = self.not_below(id, to)?;
        let gone = match self.get(to)? {
            // Two names of one file: nothing happens.
            Some(other) if other == id => return Ok(Vec::new()),
            Some(_) => self.remove_in(to, move_version)?,
            None => Vec::new(),
        };
        self.detach(from)?;
        self.insert(to, id)?;
        let old = self.node(id)?.path.clone();
        self.move_paths(&self.inside(&old), &old, &target);
        self.set_attr(id, move_version, |_| ())?;
        Ok(gone)
    }

    /// Lets two names change places.
    pub(crate) fn exchange(
        &mut self,
        a: Place<'_>,
        b: Place<'_>,
        move_version: bool,
    ) -> Result<()> {
        let (id_a, id_b) = (self.expect(a)?, self.expect(b)?);
        let (to_b, to_a) = (self.not_below(id_a, b)?, self.not_below(id_b, a)?);
        if id_a == id_b {
            return Ok(());
        }
        self.detach(a)?;
        self.detach(b)?;
        self.insert(a, id_b)?;
        self.insert(b, id_a)?;
        let (old_a, old_b) = (self.node(id_a)?.path.clone(), self.node(id_b)?.path.clone());
        let (below_a, below_b) = (self.inside(&old_a), self.inside(&old_b));
        self.move_paths(&below_a, &old_a, &to_b);
        self.move_paths(&below_b, &old_b, &to_a);
        for id in [id_a, id_b] {
            self.set_attr(id, move_version, |_| ())?;
        }
        Ok(())
    }

    /// The path of a name that is free.
    fn free(&self, place: Place<'_>) -> Result<Bytes> {
        let full = self.path_of(place)?;
        match self.get(place)? {
            Some(_) => Err(path::error(Errno::EEXIST, &full)),
            None => Ok(full),
        }
    }

    fn path_of(&self, (dir, name): Place<'_>) -> Result<Bytes> {
        Ok(path::join(&self.node(dir)?.path, name))
    }

    /// The path of `to`, unless `id` is a directory and that is inside it.
    fn not_below(&self, id: NodeId, to: Place<'_>) -> Result<Bytes> {
        let (node, target) = (self.node(id)?, self.path_of(to)?);
        // The name itself may be the directory's own.
        let dir = &self.node(to.0)?.path;
        if node.kind == FileKind::Dir && path::is_inside(dir, &node.path) {
            return Err(path::error(Errno::EINVAL, &target));
        }
        Ok(target)
    }

    fn insert(&mut self, (dir, name): Place<'_>, id: NodeId) -> Result<()> {
        let is_dir = self.node(id)?.kind == FileKind::Dir;
        self.dir_changed(dir)?;
        let parent = self.node_mut(dir)?;
        parent.dir.insert(Bytes::copy_from_slice(name), id);
        parent.nlink += u32::from(is_dir);
        Ok(())
    }

    fn detach(&mut self, (dir, name): Place<'_>) -> Result<()> {
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

    /// The nodes at `path` and below.
    fn inside(&self, path: &[u8]) -> Vec<NodeId> {
        let inside = self.nodes.values().filter(|n| path::is_inside(&n.path, path));
        inside.map(|n| n.id).collect()
    }

    fn move_paths(&mut self, nodes: &[NodeId], from: &[u8], to: &[u8]) {
        for id in nodes {
            let Some(node) = self.nodes.get_mut(id) else { continue };
            let rest = node.path.get(from.len()..).unwrap_or_default();
            node.path = Bytes::from([to, rest].concat());
        }
    }

    /// Makes `path` a directory with its parents, unless it is one.
    pub(crate) fn make_dirs(&mut self, path: &[u8]) -> Result<NodeId> {
        let mut at = self.root;
        for name in path::components(path)? {
            at = match self.get((at, name))? {
                Some(id) => id,
                None => self.create_in((at, name), FileKind::Dir, |_| Content::default())?,
            };
            if self.node(at)?.kind != FileKind::Dir {
                return Err(path::error(Errno::ENOTDIR, path));
            }
        }
        Ok(at)
    }
}
