//! Changes in the origin behind the cache's back, one of each kind.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::tree::Listing;
use crate::failure::Failure;

/// Most bytes an in-place change rewrites.
const REWRITE_MAX: u64 = 64 << 10;

/// Changes one file.
type Change = fn(&Path) -> io::Result<()>;

/// What was done to the origin.
#[derive(Default, Debug)]
pub(crate) struct Altered {
    /// One line a change.
    pub(crate) done: Vec<String>,
}

/// Rewrites, appends to, truncates, replaces and deletes one file each, as far as there are enough of
/// them, and adds one. The files are spread over the tree.
pub(crate) fn alter(origin: &Path, listing: &Listing) -> Result<Altered, Failure> {
    let changes: [(&'static str, Change); 5] = [
        ("rewrite", rewrite),
        ("append to", append),
        ("truncate", truncate),
        ("replace", replace),
        ("delete", |path| fs::remove_file(path)),
    ];
    // A change of an empty file would change no byte.
    let files: Vec<_> = listing.files().filter(|&(_, size)| size > 1).collect();
    let mut altered = Altered::default();
    let count = changes.len().min(files.len());
    for (i, (what, change)) in changes.into_iter().take(count).enumerate() {
        // Distinct, because count is at most files.len().
        let (path, _) = files[i * files.len() / count];
        let full = origin.join(path);
        change(&full).map_err(Failure::io(what, &full))?;
        altered.done.push(format!("{what} {}", path.display()));
    }
    let added = unused_name(origin);
    fs::write(&added, "This file was not there before.\n").map_err(Failure::io("add", &added))?;
    altered.done.push(format!("add {}", added.file_name().unwrap_or_default().display()));
    Ok(altered)
}

/// Changes every byte of a piece in the middle; size and inode stay.
fn rewrite(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let size = file.metadata()?.len();
    let len = size.min(REWRITE_MAX);
    let at = (size - len) / 2;
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, at)?;
    bytes.iter_mut().for_each(|b| *b = !*b);
    file.write_all_at(&bytes, at)
}

fn append(path: &Path) -> io::Result<()> {
    OpenOptions::new().append(true).open(path)?.write_all(b"\nThis line was appended.\n")
}

/// To half its size, which is not at a page's end more often than not.
fn truncate(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    let size = file.metadata()?.len();
    file.set_len(size / 2)
}

/// As an editor saves: a new file of the same size, renamed over the old one.
fn replace(path: &Path) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut new = tempfile::NamedTempFile::new_in(dir)?;
    io::copy(&mut File::open(path)?, &mut new)?;
    new.rewind()?;
    new.write_all(b"!")?;
    new.persist(path)?;
    Ok(())
}

fn unused_name(origin: &Path) -> PathBuf {
    let mut path = origin.join("added-by-netfs-demo");
    while path.symlink_metadata().is_ok() {
        path.as_mut_os_string().push("+");
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        demo::tree::{Exclude, list},
        interrupt::Interrupt,
    };

    fn altered(files: usize) -> (usize, usize, usize) {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..files {
            fs::write(dir.path().join(format!("f{i:03}")), [b'x'; 100]).unwrap();
        }
        let before = list(dir.path(), &Exclude::default(), &Interrupt::default()).unwrap();
        let done = alter(dir.path(), &before).unwrap().done.len();
        let after = list(dir.path(), &Exclude::default(), &Interrupt::default()).unwrap();
        let content = |i: usize| fs::read(dir.path().join(format!("f{i:03}"))).ok();
        let differ = (0..files).filter(|&i| content(i) != Some(vec![b'x'; 100])).count();
        (done, differ, after.entries.len())
    }

    #[test]
    fn each_kind_of_change_hits_another_file() {
        assert_eq!(altered(100), (6, 5, 100));
        assert_eq!(altered(5), (6, 5, 5));
    }

    #[test]
    fn small_trees_get_as_many_changes_as_they_have_files() {
        assert_eq!(altered(2), (3, 2, 3));
        assert_eq!(altered(0), (1, 0, 1));
    }
}
