//! What the integration tests share.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use cachefiles::{Builder, CacheDir};
use netfs::{
    folio::{PAGE_SIZE, Slice},
    fscache::{
        CacheBackend, CacheMiss, CacheObject, CacheRead, CacheVolume, CacheWrite, Found, Identity,
        Opened, Refusal, Relinquish, TryRead,
    },
    remote::VolumeId,
};
use rustix::fs::{SeekFrom, seek};

/// An open cache with one volume.
pub(crate) struct Bed {
    pub(crate) cache: Arc<CacheDir>,
    pub(crate) volume: Arc<dyn CacheVolume>,
}

pub(crate) fn builder(path: &Path) -> Builder {
    CacheDir::builder(path).io_threads(2)
}

impl Bed {
    pub(crate) fn open(path: &Path) -> Bed {
        Bed::with(builder(path))
    }

    pub(crate) fn with(builder: Builder) -> Bed {
        let cache = builder.open().expect("cache opens");
        let volume = volume(&cache, "vol", b"").expect("volume opens");
        Bed { cache, volume }
    }

    pub(crate) fn lookup(&self, key: &[u8], id: &Identity) -> Result<Opened, Refusal> {
        lookup(&self.volume, key, id)
    }

    pub(crate) fn object(&self, key: &[u8], id: &Identity) -> (Arc<dyn CacheObject>, Found) {
        let opened = self.lookup(key, id).expect("lookup");
        (opened.object, opened.found)
    }

    /// Commits everything and gives the directory up.
    pub(crate) fn end(self) {
        pollster::block_on(self.cache.withdraw());
    }
}

pub(crate) fn volume(
    cache: &Arc<CacheDir>,
    id: &str,
    coherency: &'static [u8],
) -> Result<Arc<dyn CacheVolume>, Refusal> {
    let id = VolumeId::new(id).expect("valid id");
    pollster::block_on(Arc::clone(cache).acquire_volume(id, Bytes::from_static(coherency)))
}

pub(crate) fn lookup(
    volume: &Arc<dyn CacheVolume>,
    key: &[u8],
    id: &Identity,
) -> Result<Opened, Refusal> {
    pollster::block_on(Arc::clone(volume).lookup(Bytes::copy_from_slice(key), id.clone()))
}

pub(crate) fn identity(aux: &[u8], size: u64) -> Identity {
    Identity { aux: Bytes::copy_from_slice(aux), size }
}

/// Byte `offset` of version `seed` of a file.
pub(crate) fn byte_at(seed: u64, offset: u64) -> u8 {
    let x = (offset / 8 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ (seed + 1).rotate_left(32));
    (x >> (8 * (offset % 8))).to_le_bytes()[3]
}

/// Bytes of a file as they are stored: the last page is padded with zeros.
pub(crate) fn content(seed: u64, offset: u64, len: usize, size: u64) -> Vec<u8> {
    (offset..offset + len as u64).map(|o| if o < size { byte_at(seed, o) } else { 0 }).collect()
}

pub(crate) fn write(
    object: &Arc<dyn CacheObject>,
    offset: u64,
    bytes: &[u8],
) -> Result<(), Refusal> {
    write_as(object, object.generation(), offset, bytes)
}

pub(crate) fn write_as(
    object: &Arc<dyn CacheObject>,
    generation: u64,
    offset: u64,
    bytes: &[u8],
) -> Result<(), Refusal> {
    let (tx, rx) = std::sync::mpsc::channel();
    // Two slices where there is more than a page, so that vectored writes are tried too.
    let cut = if bytes.len() > PAGE_SIZE { PAGE_SIZE } else { bytes.len() };
    let slices = [&bytes[..cut], &bytes[cut..]];
    let data = slices.iter().filter(|b| !b.is_empty()).map(|b| Slice::from_bytes(b)).collect();
    let sub = CacheWrite::new(offset, data, generation, move |r| {
        let _ = tx.send(r);
    });
    Arc::clone(object).write(sub);
    rx.recv().expect("every sub ends")
}

