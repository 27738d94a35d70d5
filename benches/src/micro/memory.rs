//! Memory hits.
//!
//! The limit is what any correct in-memory cache has to do: look a page up in a table that others may
//! change, under a reader-writer lock, and keep it alive while it is used. For the copies there is the
//! copy on top, from memory of the same kind (huge pages), into the same buffer.

use std::{
    cell::RefCell,
    hint::black_box,
    sync::{Arc, Barrier},
    time::{Duration, Instant},
};

use memmap2::MmapMut;
use netfs::{Builder, File, FillPolicy, Slices, TryReadAt};
use parking_lot::RwLock;

use super::{
    MicroError, Outcome, SHORT_ROUNDS, Settings, Unit, Work,
    bed::{Bed, MIB, PAGE, Random, buffer, gb_per_s, origin_of_one},
};
use crate::turns::{in_turns, nanos_each};

/// Pages are looked up at random in this many bytes.
const REF_SET: u64 = 64 << 20;
const COPY_SET: u64 = 16 << 20;
const LARGE_SET: u64 = 1 << 30;
/// What a granule is.
const GRANULE: u64 = 256 << 10;
/// Lookups between two looks at the time.
const OFFSETS_2T: usize = 10_000;

/// A file whose every byte is in memory and has been read before: what is measured are hits.
pub struct HotFile {
    // Before the bed: a file is closed before its context ends.
    file: File,
    bed: Bed,
    size: u64,
}

impl HotFile {
    /// A file of `size` bytes, a multiple of 1 MiB.
    ///
    /// # Errors
    /// What kept it from being read, or a wrong byte.
    pub fn new(size: u64) -> Result<HotFile, MicroError> {
        HotFile::with_more(size, 0)
    }

    /// The same, and behind those bytes some that are in memory and nobody has read: hits then have to
    /// find out whether they are the first to read theirs.
    ///
    /// # Errors
    /// As [`new`](HotFile::new).
    pub fn with_unread(size: u64) -> Result<HotFile, MicroError> {
        HotFile::with_more(size, GRANULE)
    }

    fn with_more(size: u64, more: u64) -> Result<HotFile, MicroError> {
        let origin = origin_of_one(size + more)?;
        let memory = size + size / 8 + (8 << 20);
        // A page that is asked for brings its granule.
        let granules = |builder: Builder| builder.fill(FillPolicy::Granule);
        let bed = Bed::with(&origin, memory, None, granules)?;
        let file = bed.open("a")?;
        bed.scan("a", size, |offset, piece| {
            file.blocking().read_at(offset, piece).map_err(MicroError::netfs("read"))
        })?;
        if more > 0 {
            let read = file.blocking().read_at(size, &mut [0; PAGE]);
            read.map_err(MicroError::netfs("read"))?;
        }
        let hot = HotFile { file, bed, size };
        hot.check()?;
        Ok(hot)
    }

    /// The open file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Every byte, through both ways to hit memory. Nothing may come from the origin.
    fn check(&self) -> Result<(), MicroError> {
        let before = self.bed.stats();
        self.bed.scan("a", self.size, |offset, piece| {
            Ok(match self.file.try_read(offset, piece) {
                TryReadAt::Done(n) => n,
                TryReadAt::WouldBlock => 0,
            })
        })?;
        self.bed.scan("a", self.size, |offset, piece| {
            let mut done = 0;
            for part in piece.chunks_mut(PAGE) {
                for slice in self
                    .file
                    .try_read_slices(offset + done as u64, part.len() as u64)
                    .iter()
                    .flatten()
                {
                    part[..slice.len()].copy_from_slice(slice);
                    done += slice.len();
                }
            }
            Ok(done)
        })?;
        let stats = self.bed.stats().since(&before);
        if stats.memory_hit_bytes < 2 * self.size || stats.origin_bytes > 0 {
            return Err(MicroError::NotDone(format!(
                "of {} bytes {} were memory hits, {} came from the origin",
                2 * self.size,
                stats.memory_hit_bytes,
                stats.origin_bytes
            )));
        }
        Ok(())
    }

    /// A memory hit of 4 KiB without a copy.
    #[must_use]
    pub fn reference(&self, offset: u64) -> Option<Slices> {
        self.file.try_read_slices(offset, PAGE as u64)
    }

    /// Bytes read and bytes counted as memory hits since the counters were `before`.
    fn work(&self, before: &netfs::Stats) -> Work {
        let stats = self.bed.stats().since(before);
        Work { moved: stats.read_bytes, cached: stats.memory_hit_bytes }
    }
}

/// The limit: a table with an entry for each of the pages our side can reach, and a reference count for
/// each, as in a cache whose unit is the page. Our side finds as many pages through fewer, larger folios:
/// that it needs less of the processor's cache for that is its own doing, and stays in the ratio.
struct Table {
    pages: RwLock<Vec<Option<Arc<usize>>>>,
    memory: MmapMut,
}

impl Table {
    fn new(pages: u64, memory: u64) -> Result<Table, MicroError> {
        let page = |i: u64| Some(Arc::new(i as usize * PAGE));
        Ok(Table {
            pages: RwLock::new((0..pages).map(page).collect()),
            memory: buffer(memory as usize)?,
        })
    }

    fn get(&self, offset: u64) -> Option<Arc<usize>> {
        self.pages.read()[(offset / PAGE as u64) as usize].clone()
    }
}

