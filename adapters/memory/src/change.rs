//! Changes by a third party: what happens to the files, and whether the origin tells.

use std::{fmt, ops::Range};

use bytes::Bytes;
use netfs::{
    Errno, Error, Result,
    coherency::{BreakReason, Ticket},
    remote::FileKind,
};

use crate::{
    content::Content,
    fs::MemoryFs,
    ledger::Event,
    origin::key_bytes,
    tree::{KEY_LEN, Node, NodeId, Removed, Renamed, Tree},
};

/// A change of one path, begun with [`MemoryFs::change`] and done by the method that names it.
///
/// The change is made first, then clients are told (a break for each file and directory that changed,
/// and `deleted` for a file that is gone), and only then does the method return, as a server delays a
/// change's visibility until its breaks are answered. With [`silently`](Change::silently) nobody is
/// told. While a snapshot is [staged](MemoryFs::stage) changes go there and nobody is told either.
#[must_use = "name what is to change"]
pub struct Change<'a> {
    fs: &'a MemoryFs,
    path: Vec<u8>,
    tell: bool,
    reason: BreakReason,
    keep_version: bool,
}

/// A change that was made.
#[non_exhaustive]
pub struct Changed {
    /// The file's data version after it; 0 for a removed file.
    pub version: u64,
    /// The tickets of the breaks it sent, one for each event and client.
    pub tickets: Vec<Ticket>,
}

impl fmt::Debug for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Changed(version {}, {} tickets)", self.version, self.tickets.len())
    }
}

/// What a change of data is made from.
struct Edit {
    /// Of the pattern.
    seed: u64,
    version: u64,
    /// The file's size before.
    size: u64,
}

/// What a change did, to be told.
struct Done {
    version: u64,
    events: Vec<Event>,
}

