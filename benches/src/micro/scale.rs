//! Opening a cache directory with many objects: from nothing to the first byte of a disk hit.

use std::{
    cell::Cell,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use netfs_memory::MemoryFs;

use super::{
    MicroError, Outcome, ROUNDS, Settings, Unit, Work,
    bed::{Bed, PAGE, promise, scratch},
};
use crate::turns::in_turns;

/// Threads that fill the caches.
const FILLERS: usize = 4;
const MEMORY: u64 = 64 << 20;

pub(super) fn open_scale(settings: &Settings) -> Result<Outcome, MicroError> {
    let (many, few) = settings.or_quick((100_000, 1_000), (400, 40));
    // One origin for both, so that only the caches differ.
    let origin = MemoryFs::builder().promise(promise()).files("d", many, PAGE as u64).build();
    let origin = origin.map_err(MicroError::netfs("make an origin"))?;
    let dir = scratch(&settings.dir)?;
    let (large, small) = (dir.path().join("large"), dir.path().join("small"));
    fill(&origin, &large, many)?;
    fill(&origin, &small, few)?;
    let (moved, cached) = (Cell::new(0), Cell::new(0));
    let first_hit = |cache: &Path| {
        // Not the same object each time, and one that both caches have.
        let path = format!("d/{}", moved.get() / PAGE as u64 % few as u64);
        let (seconds, hit) = open_and_hit(&origin, cache, &path)?;
        moved.set(moved.get() + PAGE as u64);
        cached.set(cached.get() + hit);
        Ok::<_, MicroError>(seconds)
    };
    let turns = in_turns(ROUNDS, || first_hit(&large), || first_hit(&small))?;
    let work = Work { moved: moved.get(), cached: cached.get() };
    Outcome::of("open-scale", Unit::Seconds, turns, work)
}

/// Seconds from opening the cache directory to the first page, and the bytes that came from disk.
fn open_and_hit(
    origin: &Arc<MemoryFs>,
    cache: &Path,
    path: &str,
) -> Result<(f64, u64), MicroError> {
    let mut page = vec![0; PAGE];
    let start = Instant::now();
    let bed = Bed::new(origin, MEMORY, Some(cache))?;
    let file = bed.open(path)?;
    file.blocking().read_at(0, &mut page).map_err(MicroError::netfs("read"))?;
    let seconds = start.elapsed().as_secs_f64();
    origin.verify(path, 0, &page).map_err(|e| MicroError::WrongBytes(e.to_string()))?;
    let hit = bed.stats().disk_hit_bytes;
    drop(file);
    bed.end()?;
    Ok((seconds, hit))
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
