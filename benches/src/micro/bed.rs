//! What the cases share: an origin, a context with or without a disk cache, and the ways to read.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use cachefiles::CacheDir;
use memmap2::{Advice, MmapMut};
use netfs::{
    Builder, File, FillWhenFull, MemoryUse, Mount, Netfs, ReadOptions, Stats,
    remote::{Cred, Cx, Promise},
};
use netfs_memory::MemoryFs;

use super::MicroError;

/// 1 MiB: the large read of the table.
pub(super) const MIB: usize = 1 << 20;
/// The small one.
pub(super) const PAGE: usize = 4096;
/// How long a fill may wait, and a shutdown take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Reads that leave no copy in memory.
pub(super) const BYPASS: ReadOptions = ReadOptions { memory: MemoryUse::Bypass, unbuffered: false };

/// A promise with a deadline, so that every hit has to look at the time: ten hours.
pub(super) fn promise() -> Promise {
    Promise::Until { lifetime: Duration::from_secs(36_000), margin: Duration::from_secs(10) }
}

/// An origin that gives such promises, with one file `a`.
pub(super) fn origin_of_one(size: u64) -> Result<Arc<MemoryFs>, MicroError> {
    let origin = MemoryFs::builder().promise(promise()).file("a", size).build();
    origin.map_err(MicroError::netfs("make an origin"))
}

/// A context with one mount.
pub(super) struct Bed {
    origin: Arc<MemoryFs>,
    // Before the context: its inodes go first.
    mount: Mount,
    netfs: Netfs,
    cx: Cx,
}

impl Bed {
    /// `memory` bytes for pages, and a disk cache if a directory is given.
    pub(super) fn new(
        origin: &Arc<MemoryFs>,
        memory: u64,
        cache: Option<&Path>,
    ) -> Result<Bed, MicroError> {
        Bed::with(origin, memory, cache, |builder| builder)
    }

    /// The same, configured further.
    pub(super) fn with(
        origin: &Arc<MemoryFs>,
        memory: u64,
        cache: Option<&Path>,
        configure: impl FnOnce(Builder) -> Builder,
    ) -> Result<Bed, MicroError> {
        let mut builder = Netfs::builder()
            .memory_bytes(memory)
            // On a busy machine a disk is slow, and not to be given up for that.
            .cache_wait(PATIENCE)
            .cache_read_timeout(PATIENCE)
            .fill_queue(64 << 20, FillWhenFull::Wait { max: PATIENCE });
        if let Some(dir) = cache {
            builder = builder.cache(CacheDir::builder(dir).open()?);
        }
        let netfs = configure(builder).build().map_err(MicroError::netfs("start a context"))?;
        let cx = Cx::new(Cred::new(0, 0));
        let mount = netfs
            .blocking_mount(Arc::clone(origin), &cx)
            .map_err(MicroError::netfs("mount the origin"))?;
        Ok(Bed { origin: Arc::clone(origin), mount, netfs, cx })
    }

    /// Opens a file.
    pub(super) fn open(&self, path: &str) -> Result<File, MicroError> {
        self.mount.blocking().open(path, &self.cx).map_err(MicroError::netfs("open a file"))
    }

    /// Opens a file for writing.
    pub(super) fn open_rw(&self, path: &str) -> Result<File, MicroError> {
        let opened = self.mount.blocking().open_rw(path, &self.cx);
        opened.map_err(MicroError::netfs("open a file for writing"))
    }

    /// Bytes written and not uploaded.
    pub(super) fn dirty(&self) -> u64 {
        self.netfs.memory().dirty
    }

    /// Counters.
    pub(super) fn stats(&self) -> Stats {
        self.netfs.stats()
    }

    /// All counters that are not zero, for the account of what went wrong.
    pub(super) fn account(&self) -> String {
        let stats = self.stats().fields().into_iter().filter(|(_, n)| *n > 0);
        let stats: Vec<_> = stats.map(|(name, n)| format!("{name} {n}")).collect();
        format!("{}; {:?}", stats.join(", "), self.netfs.cache_stats())
    }

    /// Waits until everything downloaded is in the disk cache.
    pub(super) fn drain(&self) {
        pollster::block_on(self.netfs.drain_fills());
    }

    /// Drops all pages.
    pub(super) fn drop_memory(&self) {
        self.netfs.drop_memory();
    }