pub(super) fn by_reference(settings: &Settings) -> Result<Outcome, MicroError> {
    let hot = HotFile::new(settings.or_quick(REF_SET, 4 << 20))?;
    let table = Table::new(hot.size / PAGE as u64, 0)?;
    // The same pages in the same order on both sides.
    let windows = || Random::new(1).windows(hot.size, PAGE, settings.or_quick(8192, 256));
    let (mut ours, mut limit) = (windows(), windows());
    let before = hot.bed.stats();
    let turns = in_turns(
        SHORT_ROUNDS,
        || {
            let offsets = ours.next();
            Ok(nanos_each(offsets.len(), |i| hot.reference(offsets[i])))
        },
        || {
            let offsets = limit.next();
            Ok::<_, MicroError>(nanos_each(offsets.len(), |i| table.get(offsets[i])))
        },
    )?;
    Outcome::of("mem-ref-4k", Unit::Nanos, turns, hot.work(&before))
}

pub(super) fn by_reference_two_threads(settings: &Settings) -> Result<Outcome, MicroError> {
    let hot = HotFile::new(settings.or_quick(REF_SET, 4 << 20))?;
    let table = Table::new(hot.size / PAGE as u64, 0)?;
    let offsets = [1, 2].map(|seed| Random::new(seed).offsets(OFFSETS_2T, hot.size, PAGE));
    let time = settings.or_quick(Duration::from_millis(30), Duration::from_millis(2));
    let before = hot.bed.stats();
    let turns = in_turns(
        SHORT_ROUNDS,
        || Ok(on_two_threads(&offsets, time, |offset| hot.reference(offset))),
        || Ok::<_, MicroError>(on_two_threads(&offsets, time, |offset| table.get(offset))),
    )?;
    Outcome::of("mem-ref-4k-2t", Unit::Nanos, turns, hot.work(&before))
}

/// Nanoseconds an operation and thread, both threads at work for `time`: long enough that a busy
/// machine gives each its processor.
pub fn on_two_threads<T>(
    offsets: &[Vec<u64>; 2],
    time: Duration,
    op: impl Fn(u64) -> T + Sync,
) -> f64 {
    let (together, op) = (&Barrier::new(2), &op);
    let each = std::thread::scope(|scope| {
        let threads = offsets.each_ref().map(|offsets| {
            scope.spawn(move || {
                together.wait();
                let (start, mut count) = (Instant::now(), 0usize);
                while start.elapsed() < time {
                    for offset in offsets {
                        black_box(&op(*offset));
                    }
                    count += offsets.len();
                }
                start.elapsed().as_secs_f64() * 1e9 / count.max(1) as f64
            })
        });
        threads.map(|thread| thread.join().unwrap_or(f64::NAN))
    });
    each.iter().sum::<f64>() / 2.0
}

pub(super) fn small_copies(settings: &Settings) -> Result<Outcome, MicroError> {
    let hot = HotFile::new(settings.or_quick(COPY_SET, 4 << 20))?;
    let table = Table::new(hot.size / PAGE as u64, hot.size)?;
    let windows = || Random::new(1).windows(hot.size, PAGE, settings.or_quick(2048, 256));
    let (mut ours, mut limit) = (windows(), windows());
    let into = RefCell::new(buffer(PAGE)?);
    let before = hot.bed.stats();
    let turns = in_turns(
        SHORT_ROUNDS,
        || {
            let (mut into, offsets) = (into.borrow_mut(), ours.next());
            Ok(nanos_each(offsets.len(), |i| hot.file.try_read(offsets[i], &mut into)))
        },
        || {
            let (mut into, offsets) = (into.borrow_mut(), limit.next());
            Ok::<_, MicroError>(nanos_each(offsets.len(), |i| {
                if let Some(at) = table.get(offsets[i]) {
                    into.copy_from_slice(&table.memory[*at..*at + PAGE]);
                }
                black_box(&into);
            }))
        },
    )?;
    Outcome::of("mem-copy-4k", Unit::Nanos, turns, hot.work(&before))
}

pub(super) fn large_copies(settings: &Settings) -> Result<Outcome, MicroError> {
    let hot = HotFile::new(settings.or_quick(LARGE_SET, 8 << 20))?;
    let memory = buffer(hot.size as usize)?;
    let windows = || Random::new(1).windows(hot.size, MIB, settings.or_quick(64, 8));
    let (mut ours, mut limit) = (windows(), windows());
    let into = RefCell::new(buffer(MIB)?);
    let before = hot.bed.stats();
    let turns = in_turns(
        SHORT_ROUNDS,
        || {
            let (mut into, offsets) = (into.borrow_mut(), ours.next());
            let start = Instant::now();
            for offset in offsets {
                black_box(hot.file.try_read(*offset, &mut into));
            }
            Ok(gb_per_s(offsets.len() as u64 * MIB as u64, start))
        },
        || {
            let (mut into, offsets) = (into.borrow_mut(), limit.next());
            let start = Instant::now();
            for offset in offsets {
                let at = *offset as usize;
                into.copy_from_slice(&memory[at..at + MIB]);
                black_box(&into);
            }
            Ok::<_, MicroError>(gb_per_s(offsets.len() as u64 * MIB as u64, start))
        },
    )?;
    Outcome::of("mem-copy-1m", Unit::GigabytesPerSecond, turns, hot.work(&before))
}