/// Fills whole pages of version `seed`.
pub(crate) fn fill(object: &Arc<dyn CacheObject>, seed: u64, offset: u64, len: usize) {
    let bytes = content(seed, offset, len, object.identity().size);
    write(object, offset, &bytes).expect("write");
}

/// A queued read.
pub(crate) fn read(
    object: &Arc<dyn CacheObject>,
    offset: u64,
    len: usize,
) -> Result<Vec<u8>, CacheMiss> {
    let (tx, rx) = std::sync::mpsc::channel();
    Arc::clone(object).read(CacheRead::detached(offset, len, move |r| {
        let _ = tx.send(r);
    }));
    rx.recv().expect("every sub ends")
}

/// As the core reads: inline, and queued if that would block or the map is not loaded yet.
pub(crate) fn read_any(
    object: &Arc<dyn CacheObject>,
    offset: u64,
    len: usize,
) -> Result<Vec<u8>, CacheMiss> {
    let mut into = vec![0xee; len];
    match object.try_read(offset, &mut into) {
        TryRead::Done => Ok(into),
        TryRead::Miss(CacheMiss::NotLoaded) | TryRead::WouldBlock => read(object, offset, len),
        TryRead::Miss(miss) => Err(miss),
    }
}

pub(crate) fn close(object: Arc<dyn CacheObject>) {
    pollster::block_on(object.close(Relinquish::Keep));
}

pub(crate) fn retire(object: Arc<dyn CacheObject>) {
    pollster::block_on(object.close(Relinquish::Retire));
}

/// The file of this name somewhere below `root`.
pub(crate) fn find(root: &Path, name: &str) -> Option<std::path::PathBuf> {
    std::fs::read_dir(root).ok()?.flatten().find_map(|entry| {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            return find(&entry.path(), name);
        }
        (entry.file_name() == name).then(|| entry.path())
    })
}

/// A file as it was: only what is not zero, and its attributes.
pub(crate) struct Saved {
    pub(crate) path: PathBuf,
    pub(crate) len: u64,
    pub(crate) pages: Vec<(u64, Vec<u8>)>,
    pub(crate) xattrs: Vec<(&'static str, Vec<u8>)>,
}

impl Saved {
    pub(crate) fn new(path: PathBuf) -> Saved {
        let file = File::open(&path).expect("open");
        let len = file.metadata().expect("stat").len();
        let mut pages = Vec::new();
        let mut at = 0;
        // Holes are skipped: files are large and sparse.
        while let Ok(start) = seek(&file, SeekFrom::Data(at)) {
            let end = seek(&file, SeekFrom::Hole(start)).expect("the end is one");
            for page in (start / 4096 * 4096..end).step_by(4096) {
                let mut bytes = vec![0; (len - page).min(4096) as usize];
                file.read_exact_at(&mut bytes, page).expect("read");
                if bytes.iter().any(|b| *b != 0) {
                    pages.push((page, bytes));
                }
            }
            at = end;
        }
        let xattrs = ["user.netfs.hdr", "user.netfs.map"]
            .into_iter()
            .filter_map(|n| Some((n, xattr::get(&path, n).expect("xattr")?)))
            .collect();
        Saved { len, pages, xattrs, path }
    }

    pub(crate) fn restore(&self) {
        // A fresh inode: what a test put there may not be a file at all.
        if fs::remove_file(&self.path).is_err() {
            let _ = fs::remove_dir_all(&self.path);
        }
        let file = File::create(&self.path).expect("create");
        file.set_len(self.len).expect("length");
        for (at, bytes) in &self.pages {
            file.write_all_at(bytes, *at).expect("write");
        }
        for (name, value) in &self.xattrs {
            xattr::set(&self.path, name, value).expect("xattr");
        }
    }
}
