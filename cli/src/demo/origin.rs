//! The scratch copy that serves as the origin: brought in line with the source, then altered at will.
//!
//! A kept copy is brought up to date file by file, so that what did not change keeps its inode and
//! timestamps, and with them what the cache has of it.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};

use super::tree::{self, Entry, Exclude, Listing, list};
use crate::{failure::Failure, interrupt::Interrupt, progress::Progress};

/// Makes `copy` equal to what `source` was listed as. What cannot be read is left out and noted in
/// the listing.
pub(crate) fn sync(
    source: &Path,
    listing: &mut Listing,
    copy: &Path,
    progress: &Progress,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let have = list(copy, &Exclude::default(), interrupt)?;
    remove_outdated(copy, &have, listing)?;
    progress.start("copying", listing.bytes());
    let mut unreadable = Vec::new();
    for (path, entry) in &listing.entries {
        interrupt.check()?;
        let (from, to) = (source.join(path), copy.join(path));
        let keep = have.entries.get(path) == Some(entry);
        match entry {
            Entry::File { size, .. } => {
                if !keep && let Err(why) = copy_file(&from, &to, interrupt)? {
                    unreadable.push((path.clone(), why));
                }
                progress.add(*size);
            }
            Entry::Dir if !keep => fs::create_dir(&to).map_err(Failure::io("make", &to))?,
            Entry::Symlink(target) if !keep => {
                std::os::unix::fs::symlink(target, &to).map_err(Failure::io("make", &to))?;
            }
            Entry::Dir | Entry::Symlink(_) => {}
        }
    }
    progress.finish();
    for (path, why) in unreadable {
        listing.entries.remove(&path);
        listing.skipped.push((path, why));
    }
    Ok(())
}

/// Removes from the copy all that is not to be kept as it is; contents before their directory.
fn remove_outdated(copy: &Path, have: &Listing, want: &Listing) -> Result<(), Failure> {
    for (path, entry) in have.entries.iter().rev() {
        if want.entries.get(path) == Some(entry) {
            continue;
        }
        let path = copy.join(path);
        let removed = match entry {
            Entry::Dir => fs::remove_dir(&path),
            _ => fs::remove_file(&path),
        };
        removed.map_err(Failure::io("remove", &path))?;
    }
    Ok(())
}