    /// Commits the disk cache and gives its directory up.
    pub(super) fn end(self) -> Result<(), MicroError> {
        // Its files have been dropped by now; the mount goes last.
        let Bed { mount: _mount, netfs, .. } = self;
        match netfs.blocking_shutdown(PATIENCE) {
            left if left.is_nothing() => Ok(()),
            left => Err(MicroError::NotDone(format!("shutdown: {left}"))),
        }
    }

    /// Reads a whole file once in steps of 1 MiB; each piece goes to `check`.
    pub(super) fn scan(
        &self,
        path: &str,
        size: u64,
        mut read: impl FnMut(u64, &mut [u8]) -> Result<usize, MicroError>,
    ) -> Result<(), MicroError> {
        let mut piece = vec![0; MIB];
        for offset in (0..size).step_by(MIB) {
            let want = (size - offset).min(MIB as u64) as usize;
            let got = read(offset, &mut piece[..want])?;
            if got != want {
                return Err(MicroError::NotDone(format!("{got} of {want} bytes at {offset}")));
            }
            self.origin
                .verify(path, offset, &piece[..want])
                .map_err(|e| MicroError::WrongBytes(e.to_string()))?;
        }
        Ok(())
    }
}

/// Touched anonymous memory on a page border, in huge pages like the library's own.
pub(super) fn buffer(len: usize) -> Result<MmapMut, MicroError> {
    let get = || {
        let mut memory = MmapMut::map_anon(len.max(PAGE))?;
        // Refused where there are none: then the library has none either.
        let _ = memory.advise(Advice::HugePage);
        memory.chunks_mut(PAGE).for_each(|page| page.fill(0x5a));
        Ok(memory)
    };
    get().map_err(MicroError::io("allocate", "memory"))
}

/// A directory for caches that is gone afterwards.
pub(super) fn scratch(dir: &Path) -> Result<tempfile::TempDir, MicroError> {
    tempfile::Builder::new()
        .prefix("netfs-bench-")
        .tempdir_in(dir)
        .map_err(MicroError::io("make a directory in", dir))
}

/// The backing file of the cache's only object of `size` bytes.
pub(super) fn backing_file(dir: &Path, size: u64) -> Result<PathBuf, MicroError> {
    let found = find_file(dir, size).map_err(MicroError::io("search", dir))?;
    found.ok_or_else(|| MicroError::NotDone(format!("no backing file of {size} bytes")))
}

fn find_file(dir: &Path, size: u64) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        if meta.is_dir() {
            if let Some(found) = find_file(&entry.path(), size)? {
                return Ok(Some(found));
            }
        } else if meta.len() == size {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

/// 10^9 bytes a second.
pub(super) fn gb_per_s(bytes: u64, since: Instant) -> f64 {
    bytes as f64 / 1e9 / since.elapsed().as_secs_f64().max(1e-9)
}

/// Numbers without a pattern (splitmix64), the same in each run.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n.max(1)
    }

    /// All pieces of `len` bytes of `size` bytes in random order, handed out `step` at a time.
    pub(super) fn windows(&mut self, size: u64, len: usize, step: usize) -> Windows {
        let mut offsets: Vec<u64> = (0..size).step_by(len).collect();
        for i in (1..offsets.len()).rev() {
            offsets.swap(i, self.below(i as u64 + 1) as usize);
        }
        Windows::new(offsets, step)
    }

    /// `count` offsets of pieces of `len` bytes, aligned to their length, in `size` bytes.
    pub(super) fn offsets(&mut self, count: usize, size: u64, len: usize) -> Vec<u64> {
        (0..count).map(|_| self.below(size / len as u64) * len as u64).collect()
    }
}

/// Offsets to read at, a few a round, over and over.
pub(super) struct Windows {
    offsets: Vec<u64>,
    step: usize,
    at: usize,
}

impl Windows {
    pub(super) fn new(offsets: Vec<u64>, step: usize) -> Windows {
        let step = step.clamp(1, offsets.len().max(1));
        Windows { offsets, step, at: 0 }
    }

    /// The same, half a turn ahead: for the other side of a comparison over the same bytes, which must not
    /// find in the processor's cache what the first side has just brought there.
    pub(super) fn half_a_turn_ahead(mut self) -> Windows {
        self.at = self.offsets.len() / 2 / self.step * self.step;
        self
    }

    /// The next round's.
    pub(super) fn next(&mut self) -> &[u64] {
        if self.at + self.step > self.offsets.len() {
            self.at = 0;
        }
        self.at += self.step;
        &self.offsets[self.at - self.step..self.at]
    }
}
