//! Short forms, and the three places where bytes may come back from.

use std::sync::Arc;

use cachefiles::CacheDir;
use netfs::{
    Error, File,
    fscache::{CacheBackend, MemCache},
    remote::{RemoteFile, Version},
};
use netfs_memory::MemoryFs;

use crate::common::{Bench, cx};

pub(crate) const K: usize = 1024;

pub(crate) fn open(bench: &Bench, path: &str) -> File {
    bench.mount.blocking().open_rw(path, &cx()).expect("open for writing")
}

pub(crate) fn write(file: &File, offset: usize, bytes: &[u8]) {
    assert_eq!(file.blocking().write_at(offset as u64, bytes).expect("write"), bytes.len());
}

pub(crate) fn read(file: &File, offset: usize, len: usize) -> Vec<u8> {
    let mut buf = vec![0xaa; len];
    let n = file.blocking().read_at(offset as u64, &mut buf).expect("read");
    buf.truncate(n);
    buf
}

/// What the server has.
pub(crate) fn server(fs: &MemoryFs, path: &str) -> Vec<u8> {
    let size = fs.size(path).expect("size");
    fs.expected(path, 0, size as usize).expect("content")
}

#[track_caller]
pub(crate) fn fails<T>(result: Result<T, Error>, errno: netfs::Errno) {
    assert_eq!(result.err().map(|e| e.errno()), Some(errno));
}

/// A cache that outlives its context.
pub(crate) enum Place {
    None,
    Memory(Arc<MemCache>),
    Disk(tempfile::TempDir),
}

impl Place {
    pub(crate) fn each() -> Vec<Place> {
        let dir = tempfile::tempdir().expect("a directory");
        vec![Place::None, Place::Memory(MemCache::new()), Place::Disk(dir)]
    }

    pub(crate) fn backend(&self) -> Option<Arc<dyn CacheBackend>> {
        match self {
            Place::None => None,
            Place::Memory(cache) => Some(cache.restart()),
            Place::Disk(dir) => {
                let cache = CacheDir::builder(dir.path().join("cache")).io_threads(1).open();
                Some(cache.expect("the cache directory opens"))
            }
        }
    }
}

/// The version that the server would state now.
pub(crate) fn version(fs: &MemoryFs, path: &str) -> Version {
    let file = fs.file(path).expect("a file");
    let facts = pollster::block_on(file.validate(cx())).expect("validate");
    facts.version.expect("a version")
}