impl<'a> Change<'a> {
    pub(crate) fn new(fs: &'a MemoryFs, path: &[u8]) -> Change<'a> {
        let reason = BreakReason::Callback;
        Change { fs, path: path.to_vec(), tell: true, reason, keep_version: false }
    }

    /// Tells nobody.
    pub fn silently(mut self) -> Self {
        self.tell = false;
        self
    }

    /// Tells with this reason instead of [`BreakReason::Callback`].
    pub fn reason(mut self, reason: BreakReason) -> Self {
        self.reason = reason;
        self
    }

    /// The data changes but the version does not: a server whose versions cannot be trusted (a time
    /// stamp too coarse).
    pub fn keeping_version(mut self) -> Self {
        self.keep_version = true;
        self
    }

    /// New pattern throughout, same size.
    ///
    /// # Errors
    /// As every change: `ENOENT` if there is no such file, `EISDIR` for a directory.
    pub fn rewrite(self) -> Result<Changed> {
        self.edit(0..u64::MAX, |content, to| {
            *content = Content::pattern(to.seed, to.version, to.size);
            Ok(())
        })
    }

    /// New pattern throughout, of another size.
    ///
    /// # Errors
    /// As [`rewrite`](Change::rewrite).
    pub fn rewrite_sized(self, size: u64) -> Result<Changed> {
        self.edit(0..u64::MAX, |content, to| {
            *content = Content::pattern(to.seed, to.version, size);
            Ok(())
        })
    }

    /// New pattern in a range, the rest as it was; grows the file if need be.
    ///
    /// # Errors
    /// As [`rewrite`](Change::rewrite).
    pub fn rewrite_range(self, range: Range<u64>) -> Result<Changed> {
        self.edit(range.clone(), |content, to| {
            content.put_pattern(range.clone(), to.seed, to.version);
            Ok(())
        })
    }

    /// These bytes at `offset`, the rest as it was; grows the file if need be.
    ///
    /// # Errors
    /// As [`rewrite`](Change::rewrite).
    pub fn write(self, offset: u64, bytes: impl Into<Bytes>) -> Result<Changed> {
        let bytes = bytes.into();
        let range = offset..offset.saturating_add(bytes.len() as u64);
        self.edit(range, |content, _| {
            content.put_bytes(offset, bytes.clone());
            Ok(())
        })
    }

    /// `n` more bytes of new pattern at the end.
    ///
    /// # Errors
    /// As [`rewrite`](Change::rewrite); `EFBIG` if the size does not fit 64 bits.
    pub fn append(self, n: u64) -> Result<Changed> {
        self.edit(0..0, |content, to| {
            let end = to.size.checked_add(n).ok_or(Errno::EFBIG)?;
            content.put_pattern(to.size..end, to.seed, to.version);
            Ok(())
        })
    }

    /// Another size: cuts the file, or lets it grow by a hole.
    ///
    /// # Errors
    /// As [`rewrite`](Change::rewrite).
    pub fn truncate(self, size: u64) -> Result<Changed> {
        self.edit(size..u64::MAX, |content, _| {
            content.resize(size);
            Ok(())
        })
    }

    /// Makes a range a hole.
    ///
    /// # Errors
    /// As [`rewrite`](Change::rewrite).
    pub fn punch(self, range: Range<u64>) -> Result<Changed> {
        self.edit(range.clone(), |content, _| {
            let end = range.end.min(content.size());
            content.put_hole(range.start.min(end)..end);
            Ok(())
        })
    }

    /// Moves the version although nothing changed.
    ///
    /// # Errors
    /// As [`rewrite`](Change::rewrite).
    pub fn touch(self) -> Result<Changed> {
        self.edit(0..0, |_, _| Ok(()))
    }

    /// Other permission bits.
    ///
    /// # Errors
    /// `ENOENT` if there is no such file.
    pub fn chmod(self, mode: u32) -> Result<Changed> {
        self.attr(|node| node.mode = mode & 0o7777)
    }

    /// Another owner and group.
    ///
    /// # Errors
    /// `ENOENT` if there is no such file.
    pub fn chown(self, uid: u32, gid: u32) -> Result<Changed> {
        self.attr(|node| (node.uid, node.gid) = (uid, gid))
    }

    /// Makes a file of `size` bytes of pattern, with its parent directories.
    ///
    /// # Errors
    /// `EEXIST` if the path exists, `ENOTDIR`, `EINVAL`.
    pub fn create(self, size: u64) -> Result<Changed> {
        self.make(FileKind::File, move |seed| Content::pattern(seed, 1, size))
    }

    /// Makes a file of these bytes.
    ///
    /// # Errors
    /// As [`create`](Change::create).
    pub fn create_bytes(self, bytes: impl Into<Bytes>) -> Result<Changed> {
        let bytes = bytes.into();
        self.make(FileKind::File, move |_| Content::literal(bytes))
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// As [`create`](Change::create).
    pub fn mkdir(self) -> Result<Changed> {
        self.make(FileKind::Dir, |_| Content::default())
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// As [`create`](Change::create).
    pub fn symlink(self, target: impl AsRef<[u8]>) -> Result<Changed> {
        let target = Bytes::copy_from_slice(target.as_ref());
        self.make(FileKind::Symlink, move |_| Content::literal(target))
    }

    /// Gives the file at `target` the changed path as another name.
    ///
    /// # Errors
    /// `ENOENT`, `EEXIST`, or `EPERM` for a directory.
    pub fn link(self, target: impl AsRef<[u8]>) -> Result<Changed> {
        let move_version = self.fs.settings().attr_moves_version;
        self.apply(|tree, path| {
            let (dir, file) = tree.link(target.as_ref(), path, move_version)?;
            let events = vec![broken(tree, dir)?, broken(tree, file)?];
            Ok(Done { version: tree.node(file)?.now.version, events })
        })
    }

    /// Removes the name; a directory goes with everything in it.
    ///
    /// # Errors
    /// `ENOENT`, or `EINVAL` for the root.
    pub fn remove(self) -> Result<Changed> {
        let move_version = self.fs.settings().attr_moves_version;
        self.apply(|tree, path| {
            let file = tree.at(path)?.id;
            let Removed { dir, gone } = tree.remove(path, move_version)?;
            let mut events = deleted(tree, &gone);
            // Another link of the file lives on; its link count changed.
            events.extend(broken(tree, file).ok());
            events.push(broken(tree, dir)?);
            Ok(Done { version: 0, events })
        })
    }

    /// Moves the name, replacing what stands there.
    ///
    /// # Errors
    /// `ENOENT`, or `EINVAL` if a directory would move into itself.
    pub fn rename(self, to: impl AsRef<[u8]>) -> Result<Changed> {
        let move_version = self.fs.settings().attr_moves_version;
        self.apply(|tree, path| {
            let file = tree.at(path)?.id;
            let Renamed { from, to, gone } = tree.rename(path, to.as_ref(), move_version)?;
            let mut events = deleted(tree, &gone);
            events.push(broken(tree, from)?);
            if to != from {
                events.push(broken(tree, to)?);
            }
            events.push(broken(tree, file)?);
            Ok(Done { version: tree.node(file)?.now.version, events })
        })
    }

    /// `settled`: where this leaves nothing of what was uncommitted.
    fn edit(
        self,
        settled: Range<u64>,
        change: impl Fn(&mut Content, &Edit) -> Result<()>,
    ) -> Result<Changed> {
        let keep_version = self.keep_version;
        self.apply(|tree, path| {
            let node = tree.at(path)?;
            let id = node.id;
            if node.kind != FileKind::File {
                return Err(Error::new(Errno::EISDIR, "memory origin: only a file has data"));
            }
            let (size, next) = (node.now.content.size(), node.now.version + 1);
            // The pattern of a lying server changes too: it takes a number no version will have.
            let version = if keep_version { !tree.next_tick() } else { next };
            let edit = Edit { seed: id, version, size };
            let version =
                tree.edit(id, keep_version, &settled, |content| change(content, &edit))?;
            Ok(Done { version, events: vec![broken(tree, id)?] })
        })
    }

    fn attr(self, change: impl FnOnce(&mut Node)) -> Result<Changed> {
        let move_version = self.fs.settings().attr_moves_version;
        self.apply(|tree, path| {
            let id = tree.at(path)?.id;
            let version = tree.set_attr(id, move_version, change)?;
            Ok(Done { version, events: vec![broken(tree, id)?] })
        })
    }

    fn make(self, kind: FileKind, content: impl FnOnce(u64) -> Content) -> Result<Changed> {
        self.apply(|tree, path| {
            let (dir, _) = tree.create(path, kind, content)?;
            Ok(Done { version: 1, events: vec![broken(tree, dir)?] })
        })
    }

    fn apply(self, change: impl FnOnce(&mut Tree, &[u8]) -> Result<Done>) -> Result<Changed> {
        let origin = &self.fs.origin;
        let (done, staged) = {
            let mut state = origin.state.lock();
            let done = change(state.editable(), &self.path)?;
            (done, state.staged.is_some())
        };
        let tell = self.tell && !staged;
        let events = done.events.iter().filter(|_| tell);
        let tickets = events.flat_map(|event| origin.send(event, self.reason)).collect();
        Ok(Changed { version: done.version, tickets })
    }
}

fn broken(tree: &Tree, id: NodeId) -> Result<Event> {
    Ok(Event::Break { key: key_bytes(&tree.node(id)?.key) })
}

/// What is told of files that have lost their last name.
pub(crate) fn deleted(tree: &Tree, keys: &[[u8; KEY_LEN]]) -> Vec<Event> {
    let event = |key| {
        let (kept, key) = (tree.is_orphan(key), key_bytes(key));
        if kept { Event::Break { key } } else { Event::Deleted { key } }
    };
    keys.iter().map(event).collect()
}
