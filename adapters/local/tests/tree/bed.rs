//! A temporary directory served by the adapter, and calls without ceremony.

use std::{
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use netfs::{
    Errno, Result,
    remote::{
        AccessMask, Cred, Cx, DirEntry, Facts, Finished, OpenIntent, OpenToken, Outcome, ReadSub,
        RemoteFile, RemoteFs, Version,
    },
};
use netfs_local::{Builder, LocalFile, LocalFs};
use pollster::block_on;

pub(crate) struct Bed {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) fs: Arc<LocalFs>,
}

pub(crate) fn me() -> Cx {
    Cx::new(Cred::current())
}

impl Bed {
    pub(crate) fn new() -> Bed {
        Bed::with(|b| b)
    }

    pub(crate) fn with(build: impl FnOnce(Builder) -> Builder) -> Bed {
        Bed::in_dir(tempfile::tempdir().unwrap(), build)
    }

    pub(crate) fn in_dir(dir: tempfile::TempDir, build: impl FnOnce(Builder) -> Builder) -> Bed {
        let fs = build(LocalFs::builder(dir.path())).open().unwrap();
        Bed { dir, fs }
    }

    /// One bed on the disk and, where there is one, one on a tmpfs.
    pub(crate) fn each_filesystem() -> Vec<Bed> {
        let shm = tempfile::tempdir_in("/dev/shm").ok().map(|d| Bed::in_dir(d, |b| b));
        std::iter::once(Bed::new()).chain(shm).collect()
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: &[u8]) {
        std::fs::write(self.path(name), content).unwrap();
    }

    pub(crate) fn root(&self) -> Arc<LocalFile> {
        block_on(Arc::clone(&self.fs).root(me())).unwrap().file
    }

    /// Walks a relative path, name by name.
    pub(crate) fn walk(&self, path: impl AsRef<Path>) -> Result<Arc<LocalFile>> {
        self.walk_as(path, &me())
    }

    pub(crate) fn walk_as(&self, path: impl AsRef<Path>, cx: &Cx) -> Result<Arc<LocalFile>> {
        let mut file = self.root();
        for name in path.as_ref() {
            file = self.find(&file, name.as_bytes(), cx)?.ok_or(Errno::ENOENT)?.0;
        }
        Ok(file)
    }

    pub(crate) fn find(
        &self,
        dir: &Arc<LocalFile>,
        name: &[u8],
        cx: &Cx,
    ) -> Result<Option<(Arc<LocalFile>, Facts)>> {
        let name = Bytes::copy_from_slice(name);
        let reply = Arc::clone(&self.fs).lookup(Arc::clone(dir), name, cx.clone());
        Ok(block_on(reply)?.found.map(|f| (f.file, f.facts)))
    }

    pub(crate) fn access(&self, file: &Arc<LocalFile>, mask: AccessMask, cx: &Cx) -> Result<bool> {
        block_on(Arc::clone(&self.fs).access(Arc::clone(file), mask, cx.clone()))
    }

    pub(crate) fn open(&self, file: &Arc<LocalFile>, cx: &Cx) -> Result<OpenToken> {
        let open = Arc::clone(&self.fs).open(Arc::clone(file), OpenIntent::Read, cx.clone());
        Ok(block_on(open)?.0)
    }

    /// The whole listing in pages, each asked for from where the one before ended.
    pub(crate) fn list(&self, dir: &Arc<LocalFile>, plus: bool) -> Vec<DirEntry<LocalFile>> {
        let mut all = Vec::new();
        let mut cookie = 0;
        loop {
            let page = self.page(dir, cookie, plus);
            let eof = page.1;
            assert!(eof || !page.0.is_empty(), "an empty page is the end");
            cookie = page.0.last().map_or(cookie, |e| e.cookie);
            all.extend(page.0);
            if eof {
                return all;
            }
        }
    }

    pub(crate) fn page(
        &self,
        dir: &Arc<LocalFile>,
        cookie: u64,
        plus: bool,
    ) -> (Vec<DirEntry<LocalFile>>, bool) {
        let page = Arc::clone(&self.fs).readdir(Arc::clone(dir), cookie, plus, me());
        let page = block_on(page).unwrap();
        (page.entries, page.eof)
    }
}

pub(crate) fn check(file: &Arc<LocalFile>) -> Result<Facts> {
    block_on(Arc::clone(file).validate(me()))
}

pub(crate) fn read_as(
    file: &Arc<LocalFile>,
    offset: u64,
    len: usize,
    cx: Cx,
) -> (Finished, Vec<u8>) {
    let (sub, done) = ReadSub::detached(offset, len, cx);
    block_on(Arc::clone(file).read(sub));
    done.wait()
}

pub(crate) fn read(file: &Arc<LocalFile>, offset: u64, len: usize) -> (Finished, Vec<u8>) {
    read_as(file, offset, len, me())
}

/// The errno a sub failed with.
pub(crate) fn failure(finished: &Finished) -> Option<Errno> {
    match &finished.outcome {
        Outcome::Failed(e) => Some(e.errno()),
        _ => None,
    }
}

/// Asks until the file's tuple counts as a version.
pub(crate) fn version(file: &Arc<LocalFile>) -> Version {
    for _ in 0..10_000_000 {
        if let Some(version) = check(file).unwrap().version {
            return version;
        }
        std::thread::yield_now();
    }
    panic!("the file never gets a version");
}

/// Whether this process may act for others.
pub(crate) fn is_root() -> bool {
    Cred::current().is_root()
}
