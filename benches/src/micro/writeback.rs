//! Writeback with the disk cache's copy: what keeping what is uploaded costs the upload.
//!
//! Each round overwrites a file in memory and uploads it to an origin behind a link of 1 GB/s, with a cache
//! in a directory; the limit is that origin alone, sent the same calls without the library. The time is the
//! uploader's; then the queue of copies is drained, and what was uploaded must have been stored, and be what
//! comes back from disk. The queue has room for a round, so that no copy is dropped: uploads never wait for
//! it.

use std::{cell::Cell, sync::Arc, time::Instant};

use netfs::{
    FillPolicy, FillWhenFull,
    remote::{Cred, Cx, RemoteFile, RemoteFs, WriteOutcome, WriteSub},
};
use netfs_memory::{Link, MemoryFile, MemoryFs};

use super::{
    MicroError, Outcome, ROUNDS, Settings, Unit, Work,
    bed::{Bed, MIB, gb_per_s, promise, scratch},
};
use crate::turns::in_turns;

const SIZE: u64 = 256 << 20;
/// What the origin takes: 1 GB/s.
const RATE: u64 = 1_000_000_000;
/// Calls under way at once, as the library has them.
const IN_FLIGHT: usize = 16;

/// `writeback`.
pub(super) fn writeback(settings: &Settings) -> Result<Outcome, MicroError> {
    let size = settings.or_quick(SIZE, 4 << 20);
    let link = Link::default().with_bytes_per_second(RATE);
    let origin = MemoryFs::builder().promise(promise()).link(link).file("a", size).build();
    let origin = origin.map_err(MicroError::netfs("make an origin"))?;
    let dir = scratch(&settings.dir)?;
    let memory = 4 * size + (64 << 20);
    let bed = Bed::with(&origin, memory, Some(dir.path()), |b| {
        b.fill(FillPolicy::Granule)
            .dirty_bytes(memory / 2, memory / 2)
            .fill_queue(size + (16 << 20), FillWhenFull::Drop)
    })?;
    let file = bed.open_rw("a")?;
    let bare = Bare::new(&origin)?;
    let (round, moved) = (Cell::new(0u8), Cell::new(0));
    let turns = in_turns(
        ROUNDS,
        || {
            round.set(round.get().wrapping_add(1));
            let bytes = vec![round.get(); MIB];
            for offset in (0..size).step_by(MIB) {
                let wrote = file.blocking().write_at(offset, &bytes);
                wrote.map_err(MicroError::netfs("write"))?;
            }
            let start = Instant::now();
            file.blocking().fsync().map_err(MicroError::netfs("upload"))?;
            let speed = gb_per_s(size, start);
            bed.drain();
            moved.set(moved.get() + size);
            Ok(speed)
        },
        || bare.send(size),
    )?;
    let stored = bed.stats().cache_write_bytes;
    // Once more: what is stored is what comes back from disk.
    let bytes = vec![0xee; MIB];
    for offset in (0..size).step_by(MIB) {
        file.blocking().write_at(offset, &bytes).map_err(MicroError::netfs("write"))?;
    }
    file.blocking().fsync().map_err(MicroError::netfs("upload"))?;
    bed.drain();
    bed.drop_memory();
    let before = bed.stats();
    bed.scan("a", size, |offset, piece| {
        file.blocking().read_at(offset, piece).map_err(MicroError::netfs("read"))
    })?;
    let back = bed.stats().since(&before).disk_hit_bytes;
    drop(file);
    bed.end()?;
    if (back as f64) < 0.98 * size as f64 {
        let told = format!("of {size} bytes uploaded {back} came back from disk");
        return Err(MicroError::NotDone(told));
    }
    let work = Work { moved: moved.get(), cached: stored };
    Outcome::of("writeback", Unit::GigabytesPerSecond, turns, work)
}

/// The origin, without the library.
struct Bare {
    file: Arc<MemoryFile>,
    runtime: tokio::runtime::Runtime,
    cx: Cx,
}

impl Bare {
    /// A file of its own behind the same link: the library is to stay the only one that writes to the other.
    fn new(origin: &Arc<MemoryFs>) -> Result<Bare, MicroError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_time()
            .build()
            .map_err(MicroError::io("start", "a runtime"))?;
        let created = origin.change("bare").create(0);
        created.map_err(MicroError::netfs("make a file"))?;
        let cx = Cx::new(Cred::new(0, 0));
        let file = runtime.block_on(async {
            let root = Arc::clone(origin).root(cx.clone()).await?;
            let name = bytes::Bytes::from_static(b"bare");
            Arc::clone(origin).lookup(root.file, name, cx.clone()).await
        });
        let found = file.map_err(MicroError::netfs("look a file up"))?.found;
        let found = found.ok_or_else(|| MicroError::NotDone("the origin lost a file".into()))?;
        Ok(Bare { file: found.file, runtime, cx })
    }

    fn send(&self, size: u64) -> Result<f64, MicroError> {
        let bytes = vec![1; MIB];
        let calls: Vec<_> = (0..size)
            .step_by(MIB)
            .map(|offset| WriteSub::detached(offset, &bytes, self.cx.clone()))
            .collect();
        let (subs, ends): (Vec<_>, Vec<_>) = calls.into_iter().unzip();
        let start = Instant::now();
        self.runtime.block_on(async {
            let mut lanes: Vec<Vec<WriteSub>> = (0..IN_FLIGHT).map(|_| Vec::new()).collect();
            for (i, sub) in subs.into_iter().enumerate() {
                lanes[i % IN_FLIGHT].push(sub);
            }
            let lanes = lanes.into_iter().map(|lane| {
                let file = Arc::clone(&self.file);
                tokio::spawn(async move {
                    for sub in lane {
                        Arc::clone(&file).write(sub).await;
                    }
                })
            });
            for lane in lanes.collect::<Vec<_>>() {
                // One that panicked has left subs unanswered, which shows below.
                let _ = lane.await;
            }
        });
        let speed = gb_per_s(size, start);
        for end in ends {
            let finished = end.wait();
            if !matches!(finished.outcome, WriteOutcome::Done) {
                return Err(MicroError::NotDone("the origin did not take a write".into()));
            }
        }
        Ok(speed)
    }
}
