//! Changes of what files hold, and of their attributes.

use std::ops::Range;

use bytes::Bytes;
use netfs::Result;

use super::{Node, NodeId, Tree, unstable::Unstable};
use crate::content::Content;

impl Tree {
    /// Changes a file's data, on the disk too; the version moves unless `keep_version` (a server that
    /// lies). What was uncommitted in `settled` is not any more.
    ///
    /// With uncommitted bytes `change` is applied twice, to what the file holds and to what the disk
    /// holds.
    pub(crate) fn edit(
        &mut self,
        id: NodeId,
        keep_version: bool,
        settled: &Range<u64>,
        change: impl Fn(&mut Content) -> Result<()>,
    ) -> Result<u64> {
        let node = self.node_mut(id)?;
        let mut content = node.now.content.clone();
        change(&mut content)?;
        if let Some(unstable) = &mut node.unstable {
            change(&mut unstable.durable)?;
            unstable.pending.remove(settled);
            if unstable.settled(&content) {
                node.unstable = None;
            }
        }
        self.set_content(id, content, keep_version)
    }

    /// Writes to the server's memory only; the version moves.
    pub(crate) fn write_unstable(&mut self, id: NodeId, offset: u64, bytes: Bytes) -> Result<u64> {
        let range = offset..offset.saturating_add(bytes.len() as u64);
        let node = self.node_mut(id)?;
        let mut content = node.now.content.clone();
        let durable = || Unstable::new(node.now.content.clone());
        node.unstable.get_or_insert_with(durable).pending.add(range);
        content.put_bytes(offset, bytes);
        self.set_content(id, content, false)
    }

    /// Brings what is uncommitted in `range` to the disk.
    pub(crate) fn commit(&mut self, id: NodeId, range: &Range<u64>) -> Result<()> {
        let node = self.node_mut(id)?;
        if let Some(unstable) = &mut node.unstable {
            unstable.commit(&node.now.content, range);
            if unstable.settled(&node.now.content) {
                node.unstable = None;
            }
        }
        Ok(())
    }

    pub(crate) fn has_uncommitted(&self) -> bool {
        self.nodes.values().chain(self.orphans.values()).any(|n| n.unstable.is_some())
    }

    /// Loses everything uncommitted: those files go back to what the disk holds, as a new version.
    pub(crate) fn restart(&mut self) {
        let mut lost: Vec<_> = self
            .nodes
            .values_mut()
            .chain(self.orphans.values_mut())
            .filter_map(|n| n.unstable.take().map(|u| (n.id, u.durable)))
            .collect();
        // The order decides the times they get.
        lost.sort_unstable_by_key(|(id, _)| *id);
        for (id, durable) in lost {
            // They were found in the tree, so they are there.
            let _ = self.set_content(id, durable, false);
        }
    }

    /// Moves a file's version although nothing changes.
    pub(crate) fn bump(&mut self, id: NodeId) -> Result<u64> {
        let content = self.node(id)?.now.content.clone();
        self.set_content(id, content, false)
    }

    pub(super) fn set_content(
        &mut self,
        id: NodeId,
        content: Content,
        keep_version: bool,
    ) -> Result<u64> {
        let now = self.next_time();
        let node = self.node_mut(id)?;
        let version = if keep_version { node.now.version } else { node.now.version + 1 };
        node.replace(content, version);
        (node.mtime, node.ctime) = (now, now);
        Ok(version)
    }

    /// Changes attributes; the data version moves too if `move_version` (an NFS change attribute).
    pub(crate) fn set_attr(
        &mut self,
        id: NodeId,
        move_version: bool,
        change: impl FnOnce(&mut Node),
    ) -> Result<u64> {
        let now = self.next_time();
        let node = self.node_mut(id)?;
        change(node);
        node.ctime = now;
        if move_version {
            let content = node.now.content.clone();
            let version = node.now.version + 1;
            node.replace(content, version);
        }
        Ok(node.now.version)
    }
}
