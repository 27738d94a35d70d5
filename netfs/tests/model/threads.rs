//! Readers beside one changer, all told of every change: a read returns one version that was current at
//! some moment between its start and its end, never a mix. And readers alone in too little memory, so
//! that folios are evicted under them and come back in other sizes.
//!
//! More readers than processors: what goes wrong between two steps of a reader goes wrong when it is
//! not running. `NETFS_MODEL_SEED` and `NETFS_MODEL_RUNS` choose a seed and how often it is run.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use netfs::{
    File, FillPolicy, FillWhenFull, Mount, Netfs,
    coherency::BreakReason,
    remote::{IoLimits, Promise, PromiseKind},
};
use netfs_memory::{MemoryFs, VersionKind};

use crate::{
    modelling::{
        cx,
        disk::{Disk, DiskKind},
        rng::Rng,
        runs::number,
    },
    world::{How, read},
};

const PATHS: [&str; 3] = ["small", "d/granule", "d/big"];
const READERS: u64 = 8;
/// Reads of each reader where nothing changes.
const STORM_READS: u64 = 250;
const CHANGES: u64 = 250;

struct Shared {
    fs: Arc<MemoryFs>,
    /// The newest version of each file whose change has been told to everybody.
    told: [AtomicU64; PATHS.len()],
    reads: AtomicU64,
    over: AtomicBool,
    seed: u64,
}

fn origin(seed: u64) -> Arc<MemoryFs> {
    MemoryFs::builder()
        .seed(seed)
        .promise(Promise::UntilBroken { kind: PromiseKind::Read })
        .configure(|s| {
            s.versions =
                if seed.is_multiple_of(2) { VersionKind::Number } else { VersionKind::Etag };
            s.limits = IoLimits { rsize: 50_000, ..IoLimits::default() };
            s.chunk = 10_000;
        })
        .file(PATHS[0], 5_000)
        .file(PATHS[1], 300_000)
        .file(PATHS[2], 1_000_000)
        .build()
        .expect("origin")
}

impl Shared {
    fn new(fs: &Arc<MemoryFs>, seed: u64) -> Shared {
        Shared {
            told: std::array::from_fn(|_| AtomicU64::new(1)),
            reads: AtomicU64::new(0),
            over: AtomicBool::new(false),
            fs: Arc::clone(fs),
            seed,
        }
    }

    /// Reads of many sizes in one small part of a file, the same for all readers.
    fn stormy_reader(&self, file: &File, number: u64) {
        let mut rng = Rng::new(self.seed * READERS + number);
        for _ in 0..STORM_READS {
            let offset = 4096 * rng.within(0..60) + rng.pick(&[0, 0, 100]);
            let len = 4096 * rng.pick(&[1, 1, 2, 3, 8, 17, 40]) + rng.within(0..2);
            let how = rng.pick(&[How::At, How::Slices]);
            let bytes = pollster::block_on(read(file, how, offset, len)).bytes;
            let what = format!("seed {}: {how:?} at {offset}+{len}", self.seed);
            let bytes = bytes.expect("waits").unwrap_or_else(|e| panic!("{what}: {e}"));
            self.check(2, 1, (offset, len), &bytes, &what);
        }
    }

    fn reader(&self, files: &[File], number: u64) {
        let mut rng = Rng::new(self.seed * READERS + number);
        while !self.over.load(Ordering::Acquire) {
            let f = rng.index(PATHS.len());
            let (offset, len) = rng.span(300_000);
            let how = rng.pick(&[How::At, How::Slices, How::Bypass, How::Unbuffered, How::Try]);
            let oldest = self.told[f].load(Ordering::Acquire);
            let got = pollster::block_on(read(&files[f], how, offset, len));
            self.reads.fetch_add(1, Ordering::Release);
            let Some(result) = got.bytes else { continue };
            let what = format!("seed {}: {how:?} of {} at {offset}+{len}", self.seed, PATHS[f]);
            let bytes = result.unwrap_or_else(|e| panic!("{what}: {e}"));
            self.check(f, oldest, (offset, len), &bytes, &what);
        }
    }

    fn check(&self, f: usize, oldest: u64, (offset, len): (u64, u64), bytes: &[u8], what: &str) {
        let newest = self.fs.snapshot(PATHS[f]).expect("it exists").version;
        let fits = |version: u64| {
            let snapshot = self.fs.snapshot_of(PATHS[f], version).expect("it exists");
            let content = &snapshot.expect("not that old").content;
            content.size().saturating_sub(offset).min(len) == bytes.len() as u64
                && content.verify(offset, bytes).is_ok()
        };
        assert!(
            (oldest..=newest).any(fits),
            "{what}: {} bytes of none of the versions {oldest}..={newest} (of older: {:?}); by page: {}",
            bytes.len(),
            (oldest.saturating_sub(20).max(1)..oldest).find(|&v| fits(v)),
            self.by_page(f, offset, bytes, newest),
        );
    }

    /// Which of the last versions each page of a wrong answer is of.
    fn by_page(&self, f: usize, offset: u64, bytes: &[u8], newest: u64) -> String {
        let mut said = String::new();
        let mut at = 0;
        while at < bytes.len() {
            let start = offset + at as u64;
            let n = ((start / 4096 + 1) * 4096 - start).min((bytes.len() - at) as u64) as usize;
            let page = &bytes[at..at + n];
            let of: Vec<_> = (newest.saturating_sub(30).max(1)..=newest)
                .filter(|&v| {
                    let old = self.fs.snapshot_of(PATHS[f], v).expect("it exists");
                    old.is_some_and(|s| s.content.verify(start, page).is_ok())
                })
                .collect();
            let zero = if page.iter().all(|&b| b == 0) { " zero" } else { "" };
            said += &format!("{start}+{n}: {of:?}{zero}; ");
            at += n;
        }
        said
    }

