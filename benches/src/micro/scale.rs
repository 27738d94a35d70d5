//! Opening a cache directory with many objects: from nothing to the first byte of a disk hit.
//!
//! What the caches' filling left for the disk to do is over before the first round: else the rounds
//! fall into two heaps, according to what the disk happens to be writing.

use std::{
    cell::Cell,
    fs::File,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use netfs_memory::MemoryFs;

use super::{
    MicroError, Outcome, Settings, Unit, Work,
    bed::{Bed, PAGE, promise, scratch},
};
use crate::turns::in_turns;

/// Threads that fill the caches.
const FILLERS: usize = 4;
const MEMORY: u64 = 64 << 20;

/// Opening takes a few milliseconds, and some of that is threads to be started: many rounds.
const ROUNDS: usize = 31;

/// Cache directories with a different number of objects, all of one origin.
pub struct ManyObjects {
    origin: Arc<MemoryFs>,
    dir: tempfile::TempDir,
}

impl ManyObjects {
    /// An origin of `files` files of a page.
    ///
    /// # Errors
    /// No directory can be made in `dir`, or no such origin.
    pub fn new(dir: &Path, files: usize) -> Result<ManyObjects, MicroError> {
        let origin = MemoryFs::builder().promise(promise()).files("d", files, PAGE as u64).build();
        let origin = origin.map_err(MicroError::netfs("make an origin"))?;
        Ok(ManyObjects { origin, dir: scratch(dir)? })
    }

    /// A cache with the first `count` of the files, on disk.
    ///
    /// # Errors
    /// Less than that could be stored.
    pub fn cache(&self, name: &str, count: usize) -> Result<PathBuf, MicroError> {
        let cache = self.dir.path().join(name);
        fill(&self.origin, &cache, count)?;
        let disk = File::open(&cache).map_err(MicroError::io("open", &cache))?;
        rustix::fs::syncfs(disk).map_err(|e| MicroError::io("sync", &cache)(e.into()))?;
        Ok(cache)
    }

    /// The time from opening a cache to the first page of one of its files, and the bytes that came from
    /// disk.
    ///
    /// # Errors
    /// It could not be read, or was not what the origin has.
    pub fn open_and_hit(&self, cache: &Path, file: usize) -> Result<(Duration, u64), MicroError> {
        open_and_hit(&self.origin, cache, &format!("d/{file}"))
    }
}

pub(super) fn open_scale(settings: &Settings) -> Result<Outcome, MicroError> {
    let (many, few) = settings.or_quick((100_000, 1_000), (400, 40));
    // One origin for both, so that only the caches differ.
    let objects = ManyObjects::new(&settings.dir, many)?;
    let (large, small) = (objects.cache("large", many)?, objects.cache("small", few)?);
    let (moved, cached) = (Cell::new(0), Cell::new(0));
    let first_hit = |cache: &Path| {
        // Not the same object each time, and one that both caches have.
        let (time, hit) = objects.open_and_hit(cache, moved.get() / PAGE % few)?;
        moved.set(moved.get() + PAGE);
        cached.set(cached.get() + hit);
        Ok::<_, MicroError>(time.as_secs_f64())
    };
    let turns = in_turns(ROUNDS, || first_hit(&large), || first_hit(&small))?;
    let work = Work { moved: moved.get() as u64, cached: cached.get() };
    Outcome::of("open-scale", Unit::Seconds, turns, work)
}

fn open_and_hit(
    origin: &Arc<MemoryFs>,
    cache: &Path,
    path: &str,
) -> Result<(Duration, u64), MicroError> {
    let mut page = vec![0; PAGE];
    let start = Instant::now();
    let bed = Bed::new(origin, MEMORY, Some(cache))?;
    let file = bed.open(path)?;
    file.blocking().read_at(0, &mut page).map_err(MicroError::netfs("read"))?;
    let time = start.elapsed();
    origin.verify(path, 0, &page).map_err(|e| MicroError::WrongBytes(e.to_string()))?;
    let hit = bed.stats().disk_hit_bytes;
    drop(file);
    bed.end()?;
    Ok((time, hit))
}

/// Puts `count` files into a cache, one object each.
fn fill(origin: &Arc<MemoryFs>, cache: &Path, count: usize) -> Result<(), MicroError> {
    let bed = Bed::new(origin, MEMORY, Some(cache))?;
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut page = vec![0; PAGE];
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok(());
            }
            let file = bed.open(&format!("d/{number}"))?;
            file.blocking().read_at(0, &mut page).map_err(MicroError::netfs("read"))?;
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..FILLERS).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|w| {
            w.join().unwrap_or_else(|_| Err(MicroError::NotDone("a filler panicked".to_owned())))
        })
    })?;
    bed.drain();
    let stored = bed.stats().cache_write_bytes;
    bed.end()?;
    if (stored as f64) < 0.98 * (count * PAGE) as f64 {
        return Err(MicroError::NotDone(format!(
            "{stored} bytes stored of {count} files of a page"
        )));
    }
    Ok(())
}
