//! The disk cache under test: none, the in-memory backend with its fault switches, or a real directory.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use cachefiles::CacheDir;
use netfs::{
    fscache::{CacheBackend, CacheMiss, FaultPoint, MemCache, Refusal},
    remote::VolumeId,
};

use super::rng::Rng;

/// Which backend a run uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DiskKind {
    None,
    Memory,
    Directory,
}

pub(crate) enum Disk {
    None,
    Memory(Arc<MemCache>),
    Directory(Directory),
}

pub(crate) struct Directory {
    /// Keeps the directory until the run has ended.
    base: tempfile::TempDir,
    lives: u32,
    cache: Option<Arc<CacheDir>>,
}

impl Directory {
    fn path(&self, life: u32) -> PathBuf {
        self.base.path().join(format!("life-{life}"))
    }

    fn open(&mut self) {
        let opened = CacheDir::builder(self.path(self.lives)).io_threads(1).open();
        self.cache = Some(opened.expect("the cache directory opens"));
    }

    /// Gives the directory up; with `kill` goes on with a copy of what was on disk before, as after a
    /// power cut.
    fn end(&mut self, kill: bool) {
        let old = self.path(self.lives);
        if kill {
            self.lives += 1;
            // Files that vanish while it copies are no failure: a crash may come at any moment.
            let copy = Command::new("cp").arg("-a").arg(&old).arg(self.path(self.lives)).output();
            copy.expect("cp runs");
        }
        if let Some(cache) = self.cache.take() {
            pollster::block_on(cache.withdraw());
        }
        if kill {
            std::fs::remove_dir_all(&old).expect("the old life goes");
        }
    }
}

const POINTS: [FaultPoint; 7] = [
    FaultPoint::AcquireVolume,
    FaultPoint::Lookup,
    FaultPoint::Read,
    FaultPoint::Write,
    FaultPoint::CutOver,
    FaultPoint::SetIdentity,
    FaultPoint::Close,
];

const REFUSALS: [Refusal; 6] = [
    Refusal::IoError,
    Refusal::NoSpace,
    Refusal::Stale,
    Refusal::Busy,
    Refusal::Descriptors,
    Refusal::InUse,
];

const MISSES: [CacheMiss; 5] =
    [CacheMiss::Absent, CacheMiss::NotLoaded, CacheMiss::Corrupt, CacheMiss::Stale, CacheMiss::Io];

impl Disk {
    pub(crate) fn new(kind: DiskKind) -> Disk {
        match kind {
            DiskKind::None => Disk::None,
            DiskKind::Memory => Disk::Memory(MemCache::new()),
            DiskKind::Directory => {
                let base = tempfile::tempdir().expect("a temporary directory");
                let mut dir = Directory { base, lives: 0, cache: None };
                dir.open();
                Disk::Directory(dir)
            }
        }
    }

    pub(crate) fn backend(&self) -> Option<Arc<dyn CacheBackend>> {
        match self {
            Disk::None => None,
            Disk::Memory(cache) => Some(Arc::clone(cache) as _),
            Disk::Directory(dir) => dir.cache.clone().map(|c| c as _),
        }
    }

    /// What is left for the next process. A clean end has been told to the backend already.
    pub(crate) fn restart(&mut self, kill: bool) {
        match self {
            Disk::None => {}
            Disk::Memory(cache) => *cache = cache.restart(),
            Disk::Directory(dir) => {
                dir.end(kill);
                dir.open();
            }
        }
    }

    /// Throws one switch; says which. Whether calls may hang from now on is in [`hangs`](Disk::hangs).
    pub(crate) fn misbehave(&mut self, rng: &mut Rng) -> Option<String> {
        let Disk::Memory(cache) = self else { return None };
        let faults = cache.faults();
        let said = match rng.within(0..6) {
            0 => {
                let (point, refusal) = (rng.pick(&POINTS), rng.pick(&REFUSALS));
                faults.refuse(point, Some(refusal));
                format!("cache refuses {point:?} with {refusal:?}")
            }
            1 => {
                let point = rng.pick(&[FaultPoint::Lookup, FaultPoint::Read, FaultPoint::Write]);
                faults.hold(point);
                format!("cache hangs at {point:?}")
            }
            2 => {
                let miss = rng.pick(&MISSES);
                faults.fail_reads(Some(miss));
                format!("cache reads fail with {miss:?}")
            }
            3 => {
                faults.never_inline(true);
                "cache never reads inline".into()
            }
            4 => {
                faults.not_loaded(true);
                "cache maps are not loaded".into()
            }
            _ => {
                faults.sick(Some(Refusal::IoError));
                "cache is sick".into()
            }
        };
        Some(said)
    }

    /// Throws all switches back.
    pub(crate) fn behave(&mut self) {
        let Disk::Memory(cache) = self else { return };
        let faults = cache.faults();
        for point in POINTS {
            faults.refuse(point, None);
            faults.release(point);
        }
        faults.fail_reads(None);
        faults.never_inline(false);
        faults.not_loaded(false);
        faults.sick(None);
    }

    /// Damages a stored byte of one file or of any.
    pub(crate) fn corrupt(
        &mut self,
        rng: &mut Rng,
        volume: &VolumeId,
        key: &[u8],
        size: u64,
    ) -> bool {
        match self {
            Disk::None => false,
            Disk::Memory(cache) => cache.corrupt(volume, key, rng.within(0..size.max(1))),
            Disk::Directory(dir) => {
                let mut files = Vec::new();
                data_files(&dir.path(dir.lives), &mut files);
                !files.is_empty() && flip(&rng.pick(&files), rng)
            }
        }
    }
}

/// Regular files with at least a page in them: objects' data.
fn data_files(dir: &Path, out: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    let mut entries: Vec<_> = entries.flatten().map(|e| e.path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            data_files(&path, out);
        } else if path.metadata().is_ok_and(|m| m.len() >= 4096) {
            out.push(path);
        }
    }
}

fn flip(path: &Path, rng: &mut Rng) -> bool {
    use std::os::unix::fs::FileExt;
    let Ok(file) = std::fs::File::options().read(true).write(true).open(path) else { return false };
    let Ok(len) = file.metadata().map(|m| m.len()) else { return false };
    let at = rng.within(0..len.max(1));
    let mut byte = [0];
    if file.read_exact_at(&mut byte, at).is_err() {
        return false;
    }
    byte[0] ^= 1 << rng.within(0..8);
    file.write_all_at(&byte, at).is_ok()
}
