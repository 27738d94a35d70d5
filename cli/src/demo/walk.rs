//! Walking the mounted tree, and comparing its names with the origin's.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use netfs::{
    Mount, Node,
    remote::{Cx, FileKind},
};

use super::compare::Mismatch;
use crate::{failure::Failure, interrupt::Interrupt};

/// A regular file to read.
pub(crate) struct Task {
    /// Relative to the root.
    pub(crate) path: PathBuf,
    pub(crate) node: Node,
}

/// Walks a mount.
pub(crate) struct Walker<'a> {
    pub(crate) mount: &'a Mount,
    pub(crate) cx: &'a Cx,
    /// What the mount must look like.
    pub(crate) reference: &'a Path,
    pub(crate) interrupt: &'a Interrupt,
}

impl Walker<'_> {
    /// Hands every regular file to `visit`, until that says `false`; returns what is wrong with names
    /// and links.
    pub(crate) fn walk(
        &self,
        mut visit: impl FnMut(Task) -> bool,
    ) -> Result<Vec<Mismatch>, Failure> {
        let mut wrong = Vec::new();
        let mut pending = vec![(PathBuf::new(), self.mount.root())];
        while let Some((dir, node)) = pending.pop() {
            self.interrupt.check()?;
            let mut expected = self.expected(&dir)?;
            for (name, kind, node) in self.entries(&dir, &node)? {
                let path = dir.join(&name);
                if expected.remove(&name).map(|e| e.kind) != Some(kind) {
                    let what = format!("is a {kind:?} that the origin does not have");
                    wrong.push(Mismatch { path, what, bytes: 1 });
                    continue;
                }
                match kind {
                    FileKind::Dir => pending.push((path, node)),
                    FileKind::File => {
                        let wanted = visit(Task { path, node });
                        if !wanted {
                            return Ok(wrong);
                        }
                    }
                    FileKind::Symlink => wrong.extend(self.check_link(path, &node)?),
                    _ => {}
                }
            }
            wrong.extend(expected.into_iter().map(|(name, entry)| Mismatch {
                path: dir.join(name),
                what: "is missing".to_owned(),
                bytes: entry.size.max(1),
            }));
        }
        Ok(wrong)
    }

    /// All entries of a directory with their nodes, through the cache.
    fn entries(&self, dir: &Path, node: &Node) -> Result<Vec<(OsString, FileKind, Node)>, Failure> {
        let mut out = Vec::new();
        let mut cookie = 0;
        loop {
            let run = pollster::block_on(self.mount.readdir(node, cookie, true, self.cx))
                .map_err(Failure::netfs(format!("list {:?}", dir.display())))?;
            let Some(last) = run.last() else { return Ok(out) };
            cookie = last.cookie;
            for entry in run {
                let name = OsStr::from_bytes(&entry.name).to_owned();
                let node = match entry.node {
                    Some(node) => Some(node),
                    None => {
                        pollster::block_on(self.mount.lookup(node, &entry.name, self.cx)).map_err(
                            Failure::netfs(format!("look up {:?}", dir.join(&name).display())),
                        )?
                    }
                };
                // Listed, but gone at once: it will be found missing if it ought to be there.
                if let Some(node) = node {
                    out.push((name, entry.kind, node));
                }
            }
        }
    }

    fn check_link(&self, path: PathBuf, node: &Node) -> Result<Option<Mismatch>, Failure> {
        let got = pollster::block_on(self.mount.readlink(node, self.cx))
            .map_err(Failure::netfs(format!("read the link {:?}", path.display())))?;
        let direct = self.reference.join(&path);
        let want = fs::read_link(&direct).map_err(Failure::io("read the link", &direct))?;
        let want = want.as_os_str().as_bytes();
        let differ = got.iter().zip(want).filter(|(a, b)| a != b).count();
        let bytes = (differ + got.len().abs_diff(want.len())) as u64;
        Ok((bytes > 0).then(|| Mismatch { path, what: "points elsewhere".to_owned(), bytes }))
    }

    /// What the origin has in a directory.
    fn expected(&self, dir: &Path) -> Result<BTreeMap<OsString, Expected>, Failure> {
        let direct = self.reference.join(dir);
        let read = || -> io::Result<BTreeMap<_, _>> {
            fs::read_dir(&direct)?
                .map(|entry| {
                    let entry = entry?;
                    let meta = entry.metadata()?;
                    let size = if meta.is_file() { meta.len() } else { 0 };
                    Ok((entry.file_name(), Expected { kind: kind_of(&meta), size }))
                })
                .collect()
        };
        read().map_err(Failure::io("read", &direct))
    }
}

struct Expected {
    kind: FileKind,
    size: u64,
}

fn kind_of(meta: &fs::Metadata) -> FileKind {
    use std::os::unix::fs::FileTypeExt;
    let kind = meta.file_type();
    match () {
        () if kind.is_dir() => FileKind::Dir,
        () if kind.is_symlink() => FileKind::Symlink,
        () if kind.is_fifo() => FileKind::Fifo,
        () if kind.is_socket() => FileKind::Socket,
        () if kind.is_char_device() => FileKind::CharDevice,
        () if kind.is_block_device() => FileKind::BlockDevice,
        () => FileKind::File,
    }
}
