//! What is in a directory tree, read directly.

use std::{
    collections::BTreeMap,
    fs::{self, DirEntry, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::{failure::Failure, interrupt::Interrupt};

/// One thing in a tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    /// A regular file: its size and when it was last changed (seconds, nanoseconds).
    File {
        /// In bytes.
        size: u64,
        /// Seconds and nanoseconds since the epoch.
        mtime: (i64, i64),
    },
    /// A directory.
    Dir,
    /// A symbolic link and where it points.
    Symlink(PathBuf),
}

/// What is in a tree, by path relative to its root; a directory comes before what it contains.
#[derive(Default, Debug)]
pub(crate) struct Listing {
    pub(crate) entries: BTreeMap<PathBuf, Entry>,
    /// What was left out, and why.
    pub(crate) skipped: Vec<(PathBuf, String)>,
}

impl Listing {
    /// Regular files with their sizes, in order of their paths.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&Path, u64)> {
        self.entries.iter().filter_map(|(path, entry)| match entry {
            Entry::File { size, .. } => Some((path.as_path(), *size)),
            _ => None,
        })
    }

    /// Bytes of all regular files.
    pub(crate) fn bytes(&self) -> u64 {
        self.files().map(|(_, size)| size).sum()
    }
}

/// What not to list.
#[derive(Default, Debug)]
pub(crate) struct Exclude {
    /// Names directly below the root.
    pub(crate) top_level: &'static [&'static str],
    /// Directories by device and inode number: the demo's own, when they lie within the tree.
    pub(crate) dirs: Vec<(u64, u64)>,
}

/// Lists the tree below `root`. Special files and what may not be read are left out and noted.
pub(crate) fn list(
    root: &Path,
    exclude: &Exclude,
    interrupt: &Interrupt,
) -> Result<Listing, Failure> {
    let mut listing = Listing::default();
    // That the root can be read is what the user asked for; below it one must take what comes.
    let mut pending =
        vec![(PathBuf::new(), fs::read_dir(root).map_err(Failure::io("read", root))?)];
    while let Some((dir, entries)) = pending.pop() {
        interrupt.check()?;
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    listing.skipped.push((dir.clone(), error.to_string()));
                    break;
                }
            };
            if dir.as_os_str().is_empty()
                && exclude.top_level.iter().any(|n| *n == entry.file_name())
            {
                continue;
            }
            let path = dir.join(entry.file_name());
            match look(&entry, exclude) {
                Ok(Look::Is(Entry::Dir)) => match fs::read_dir(entry.path()) {
                    Ok(inside) => {
                        listing.entries.insert(path.clone(), Entry::Dir);
                        pending.push((path, inside));
                    }
                    Err(error) => listing.skipped.push((path, error.to_string())),
                },
                Ok(Look::Is(other)) => {
                    listing.entries.insert(path, other);
                }
                Ok(Look::Excluded) => {}
                Ok(Look::Special) => listing.skipped.push((path, "a special file".to_owned())),
                Err(error) => listing.skipped.push((path, error.to_string())),
            }
        }
    }
    Ok(listing)
}

enum Look {
    Is(Entry),
    Special,
    Excluded,
}

fn look(entry: &DirEntry, exclude: &Exclude) -> io::Result<Look> {
    // Does not follow symbolic links.
    let meta = entry.metadata()?;
    Ok(if meta.is_dir() {
        if exclude.dirs.contains(&(meta.dev(), meta.ino())) {
            return Ok(Look::Excluded);
        }
        Look::Is(Entry::Dir)
    } else if meta.is_symlink() {
        Look::Is(Entry::Symlink(fs::read_link(entry.path())?))
    } else if meta.is_file() {
        Look::Is(Entry::File { size: meta.len(), mtime: mtime(&meta) })
    } else {
        Look::Special
    })
}

/// When a file was last changed: seconds and nanoseconds.
pub(crate) fn mtime(meta: &Metadata) -> (i64, i64) {
    (meta.mtime(), meta.mtime_nsec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_listed_parents_first_and_exclusions_hold() {
        let dir = tempfile::tempdir().unwrap();
        let at = |p: &str| dir.path().join(p);
        for d in ["a/b", "target/x", "deep/target", "own"] {
            fs::create_dir_all(at(d)).unwrap();
        }
        fs::write(at("a/b/file"), "12345").unwrap();
        fs::write(at("target/x/gone"), "x").unwrap();
        fs::write(at("own/gone"), "x").unwrap();
        std::os::unix::fs::symlink("nowhere", at("a/link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        let own = fs::metadata(at("own")).unwrap();
        let exclude = Exclude { top_level: &["target"], dirs: vec![(own.dev(), own.ino())] };
        let listing = list(dir.path(), &exclude, &Interrupt::default()).unwrap();
        let paths: Vec<_> = listing.entries.keys().map(|p| p.to_str().unwrap()).collect();
        assert_eq!(paths, ["a", "a/b", "a/b/file", "a/link", "deep", "deep/target"]);
        assert_eq!(listing.entries[Path::new("a/link")], Entry::Symlink("nowhere".into()));
        assert_eq!(listing.files().collect::<Vec<_>>(), [(Path::new("a/b/file"), 5)]);
        assert_eq!(listing.skipped.len(), 1);
        assert_eq!(listing.skipped[0].0, Path::new("socket"));
    }
}
