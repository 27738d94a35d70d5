//! [`Mount`]'s calls for threads.

use bytes::Bytes;
use pollster::block_on;

use super::{DirListEntry, Mount, Node};
use crate::{
    error::Result,
    file::{File, OpenOptions},
    remote::{AccessMask, Attr, Cx, StatFs},
};

/// Blocking face of a [`Mount`]. Do not use it on a thread that drives async tasks.
#[derive(Clone, Copy)]
pub struct BlockingMount<'a>(pub(super) &'a Mount);

impl BlockingMount<'_> {
    /// Walks a path and opens what it names: [`Mount::walk`], then [`Mount::open`].
    ///
    /// # Errors
    /// As those.
    pub fn open(&self, path: impl AsRef<[u8]>, cx: &Cx) -> Result<File> {
        block_on(async {
            let node = self.0.walk(path, cx).await?;
            self.0.open(&node, cx).await
        })
    }

    /// Walks a path and opens what it names for reading and writing: [`Mount::walk`], then
    /// [`Mount::open_rw`].
    ///
    /// # Errors
    /// As those.
    pub fn open_rw(&self, path: impl AsRef<[u8]>, cx: &Cx) -> Result<File> {
        block_on(async {
            let node = self.0.walk(path, cx).await?;
            self.0.open_rw(&node, cx).await
        })
    }

    /// See [`Mount::open_with`].
    ///
    /// # Errors
    /// As [`Mount::open_with`].
    pub fn open_with(
        &self,
        path: impl AsRef<[u8]>,
        options: &OpenOptions,
        cx: &Cx,
    ) -> Result<File> {
        block_on(self.0.open_with(path, options, cx))
    }

    /// See [`Mount::open_at`].
    ///
    /// # Errors
    /// As [`Mount::open_at`].
    pub fn open_at(&self, dir: &Node, name: &[u8], options: &OpenOptions, cx: &Cx) -> Result<File> {
        block_on(self.0.open_at(dir, name, options, cx))
    }

    /// See [`Mount::open_node_with`].
    ///
    /// # Errors
    /// As [`Mount::open_node_with`].
    pub fn open_node_with(&self, node: &Node, options: &OpenOptions, cx: &Cx) -> Result<File> {
        block_on(self.0.open_node_with(node, options, cx))
    }

    /// See [`Mount::walk`].
    ///
    /// # Errors
    /// As [`Mount::walk`].
    pub fn walk(&self, path: impl AsRef<[u8]>, cx: &Cx) -> Result<Node> {
        block_on(self.0.walk(path, cx))
    }

    /// See [`Mount::lookup`].
    ///
    /// # Errors
    /// As [`Mount::lookup`].
    pub fn lookup(&self, dir: &Node, name: &[u8], cx: &Cx) -> Result<Option<Node>> {
        block_on(self.0.lookup(dir, name, cx))
    }

    /// See [`Mount::open`].
    ///
    /// # Errors
    /// As [`Mount::open`].
    pub fn open_node(&self, node: &Node, cx: &Cx) -> Result<File> {
        block_on(self.0.open(node, cx))
    }

    /// See [`Mount::getattr`].
    ///
    /// # Errors
    /// As [`Mount::getattr`].
    pub fn getattr(&self, node: &Node, cx: &Cx) -> Result<Attr> {
        block_on(self.0.getattr(node, cx))
    }

    /// See [`Mount::access`].
    ///
    /// # Errors
    /// As [`Mount::access`].
    pub fn access(&self, node: &Node, mask: AccessMask, cx: &Cx) -> Result<bool> {
        block_on(self.0.access(node, mask, cx))
    }

    /// See [`Mount::readlink`].
    ///
    /// # Errors
    /// As [`Mount::readlink`].
    pub fn readlink(&self, node: &Node, cx: &Cx) -> Result<Bytes> {
        block_on(self.0.readlink(node, cx))
    }

    /// See [`Mount::readdir`].
    ///
    /// # Errors
    /// As [`Mount::readdir`].
    pub fn readdir(
        &self,
        dir: &Node,
        cookie: u64,
        plus: bool,
        cx: &Cx,
    ) -> Result<Vec<DirListEntry>> {
        block_on(self.0.readdir(dir, cookie, plus, cx))
    }

    /// See [`Mount::statfs`].
    ///
    /// # Errors
    /// As [`Mount::statfs`].
    pub fn statfs(&self, cx: &Cx) -> Result<StatFs> {
        block_on(self.0.statfs(cx))
    }
}
