//! Where the demo works: the tree it serves, the scratch copy of it, and the cache.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use cachefiles::{CacheDir, OpenError};
use rustix::fs::{FlockOperation, flock};
use std::sync::Arc;
use tempfile::TempDir;

use super::tree::Exclude;
use crate::{args::Demo, failure::Failure};

/// Marks a scratch copy as ours: what is in it may be deleted.
const MARK: &str = "user.netfs.demo-origin";

/// A process that was killed gives up its cache when the kernel is done with it.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// The directories of one run; temporary ones are removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    /// What is served a copy of.
    pub(crate) source: PathBuf,
    /// What not to copy.
    pub(crate) exclude: Exclude,
    /// The scratch copy.
    pub(crate) origin: PathBuf,
    /// The disk cache.
    pub(crate) cache: PathBuf,
    /// Whether both stay.
    pub(crate) kept: bool,
    /// Keeps a second demo off the same copy, until the process ends.
    _lock: File,
    _temporary: Option<TempDir>,
}

impl Place {
    /// Finds or makes the directories and claims them.
    pub(crate) fn claim(demo: &Demo) -> Result<Place, Failure> {
        let (source, top_level) = match &demo.dir {
            Some(dir) => (dir.clone(), &[][..]),
            None => (project_tree()?, &[".git", "target"][..]),
        };
        let meta = fs::metadata(&source).map_err(Failure::io("open", &source))?;
        if !meta.is_dir() {
            return Err(Failure::Usage(format!("{} is not a directory", source.display())));
        }
        let (origin, cache, temporary) = match &demo.cache_dir {
            Some(cache) => (beside(cache)?, cache.clone(), None),
            None => {
                let base = env::temp_dir();
                let made = tempfile::Builder::new().prefix("netfs-demo-").tempdir_in(&base);
                let dir = made.map_err(Failure::io("make a temporary directory in", &base))?;
                (dir.path().join("origin"), dir.path().join("cache"), Some(dir))
            }
        };
        let lock = claim_copy(&origin)?;
        // Now rather than after copying gigabytes; this also makes the directory, so that it can be
        // told from what is to be copied.
        drop(open_cache(&cache)?);
        let mut dirs = vec![];
        for dir in [&origin, &cache] {
            let meta = fs::metadata(dir).map_err(Failure::io("open", dir))?;
            dirs.push((meta.dev(), meta.ino()));
        }
        if dirs.contains(&(meta.dev(), meta.ino())) {
            let what =
                "the tree to serve (--dir) is the cache or its scratch copy: name another one";
            return Err(Failure::Usage(what.to_owned()));
        }
        let exclude = Exclude { top_level, dirs };
        let kept = temporary.is_none();
        Ok(Place { source, exclude, origin, cache, kept, _lock: lock, _temporary: temporary })
    }
}

/// Opens a cache; waits a moment for an owner that is on its way out.
pub(crate) fn open_cache(path: &Path) -> Result<Arc<CacheDir>, Failure> {
    let started = Instant::now();
    loop {
        match CacheDir::builder(path).open() {
            Err(OpenError::Locked { .. }) if started.elapsed() < LOCK_PATIENCE => {
                thread::sleep(Duration::from_millis(50));
            }
            other => return Ok(other?),
        }
    }
}

/// The workspace or repository around the current directory, or that directory itself.
fn project_tree() -> Result<PathBuf, Failure> {
    let here = env::current_dir().map_err(Failure::io("find", Path::new(".")))?;
    Ok(here.ancestors().find(|dir| is_project(dir)).unwrap_or(&here).to_owned())
}

fn is_project(dir: &Path) -> bool {
    let workspace = || fs::read_to_string(dir.join("Cargo.toml"));
    dir.join(".git").exists()
        || workspace().is_ok_and(|text| text.lines().any(|l| l.trim() == "[workspace]"))
}

/// `C.origin` for `C`.
fn beside(cache: &Path) -> Result<PathBuf, Failure> {
    let Some(name) = cache.file_name() else {
        let what = format!(
            "--cache-dir {} has no name of its own: give a directory that can be made, such as ./cache",
            cache.display()
        );
        return Err(Failure::Usage(what));
    };
    let mut name = OsString::from(name);
    name.push(".origin");
    Ok(cache.with_file_name(name))
}

/// Makes the scratch copy's directory, or takes over one that a demo made, and locks it.
fn claim_copy(dir: &Path) -> Result<File, Failure> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(dir).map_err(Failure::io("make", dir))?;
    let lock = File::open(dir).map_err(Failure::io("open", dir))?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Err(Failure::Usage(format!(
            "{} is in use by another netfs demo: wait for it, or use another --cache-dir",
            dir.display()
        )));
    }
    let marked = xattr::get(dir, MARK).map_err(Failure::io("read the attributes of", dir))?;
    if marked.is_none() {
        let mut inside = fs::read_dir(dir).map_err(Failure::io("read", dir))?;
        if inside.next().is_some() {
            return Err(Failure::Usage(format!(
                "{} exists and was not made by netfs demo, which would overwrite it: use another \
                 --cache-dir, or move it away",
                dir.display()
            )));
        }
        xattr::set(dir, MARK, b"1").map_err(Failure::io("mark", dir))?;
    }
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_lies_beside_the_cache() {
        assert_eq!(beside(Path::new("/a/c")).unwrap(), Path::new("/a/c.origin"));
        assert_eq!(beside(Path::new("c/")).unwrap(), Path::new("c.origin"));
        assert!(matches!(beside(Path::new("/")), Err(Failure::Usage(_))));
        assert!(matches!(beside(Path::new("..")), Err(Failure::Usage(_))));
    }

    #[test]
    fn a_directory_with_somebody_elses_files_is_not_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let theirs = dir.path().join("c.origin");
        fs::create_dir(&theirs).unwrap();
        fs::write(theirs.join("precious"), "x").unwrap();
        let refused = claim_copy(&theirs).unwrap_err();
        assert!(matches!(&refused, Failure::Usage(m) if m.contains("not made by")), "{refused}");
        assert!(theirs.join("precious").exists());

        fs::remove_file(theirs.join("precious")).unwrap();
        let ours = claim_copy(&theirs).unwrap();
        let twice = claim_copy(&theirs).unwrap_err();
        assert!(matches!(&twice, Failure::Usage(m) if m.contains("in use")), "{twice}");
        drop(ours);
        fs::write(theirs.join("copied"), "x").unwrap();
        claim_copy(&theirs).unwrap();
    }
}
