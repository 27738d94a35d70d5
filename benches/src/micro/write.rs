//! Writes through the page cache.
//!
//! Each round begins with nothing dirty and ends with an upload outside the timed part, after which the
//! origin's bytes are compared with what was written: a write that does not get there is no figure.

use std::{
    cell::{Cell, RefCell},
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use memmap2::MmapMut;
use netfs::{File, FillPolicy, TryReadAt, WriteOptions};
use netfs_memory::{Link, MemoryFs, Op};

use super::{
    MicroError, Outcome, ROUNDS, SHORT_ROUNDS, Settings, Unit, Work,
    bed::{Bed, MIB, PAGE, Random, buffer, gb_per_s, promise},
};
use crate::turns::{in_turns, nanos_each};

/// Bytes of a round of large writes: several times what a processor's caches hold.
const LARGE_SET: u64 = 128 << 20;
/// Rounds of large writes. One takes some 10 ms of either side: half of them may be disturbed.
const LARGE_ROUNDS: usize = 21;
/// Bytes overwritten at random.
const SMALL_SET: u64 = 16 << 20;
/// Bytes over which small writes are spread.
const SPARSE_SET: u64 = 64 << 20;
/// A small write.
const SPARSE: usize = 64;

/// A file that is written to.
struct Target {
    // Before the bed: a file is closed before its context ends.
    file: File,
    bed: Bed,
    origin: Arc<MemoryFs>,
}

impl Target {
    fn new(size: u64, memory: u64, link: Link) -> Result<Target, MicroError> {
        let origin = MemoryFs::builder().promise(promise()).link(link).file("a", size).build();
        let origin = origin.map_err(MicroError::netfs("make an origin"))?;
        let bed = Bed::with(&origin, memory, None, |b| {
            // Nothing is uploaded before it is asked for.
            b.fill(FillPolicy::Granule).dirty_bytes(memory / 2, memory / 2)
        })?;
        let file = bed.open_rw("a")?;
        Ok(Target { file, bed, origin })
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), MicroError> {
        all_of(bytes.len(), self.file.blocking().write_at(offset, bytes))
    }

    /// The same of bytes that become the library's.
    fn lend(&self, offset: u64, bytes: Bytes) -> Result<(), MicroError> {
        let len = bytes.len();
        all_of(len, self.file.blocking().write_bytes_at(offset, bytes, WriteOptions::default()))
    }

    /// What one round wrote, piece for piece the same bytes, is on the origin.
    fn is_there(&self, size: u64, bytes: &[u8]) -> Result<(), MicroError> {
        self.sync()?;
        (0..size).step_by(MIB).try_for_each(|offset| self.check(offset, bytes))
    }

    /// Uploads everything.
    fn sync(&self) -> Result<(), MicroError> {
        self.file.blocking().fsync().map_err(MicroError::netfs("upload"))
    }

    /// Whether the origin has `bytes` at `offset`.
    fn check(&self, offset: u64, bytes: &[u8]) -> Result<(), MicroError> {
        let held = self.origin.verify("a", offset, bytes);
        held.map_err(|e| MicroError::WrongBytes(e.to_string()))
    }

    fn end(self) -> Result<(), MicroError> {
        drop(self.file);
        self.bed.end()
    }
}

fn all_of(len: usize, wrote: netfs::Result<usize>) -> Result<(), MicroError> {
    match wrote.map_err(MicroError::netfs("write"))? {
        n if n == len => Ok(()),
        n => Err(MicroError::NotDone(format!("{n} of {len} bytes written"))),
    }
}

/// `buffered-1m`.
pub(super) fn buffered(settings: &Settings) -> Result<Outcome, MicroError> {
    let size = settings.or_quick(LARGE_SET, 4 << 20);
    let target = Target::new(size, 4 * size + (64 << 20), Link::default())?;
    // Both sides copy out of the same memory.
    let from = RefCell::new(buffer(MIB)?);
    let (round, moved) = (Cell::new(0u8), Cell::new(0));
    let turns = in_turns(
        settings.or_quick(LARGE_ROUNDS, ROUNDS),
        || {
            let mut from = from.borrow_mut();
            round.set(round.get().wrapping_add(1));
            from.fill(round.get());
            let start = Instant::now();
            for offset in (0..size).step_by(MIB) {
                target.write(offset, &from)?;
            }
            let speed = gb_per_s(size, start);
            target.is_there(size, &from)?;
            moved.set(moved.get() + size);
            Ok(speed)
        },
        memcpy(size, &from)?,
    )?;
    let cached = target.bed.stats().write_bytes;
    target.end()?;
    let work = Work { moved: moved.get(), cached };
    Outcome::of("buffered-1m", Unit::GigabytesPerSecond, turns, work)
}

/// `bytes-1m`: counts only what came to be folios without a copy.
pub(super) fn lent(settings: &Settings) -> Result<Outcome, MicroError> {
    let size = settings.or_quick(LARGE_SET, 4 << 20);
    let target = Target::new(size, 4 * size + (64 << 20), Link::default())?;
    let from = RefCell::new(buffer(MIB)?);
    let (round, moved) = (Cell::new(0u8), Cell::new(0));
    let turns = in_turns(
        settings.or_quick(LARGE_ROUNDS, ROUNDS),
        || {
            round.set(round.get().wrapping_add(1));
            // Others than last time: those are in use.
            let bytes = Bytes::from(vec![round.get(); MIB]);
            let start = Instant::now();
            for offset in (0..size).step_by(MIB) {
                target.lend(offset, bytes.clone())?;
            }
            let speed = gb_per_s(size, start);
            target.is_there(size, &bytes)?;
            moved.set(moved.get() + size);
            Ok(speed)
        },
        memcpy(size, &from)?,
    )?;
    let cached = target.bed.stats().write_lent_bytes;
    target.end()?;
    let work = Work { moved: moved.get(), cached };
    Outcome::of("bytes-1m", Unit::GigabytesPerSecond, turns, work)
}

/// The limit of large writes: `memcpy`, 1 MiB at a time out of `from`, into touched memory in huge pages as
/// the library's arena has it.
fn memcpy(
    size: u64,
    from: &RefCell<MmapMut>,
) -> Result<impl FnMut() -> Result<f64, MicroError>, MicroError> {
    let mut to = buffer(size as usize)?;
    Ok(move || {
        let from = from.borrow();
        let start = Instant::now();
        for piece in to.chunks_exact_mut(MIB) {
            piece.copy_from_slice(black_box(&from));
        }
        Ok(gb_per_s(size, start))
    })
}

/// `overwrite-4k`.
pub(super) fn overwrite(settings: &Settings) -> Result<Outcome, MicroError> {
    let count = settings.or_quick(2000, 50);
    let target = Target::new(SMALL_SET, 4 * SMALL_SET + (64 << 20), Link::default())?;
    let mut into = vec![0; MIB];
    for offset in (0..SMALL_SET).step_by(MIB) {
        let read = target.file.blocking().read_at(offset, &mut into);
        read.map_err(MicroError::netfs("read"))?;
    }
    let random = RefCell::new(Random::new(1));
    let offsets = || random.borrow_mut().offsets(count, SMALL_SET, PAGE);
    // Other bytes in each round, or a write that is lost would not show.
    let (mut bytes, into) = (vec![0u8; PAGE], RefCell::new(vec![0; PAGE]));
    let (moved, failed) = (Cell::new(0), RefCell::new(None));
    let turns = in_turns(
        SHORT_ROUNDS,
        || {
            let offsets = offsets();
            let other = bytes[0].wrapping_add(1);
            bytes.fill(other);
            let nanos = nanos_each(count, |i| {
                target.write(offsets[i], &bytes).unwrap_or_else(|e| drop(failed.replace(Some(e))));
            });
            target.sync()?;
            offsets.iter().try_for_each(|at| target.check(*at, &bytes))?;
            moved.set(moved.get() + (count * PAGE) as u64);
            failed.take().map_or(Ok(nanos), Err)
        },
        || {
            let offsets = offsets();
            let (mut into, mut hits) = (into.borrow_mut(), 0);
            let nanos = nanos_each(count, |i| {
                let read = target.file.try_read(offsets[i], &mut into);
                hits += usize::from(read == TryReadAt::Done(PAGE));
            });
            let missed = || MicroError::NotDone(format!("{hits} of {count} reads were hits"));
            if hits == count { Ok(nanos) } else { Err(missed()) }
        },
    )?;
    let stats = target.bed.stats();
    target.end()?;
    let work = Work { moved: moved.get(), cached: stats.write_bytes };
    Outcome::of("overwrite-4k", Unit::Nanos, turns, work)
}

/// `sparse-small`: nothing is timed.
pub(super) fn sparse(settings: &Settings) -> Result<Outcome, MicroError> {
    let size = settings.or_quick(SPARSE_SET, 1 << 20);
    let target = Target::new(size, 4 * size + (64 << 20), Link::default())?;
    let bytes = [9; SPARSE];
    for offset in (0..size).step_by(PAGE) {
        target.write(offset + 1000, &bytes)?;
    }
    let dirty = target.bed.dirty();
    target.sync()?;
    for offset in (0..size).step_by(PAGE) {
        target.check(offset + 1000, &bytes)?;
    }
    let (reads, stats) = (target.origin.counts().calls(Op::Read), target.bed.stats());
    let wanted = size / PAGE as u64 * SPARSE as u64;
    if reads > 0 || dirty != wanted {
        return Err(MicroError::NotDone(format!(
            "{dirty} bytes were dirty instead of {wanted}, and the origin was read {reads} times"
        )));
    }
    target.end()?;
    Ok(Outcome::plain("sparse-small", stats.upload_bytes as f64, dirty as f64, Unit::Bytes))
}

/// `read-under-write`: 99th percentile of hits, beside a writer whose bytes go to the origin at 1 GB/s.
pub(super) fn read_under_write(settings: &Settings) -> Result<Outcome, MicroError> {
    let size = settings.or_quick(SPARSE_SET, 4 << 20);
    let hits = settings.or_quick(20_000, 500);
    let link = Link::default().with_bytes_per_second(1_000_000_000);
    let target = Target::new(2 * size, 8 * size + (64 << 20), link)?;
    let mut into = vec![0; MIB];
    for offset in (0..size).step_by(MIB) {
        let read = target.file.blocking().read_at(offset, &mut into);
        read.map_err(MicroError::netfs("read"))?;
    }
    let random = RefCell::new(Random::new(2));
    let p99 = || {
        let offsets = random.borrow_mut().offsets(hits, size, PAGE);
        let mut page = vec![0; PAGE];
        let mut micros: Vec<f64> = offsets
            .iter()
            .map(|at| {
                let start = Instant::now();
                black_box(target.file.try_read(*at, &mut page));
                start.elapsed().as_secs_f64() * 1e6
            })
            .collect();
        micros.sort_by(f64::total_cmp);
        micros[hits * 99 / 100]
    };
    let before = target.bed.stats();
    let turns = in_turns(
        ROUNDS,
        || {
            let (over, wrote) = (AtomicBool::new(false), AtomicU64::new(0));
            std::thread::scope(|s| {
                let writer = s.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        let bytes = vec![wrote.fetch_add(1, Ordering::Relaxed) as u8; MIB];
                        for offset in (size..2 * size).step_by(MIB) {
                            target.write(offset, &bytes)?;
                        }
                        target.sync()?;
                        target.check(size, &bytes)?;
                    }
                    Ok::<_, MicroError>(())
                });
                // Until it is under way.
                while wrote.load(Ordering::Relaxed) == 0 && !writer.is_finished() {
                    std::thread::yield_now();
                }
                let p99 = p99();
                over.store(true, Ordering::Relaxed);
                let done = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                done.map(|()| p99)
            })
        },
        || Ok(p99()),
    )?;
    let stats = target.bed.stats().since(&before);
    target.end()?;
    let read = (2 * (ROUNDS + 1) * hits * PAGE) as u64;
    let work = Work { moved: read, cached: stats.memory_hit_bytes };
    Outcome::of("read-under-write", Unit::Micros, turns, work)
}