/// Copies one file with its holes and its modification time. The inner error says why the source could
/// not be read; that is no reason to give up on the others.
fn copy_file(from: &Path, to: &Path, interrupt: &Interrupt) -> Result<Result<(), String>, Failure> {
    let opened = File::open(from).and_then(|file| file.metadata().map(|meta| (file, meta)));
    let (source, meta) = match opened {
        Ok(opened) => opened,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let copy = File::create_new(to).map_err(Failure::io("make", to))?;
    copy.set_len(meta.len()).map_err(Failure::io("write", to))?;
    let mut at = 0;
    while let Some((start, end)) = data_after(&source, at, meta.len()) {
        if let Err(failed) = copy_range(&source, &copy, start..end, interrupt)? {
            let full = matches!(failed.raw_os_error(), Some(e) if is_ours(e));
            if full {
                return Err(Failure::io("write", to)(failed));
            }
            fs::remove_file(to).map_err(Failure::io("remove", to))?;
            return Ok(Err(failed.to_string()));
        }
        at = end;
    }
    // Last, so that a copy cut short by a kill has another time than its source and is made again.
    let (sec, nsec) = tree::mtime(&meta);
    copy.set_modified(system_time(sec, nsec)).map_err(Failure::io("set the time of", to))?;
    Ok(Ok(()))
}

/// Errors that are about the copy, not about the source.
fn is_ours(errno: i32) -> bool {
    [Errno::NOSPC, Errno::DQUOT, Errno::FBIG, Errno::ROFS]
        .contains(&Errno::from_raw_os_error(errno))
}

fn copy_range(
    source: &File,
    copy: &File,
    range: std::ops::Range<u64>,
    interrupt: &Interrupt,
) -> Result<io::Result<()>, Failure> {
    /// So often a user who wants to stop is heard.
    const STEP: u64 = 64 << 20;
    let positioned = seek(source, SeekFrom::Start(range.start))
        .and_then(|_| seek(copy, SeekFrom::Start(range.start)));
    if let Err(errno) = positioned {
        return Ok(Err(errno.into()));
    }
    let mut left = range.end - range.start;
    while left > 0 {
        interrupt.check()?;
        match io::copy(&mut source.take(left.min(STEP)), &mut { copy }) {
            // The source became shorter: what is missing stays a hole.
            Ok(0) => break,
            Ok(n) => left -= n,
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(()))
}

/// The next run of data at or after `at`; without SEEK_DATA all is data.
fn data_after(file: &File, at: u64, size: u64) -> Option<(u64, u64)> {
    if at >= size {
        return None;
    }
    let start = match seek(file, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return None,
        Err(_) => return Some((at, size)),
    };
    let end = seek(file, SeekFrom::Hole(start)).unwrap_or(size).min(size);
    (start < end).then_some((start, end))
}

fn system_time(sec: i64, nsec: i64) -> SystemTime {
    let nanos = Duration::from_nanos(u64::try_from(nsec).unwrap_or(0));
    let whole = Duration::from_secs(sec.unsigned_abs());
    let base = if sec < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    base.and_then(|t| t.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
}

/// How the paths that were left out are shown: a few of them, and how many there are.
pub(crate) fn describe_skipped(skipped: &[(PathBuf, String)]) -> Vec<String> {
    const SHOWN: usize = 5;
    let mut lines: Vec<_> = skipped
        .iter()
        .take(SHOWN)
        .map(|(p, why)| format!("skipped {}: {why}", p.display()))
        .collect();
    if skipped.len() > SHOWN {
        lines.push(format!("skipped {} more", skipped.len() - SHOWN));
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    struct Bed {
        _dir: tempfile::TempDir,
        source: PathBuf,
        copy: PathBuf,
    }

    impl Bed {
        fn new() -> Bed {
            let dir = tempfile::tempdir().unwrap();
            let (source, copy) = (dir.path().join("source"), dir.path().join("copy"));
            fs::create_dir(&source).unwrap();
            fs::create_dir(&copy).unwrap();
            Bed { _dir: dir, source, copy }
        }

        fn sync(&self) {
            let interrupt = Interrupt::default();
            let mut listing = list(&self.source, &Exclude::default(), &interrupt).unwrap();
            let progress = Progress::hidden();
            sync(&self.source, &mut listing, &self.copy, &progress, &interrupt).unwrap();
            let copied = list(&self.copy, &Exclude::default(), &interrupt).unwrap();
            assert_eq!(copied.entries, listing.entries);
            for (path, _) in listing.files() {
                let read = |root: &Path| fs::read(root.join(path)).unwrap();
                assert!(read(&self.copy) == read(&self.source), "{}", path.display());
            }
        }

        fn ino(&self, name: &str) -> u64 {
            fs::metadata(self.copy.join(name)).unwrap().ino()
        }
    }

    #[test]
    fn a_copy_has_everything_and_keeps_holes() {
        let bed = Bed::new();
        fs::create_dir_all(bed.source.join("a/b")).unwrap();
        fs::write(bed.source.join("a/b/file"), [7; 5000]).unwrap();
        fs::write(bed.source.join("empty"), "").unwrap();
        std::os::unix::fs::symlink("a/b/file", bed.source.join("link")).unwrap();
        let sparse = File::create(bed.source.join("sparse")).unwrap();
        sparse.set_len(32 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"island", 16 << 20).unwrap();
        bed.sync();
        let blocks = fs::metadata(bed.copy.join("sparse")).unwrap().blocks();
        assert!(blocks * 512 < 1 << 20, "the copy is not sparse: {blocks} blocks");
    }

    #[test]
    fn a_kept_copy_is_brought_up_to_date_and_the_rest_is_left_alone() {
        let bed = Bed::new();
        for name in ["same", "rewritten", "gone", "becomes-dir"] {
            fs::write(bed.source.join(name), name).unwrap();
        }
        fs::create_dir(bed.source.join("becomes-file")).unwrap();
        fs::write(bed.source.join("becomes-file/inside"), "x").unwrap();
        bed.sync();
        let kept = bed.ino("same");

        fs::write(bed.copy.join("rewritten"), "REWRITTEN").unwrap();
        fs::write(bed.copy.join("stray"), "stray").unwrap();
        fs::remove_file(bed.source.join("gone")).unwrap();
        fs::remove_file(bed.source.join("becomes-dir")).unwrap();
        fs::create_dir(bed.source.join("becomes-dir")).unwrap();
        fs::remove_dir_all(bed.source.join("becomes-file")).unwrap();
        fs::write(bed.source.join("becomes-file"), "x").unwrap();
        bed.sync();
        assert_eq!(bed.ino("same"), kept, "an unchanged file was copied again");
    }
}
