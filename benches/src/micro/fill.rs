//! Cold misses with a cache to fill: what filling costs the reader.
//!
//! Each round reads a file once, in order, 1 MiB at a time, with a fresh context and an empty cache;
//! the limit is the same without a cache. The time is the reader's: until its last byte, while the queue
//! of fills (64 MiB of the file's 256 MiB) may still be draining. Then the queue is drained, and all that
//! was read must have been stored.

use std::{
    cell::Cell,
    hint::black_box,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use netfs_memory::{Link, MemoryFs};

use super::{
    MicroError, Outcome, ROUNDS, Settings, Unit, Work,
    bed::{Bed, MIB, promise, scratch},
};
use crate::turns::in_turns;

const SIZE: u64 = 256 << 20;
/// What the origin sends: 1 GB/s.
const RATE: u64 = 1_000_000_000;

/// A file that is read cold, with a cache to fill and without.
pub struct ColdFile {
    origin: Arc<MemoryFs>,
    size: u64,
    dir: tempfile::TempDir,
    round: Cell<u64>,
}

impl ColdFile {
    /// A file of `size` bytes, a multiple of 1 MiB, behind a link of 1 GB/s. What a fill of it stores
    /// has been compared with the origin.
    ///
    /// # Errors
    /// What kept it from being filled and read back, or a wrong byte.
    pub fn new(dir: &Path, size: u64) -> Result<ColdFile, MicroError> {
        let link = Link::default().with_bytes_per_second(RATE);
        let origin = MemoryFs::builder().promise(promise()).link(link).file("a", size).build();
        let origin = origin.map_err(MicroError::netfs("make an origin"))?;
        let file = ColdFile { origin, size, dir: scratch(dir)?, round: Cell::new(0) };
        check(&file.origin, size, &file.dir.path().join("check"))?;
        Ok(file)
    }

    /// Reads all of it once through a fresh context, filling an empty cache: the reader's time, and the
    /// bytes the cache had stored in the end.
    ///
    /// # Errors
    /// It could not be read to the end from the origin.
    pub fn fill(&self) -> Result<(Duration, u64), MicroError> {
        let cache = self.dir.path().join(self.round.replace(self.round.get() + 1).to_string());
        let done = one_pass(&self.origin, self.size, Some(&cache))?;
        std::fs::remove_dir_all(&cache).map_err(MicroError::io("remove", &cache))?;
        Ok(done)
    }

    /// The same without a cache.
    ///
    /// # Errors
    /// As [`fill`](ColdFile::fill).
    pub fn read(&self) -> Result<Duration, MicroError> {
        one_pass(&self.origin, self.size, None).map(|(time, _)| time)
    }
}

pub(super) fn miss_fill(settings: &Settings) -> Result<Outcome, MicroError> {
    let size = settings.or_quick(SIZE, 4 << 20);
    let file = ColdFile::new(&settings.dir, size)?;
    let (moved, cached) = (Cell::new(0), Cell::new(0));
    let speed = |time: Duration| size as f64 / 1e9 / time.as_secs_f64().max(1e-9);
    let turns = in_turns(
        ROUNDS,
        || {
            let (time, stored) = file.fill()?;
            moved.set(moved.get() + size);
            cached.set(cached.get() + stored);
            Ok(speed(time))
        },
        || file.read().map(speed),
    )?;
    let work = Work { moved: moved.get(), cached: cached.get() };
    Outcome::of("miss-fill", Unit::GigabytesPerSecond, turns, work)
}

/// Reads all of a cold file; says how long that took, and how much of it the cache has stored in the end.
fn one_pass(
    origin: &Arc<MemoryFs>,
    size: u64,
    cache: Option<&Path>,
) -> Result<(Duration, u64), MicroError> {
    let bed = Bed::new(origin, 2 * size + (256 << 20), cache)?;
    let file = bed.open("a")?;
    let mut into = vec![0; MIB];
    let start = Instant::now();
    for offset in (0..size).step_by(MIB) {
        let read = file.blocking().read_at(offset, &mut into);
        read.map_err(MicroError::netfs("read from the origin"))?;
        black_box(&into);
    }
    let time = start.elapsed();
    drop(file);
    bed.drain();
    let stats = bed.stats();
    bed.end()?;
    if stats.origin_bytes < size {
        return Err(MicroError::NotDone(format!(
            "{} of {size} bytes came from the origin",
            stats.origin_bytes
        )));
    }
    Ok((time, stats.cache_write_bytes))
}

/// What such a fill stores is what the origin has: read by another context, from disk alone.
fn check(origin: &Arc<MemoryFs>, size: u64, cache: &Path) -> Result<(), MicroError> {
    one_pass(origin, size, Some(cache))?;
    let bed = Bed::new(origin, 2 * size + (256 << 20), Some(cache))?;
    let file = bed.open("a")?;
    bed.scan("a", size, |offset, piece| {
        file.blocking().read_at(offset, piece).map_err(MicroError::netfs("read"))
    })?;
    let stats = bed.stats();
    drop(file);
    bed.end()?;
    if stats.origin_bytes > 0 || stats.disk_hit_bytes < size {
        return Err(MicroError::NotDone(format!(
            "of {size} bytes filled {} came back from disk, {} from the origin",
            stats.disk_hit_bytes, stats.origin_bytes
        )));
    }
    Ok(())
}
