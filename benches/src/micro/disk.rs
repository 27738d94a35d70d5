//! Disk hits, memory bypassed: the verified bytes go from the cache's file into the caller's buffer.
//!
//! The limit reads the very same file (a backing file has the offsets of the file it caches) through a
//! descriptor of its own, so both find the same pages in the kernel, or both find none. Both read into
//! the same buffer on a page border, as that of a virtual machine or a FUSE daemon is: the kernel's copy
//! takes twice as long to an address a few bytes off, which would hide half of what we add.

use std::{
    cell::RefCell, fs::File as StdFile, hint::black_box, os::unix::fs::FileExt, path::Path,
    time::Instant,
};

use netfs::File;
use rustix::fs::Advice;

use super::{
    MicroError, Outcome, ROUNDS, SHORT_ROUNDS, Settings, Unit, Work,
    bed::{
        BYPASS, Bed, MIB, PAGE, Random, Windows, backing_file, buffer, gb_per_s, origin_of_one,
        scratch,
    },
};
use crate::turns::{Turns, in_turns, nanos_each};

const SET: u64 = 256 << 20;
const QUICK_SET: u64 = 4 << 20;

/// One way to read at an offset.
type Read<'a> = &'a dyn Fn(u64, &mut [u8]) -> Result<(), MicroError>;

/// A file that is wholly in the disk cache and not in memory, and the file the cache keeps it in.
pub struct StoredFile {
    // In this order: file, context, directory.
    file: File,
    bed: Bed,
    plain: StdFile,
    size: u64,
    _dir: tempfile::TempDir,
}

impl StoredFile {
    /// A file of `size` bytes, a multiple of 1 MiB, in a cache below `dir`.
    ///
    /// # Errors
    /// What kept it from being stored and read back, or a wrong byte.
    pub fn new(dir: &Path, size: u64) -> Result<StoredFile, MicroError> {
        let dir = scratch(dir)?;
        let cache = dir.path().join("cache");
        let origin = origin_of_one(size)?;
        let bed = Bed::new(&origin, 2 * size, Some(&cache))?;
        let file = bed.open("a")?;
        bed.scan("a", size, |offset, piece| {
            file.blocking().read_at(offset, piece).map_err(MicroError::netfs("read"))
        })?;
        bed.drain();
        bed.drop_memory();
        let path = backing_file(&cache, size)?;
        let plain = StdFile::open(&path).map_err(MicroError::io("open", &path))?;
        // On disk, so that the kernel can drop it; and so that no writeback runs beside the measurement.
        plain.sync_all().map_err(MicroError::io("sync", &path))?;
        let stored = StoredFile { file, bed, plain, size, _dir: dir };
        let before = stored.bed.stats();
        // Also brings every page into the kernel.
        stored.bed.scan("a", size, |offset, piece| stored.read(offset, piece))?;
        let hits = stored.bed.stats().since(&before).disk_hit_bytes;
        // On a disk that is too slow for its writers a fill may have been refused; what was missing has
        // been stored by this pass.
        stored.bed.drain();
        if (hits as f64) < 0.98 * size as f64 {
            return Err(MicroError::NotDone(format!(
                "{hits} of {size} bytes came from disk: {}",
                stored.bed.account()
            )));
        }
        Ok(stored)
    }

    /// A disk hit into the caller's buffer; says how many bytes.
    ///
    /// # Errors
    /// What the library says.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<usize, MicroError> {
        let done = self.file.blocking().read_at_with(offset, into, BYPASS);
        done.map_err(MicroError::netfs("read from the cache"))
    }

    fn pread(&self, offset: u64, into: &mut [u8]) -> Result<(), MicroError> {
        let done = self.plain.read_exact_at(into, offset);
        done.map_err(MicroError::io("read", Path::new("the backing file")))
    }

    /// Both sides read the file in order, 1 MiB at a time, `step` of them a round; `before_each` round is
    /// not timed.
    fn sequentially(
        &self,
        rounds: usize,
        step: usize,
        before_each: impl Fn() -> Result<(), MicroError>,
    ) -> Result<Turns, MicroError> {
        let into = RefCell::new(buffer(MIB)?);
        let windows = || Windows::new((0..self.size).step_by(MIB).collect(), step);
        let pass = |offsets: &[u64], read: Read<'_>| {
            before_each()?;
            let (mut into, start) = (into.borrow_mut(), Instant::now());
            for offset in offsets {
                read(*offset, &mut into)?;
                black_box(&into);
            }
            Ok(gb_per_s(offsets.len() as u64 * MIB as u64, start))
        };
        let (mut ours, mut limit) = (windows(), windows().half_a_turn_ahead());
        in_turns(
            rounds,
            || pass(ours.next(), &|offset, into| self.read(offset, into).map(drop)),
            || pass(limit.next(), &|offset, into| self.pread(offset, into)),
        )
    }

    /// Has the kernel drop its pages of the file.
    ///
    /// # Errors
    /// It refused.
    pub fn drop_kernel_pages(&self) -> Result<(), MicroError> {
        rustix::fs::fadvise(&self.plain, 0, None, Advice::DontNeed)
            .map_err(|e| MicroError::io("drop the pages of", "the backing file")(e.into()))
    }

    fn work(&self, before: &netfs::Stats) -> Result<Work, MicroError> {
        let stats = self.bed.stats().since(before);
        if stats.origin_bytes > 0 {
            return Err(MicroError::NotDone(format!(
                "{} bytes came from the origin instead of disk",
                stats.origin_bytes
            )));
        }
        Ok(Work { moved: stats.read_bytes, cached: stats.disk_hit_bytes })
    }
}

fn stored(settings: &Settings) -> Result<StoredFile, MicroError> {
    StoredFile::new(&settings.dir, settings.or_quick(SET, QUICK_SET))
}

pub(super) fn sequential(settings: &Settings) -> Result<Outcome, MicroError> {
    let stored = stored(settings)?;
    let before = stored.bed.stats();
    let turns = stored.sequentially(SHORT_ROUNDS, 32, || Ok(()))?;
    Outcome::of("disk-1m", Unit::GigabytesPerSecond, turns, stored.work(&before)?)
}

pub(super) fn cold(settings: &Settings) -> Result<Outcome, MicroError> {
    let stored = stored(settings)?;
    let before = stored.bed.stats();
    let turns = stored.sequentially(ROUNDS, usize::MAX, || stored.drop_kernel_pages())?;
    Outcome::of("disk-cold-1m", Unit::GigabytesPerSecond, turns, stored.work(&before)?)
}

pub(super) fn random(settings: &Settings) -> Result<Outcome, MicroError> {
    let stored = stored(settings)?;
    let windows = || Random::new(1).windows(stored.size, PAGE, settings.or_quick(2048, 128));
    let into = RefCell::new(buffer(PAGE)?);
    let before = stored.bed.stats();
    let pass = |offsets: &[u64], read: Read<'_>| {
        let (mut into, mut failed) = (into.borrow_mut(), None);
        let nanos = nanos_each(offsets.len(), |i| {
            if let Err(e) = read(offsets[i], &mut into) {
                failed = Some(e);
            }
        });
        failed.map_or(Ok(nanos), Err)
    };
    let (mut ours, mut limit) = (windows(), windows().half_a_turn_ahead());
    let turns = in_turns(
        SHORT_ROUNDS,
        || pass(ours.next(), &|offset, into| stored.read(offset, into).map(drop)),
        || pass(limit.next(), &|offset, into| stored.pread(offset, into)),
    )?;
    Outcome::of("disk-4k", Unit::Nanos, turns, stored.work(&before)?)
}