    fn changer(&self, netfs: &Netfs, files: &[File]) {
        let mut rng = Rng::new(self.seed ^ 0xc4a2);
        for _ in 0..CHANGES {
            // A file that never stands still cannot be read: let some reads through in between.
            let reads = self.reads.load(Ordering::Acquire);
            while self.reads.load(Ordering::Acquire) < reads + rng.within(1..8)
                && !self.over.load(Ordering::Acquire)
            {
                std::thread::yield_now();
            }
            let f = rng.index(PATHS.len());
            let size = self.fs.size(PATHS[f]).expect("it exists");
            let (at, len) = rng.span(size);
            let (at, end) = (at.min(1_000_000), (at + len).min(1_000_000));
            let change = self.fs.change(PATHS[f]);
            let changed = match rng.within(0..12) {
                0 => change.rewrite(),
                1 => change.append(len.min(10_000)),
                2 => change.truncate(at),
                3 => change.punch(at..end.max(at)),
                4 | 5 => change.rewrite_sized(at),
                6..=8 => change.rewrite_range(at..end.max(at)),
                9 => {
                    files[f].invalidate();
                    continue;
                }
                10 => {
                    netfs.drop_memory();
                    continue;
                }
                _ => {
                    self.fs.break_all(BreakReason::Callback);
                    continue;
                }
            };
            let version = changed.expect("the change is possible").version;
            self.told[f].store(version, Ordering::Release);
        }
    }
}

/// Ends the readers also when the changer fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Every byte that a reader got is counted as one thing, however often it had to start again.
fn assert_counted_once(netfs: &Netfs, seed: u64) {
    let s = netfs.stats();
    let hits = s.memory_hit_bytes + s.readahead_hit_bytes + s.disk_hit_bytes + s.zero_bytes;
    assert_eq!(hits + s.miss_bytes(), s.read_bytes, "seed {seed}: {s:?}");
}

fn run(kind: DiskKind, seed: u64) {
    let fs = origin(seed);
    let disk = Disk::new(kind);
    let mut rng = Rng::new(seed);
    let mut builder = Netfs::builder()
        .memory_bytes(rng.pick(&[1 << 18, 3 << 17, 1 << 20, 8 << 20]))
        .fill(rng.pick(&[
            FillPolicy::Auto,
            FillPolicy::Granule,
            FillPolicy::Exact,
            FillPolicy::Exact,
        ]))
        .fill_queue(1 << 20, FillWhenFull::Drop);
    if let Some(backend) = disk.backend() {
        builder = builder.cache(backend);
    }
    let netfs = builder.build().expect("build");
    let open = |mount: &Mount, path: &str| {
        let node = pollster::block_on(mount.walk(path, &cx())).expect("walk");
        pollster::block_on(mount.open(&node, &cx())).expect("open")
    };
    let shared = Shared::new(&fs, seed);
    let mounts: Vec<Mount> = [Arc::clone(&fs), fs.client()]
        .into_iter()
        .map(|client| pollster::block_on(netfs.mount(client, &cx())).expect("mount"))
        .collect();
    let handles: Vec<Vec<File>> = (0..=READERS as usize)
        .map(|i| PATHS.iter().map(|path| open(&mounts[i % 2], path)).collect())
        .collect();
    std::thread::scope(|s| {
        for number in 0..READERS {
            let (shared, files) = (&shared, &handles[number as usize]);
            s.spawn(move || {
                let _over = Over(&shared.over);
                shared.reader(files, number);
            });
        }
        let _over = Over(&shared.over);
        shared.changer(&netfs, &handles[READERS as usize]);
    });
    assert_counted_once(&netfs, seed);
    drop((handles, mounts));
    netfs.blocking_shutdown(std::time::Duration::from_secs(20));
}

/// Readers of one file beside each other; the memory is a fraction of what they read.
fn storm(seed: u64) {
    let fs = origin(seed);
    let netfs = Netfs::builder()
        .memory_bytes(1 << 18)
        .fill(FillPolicy::Exact)
        .readahead_max(0)
        .build()
        .expect("build");
    let mount = pollster::block_on(netfs.mount(Arc::clone(&fs), &cx())).expect("mount");
    let node = pollster::block_on(mount.walk(PATHS[2], &cx())).expect("walk");
    let shared = Shared::new(&fs, seed);
    std::thread::scope(|s| {
        for number in 0..READERS {
            let file = pollster::block_on(mount.open(&node, &cx())).expect("open");
            let shared = &shared;
            s.spawn(move || shared.stormy_reader(&file, number));
        }
    });
    assert_counted_once(&netfs, seed);
    assert!(netfs.stats().evictions > 0, "nothing was evicted");
}

#[test]
fn readers_in_too_little_memory_get_every_byte_once() {
    let runs = number("NETFS_MODEL_RUNS");
    match number("NETFS_MODEL_SEED") {
        Some(seed) => (0..runs.unwrap_or(1)).for_each(|_| storm(seed)),
        None => (0..runs.unwrap_or(4)).for_each(storm),
    }
}

#[test]
fn concurrent_reads_are_never_stale_and_never_a_mix() {
    const KINDS: [DiskKind; 3] = [DiskKind::None, DiskKind::Memory, DiskKind::Directory];
    if let Some(seed) = number("NETFS_MODEL_SEED") {
        for _ in 0..number("NETFS_MODEL_RUNS").unwrap_or(1) {
            run(KINDS[seed as usize / 10 % 3], seed);
        }
        return;
    }
    for (i, kind) in KINDS.into_iter().enumerate() {
        for seed in 0..4 {
            run(kind, 10 * i as u64 + seed);
        }
    }
}
