//! A cache directory whose files are deleted, truncated, swapped, put back from older copies and flipped
//! bit by bit while readers and a writer run: right bytes always, and what was noticed is counted by its reason.
//!
//! `NETFS_SABOTAGE_SEED` runs one seed alone, `NETFS_SABOTAGE_RUNS` the number of seeds.

mod common;
#[path = "sabotage/owner.rs"]
mod owner;
#[path = "modelling/rng.rs"]
mod rng;
#[path = "sabotage/saboteur.rs"]
mod saboteur;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use cachefiles::CacheDir;
use common::{Bench, cx};
use netfs::{
    FillPolicy, MemoryUse, Mount, ReadOptions, Stats,
    fscache::{BackendStats, CacheBackend},
    remote::{Promise, PromiseKind},
};
use netfs_memory::MemoryFs;
use owner::Owner;
use rng::Rng;
use saboteur::Saboteur;

/// Small enough for an attribute, and large enough for a side file on every file system.
const FILES: [(&str, u64); 5] = [
    ("small", 5_000),
    ("page", 4096),
    ("d/granule", 300_000),
    ("d/big", 1_000_000),
    ("huge", 20 << 20),
];
const READERS: u64 = 3;
const ACTS: u64 = 300;

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}

struct Shared {
    fs: Arc<MemoryFs>,
    /// The newest version of each file whose change has been told to everybody.
    told: [AtomicU64; FILES.len()],
    reads: AtomicU64,
    over: AtomicBool,
    seed: u64,
}

impl Shared {
    fn new(seed: u64) -> Shared {
        let mut origin = MemoryFs::builder()
            .seed(seed)
            .promise(Promise::UntilBroken { kind: PromiseKind::Read });
        for (path, size) in FILES.into_iter().chain(owner::OWN) {
            origin = origin.file(path, size);
        }
        Shared {
            fs: origin.build().expect("origin"),
            told: std::array::from_fn(|_| AtomicU64::new(1)),
            reads: AtomicU64::new(0),
            over: AtomicBool::new(false),
            seed,
        }
    }

    fn reader(&self, mount: &Mount, number: u64) {
        let mut rng = Rng::new(self.seed * READERS + number);
        while !self.over.load(Ordering::Acquire) {
            let f = rng.index(FILES.len());
            // Opened anew now and then, so that objects are closed and looked up again.
            let node = pollster::block_on(mount.walk(FILES[f].0, &cx())).expect("walk");
            let file = pollster::block_on(mount.open(&node, &cx())).expect("open");
            for _ in 0..rng.within(1..12) {
                let (offset, len) = rng.span(FILES[f].1.min(2_000_000));
                let memory = rng.pick(&[MemoryUse::Fill, MemoryUse::Bypass]);
                let options = ReadOptions { memory, ..ReadOptions::default() };
                let mut buf = vec![0xaa; len.min(300_000) as usize];
                let oldest = self.told[f].load(Ordering::Acquire);
                let read = pollster::block_on(file.read_at_with(offset, &mut buf, options));
                let n = read.unwrap_or_else(|e| panic!("seed {}: {e:?}", self.seed));
                self.judge(f, oldest, offset, buf.len(), &buf[..n]);
                self.reads.fetch_add(1, Ordering::Release);
            }
        }
    }

    fn judge(&self, f: usize, oldest: u64, offset: u64, asked: usize, bytes: &[u8]) {
        let path = FILES[f].0;
        let newest = self.fs.snapshot(path).expect("it exists").version;
        let fits = |version: u64| {
            let snapshot = self.fs.snapshot_of(path, version).expect("it exists");
            let content = &snapshot.expect("not that old").content;
            content.size().saturating_sub(offset).min(asked as u64) == bytes.len() as u64
                && content.verify(offset, bytes).is_ok()
        };
        assert!(
            (oldest..=newest).any(fits),
            "seed {}: {} bytes of {path} at {offset} are of none of the versions {oldest}..={newest}",
            self.seed,
            bytes.len(),
        );
    }

    /// Sabotage, and now and then an honest change, so that there are generations to mix up.
    fn saboteur(&self, saboteur: &mut Saboteur, bench: &Bench) {
        let mut rng = Rng::new(self.seed ^ 0xc4a2);
        for act in 0..ACTS {
            let reads = self.reads.load(Ordering::Acquire);
            while self.reads.load(Ordering::Acquire) < reads + 3
                && !self.over.load(Ordering::Acquire)
            {
                std::thread::yield_now();
            }
            saboteur.act();
            if act.is_multiple_of(6) {
                bench.netfs().drop_memory();
            }
            if act.is_multiple_of(10) {
                let f = rng.index(FILES.len());
                let changed = self.fs.change(FILES[f].0).rewrite().expect("possible");
                self.told[f].store(changed.version, Ordering::Release);
            }
        }
    }
}

/// Ends the readers also when the saboteur fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn open(path: &Path) -> Option<Arc<CacheDir>> {
    CacheDir::builder(path).io_threads(2).open().ok()
}

/// A run while readers run, then sabotage while nobody uses the directory, then a new owner.
fn run(seed: u64) -> (Stats, BackendStats) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("cache");
    let shared = Shared::new(seed);
    let mut saboteur = Saboteur::new(&path, seed);
    let cache = open(&path).expect("a new cache opens");
    let fill = Rng::new(seed).pick(&[FillPolicy::Granule, FillPolicy::Exact]);
    let backend = Arc::clone(&cache) as Arc<dyn CacheBackend>;
    let bench = Bench::with(&shared.fs, Some(backend), |b| {
        b.memory_bytes(4 << 20).fill(fill).cookie_lru(Duration::ZERO)
    });
    std::thread::scope(|s| {
        for number in 0..READERS {
            let (shared, mount) = (&shared, &bench.mount);
            s.spawn(move || {
                let _over = Over(&shared.over);
                shared.reader(mount, number);
            });
        }
        let (writer, mount) = (&shared, &bench.mount);
        s.spawn(move || {
            let _over = Over(&writer.over);
            Owner::new(writer, mount).run();
        });
        let _over = Over(&shared.over);
        shared.saboteur(&mut saboteur, &bench);
    });
    let (stats, disk) = (bench.stats(), cache.stats());
    bench.shutdown();
    drop(cache);
    for _ in 0..60 {
        saboteur.act();
    }
    reopen(&shared, &path);
    eprintln!("seed {seed}: {:?}", saboteur.done);
    (stats, disk)
}

/// The next owner reads right bytes too, and can cache again.
fn reopen(shared: &Shared, path: &Path) {
    // A directory that is no cache any more is refused, not guessed at.
    let Some(cache) = open(path) else { return };
    let bench = Bench::new(&shared.fs, Some(cache as Arc<dyn CacheBackend>));
    for _ in 0..2 {
        for (file, size) in FILES {
            let last = size.saturating_sub(10_000);
            for offset in [0, last] {
                bench.check(file, offset, 100_000);
            }
        }
        owner::check_all(&bench);
        bench.drain();
        bench.netfs().drop_memory();
    }
    assert!(bench.stats().disk_hit_bytes > 0, "seed {}: nothing can be cached", shared.seed);
    bench.shutdown();
}

#[test]
fn g2_right_bytes_whatever_is_done_to_the_cache_directory_while_readers_run() {
    let seeds = match number("NETFS_SABOTAGE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..1 + number("NETFS_SABOTAGE_RUNS").unwrap_or(4),
    };
    let (mut hits, mut corrupt_bytes, mut pages, mut objects) = (0, 0, 0, 0);
    for seed in seeds {
        let (stats, disk) = run(seed);
        hits += stats.disk_hit_bytes;
        corrupt_bytes += stats.miss_corruption_bytes;
        pages += disk.corrupt_pages;
        objects += disk.corrupt_objects;
    }
    eprintln!(
        "hits {hits}, missed for corruption {corrupt_bytes}, pages {pages}, objects {objects}"
    );
    assert!(hits > 0, "the disk was never used");
    assert!(corrupt_bytes > 0 && pages > 0 && objects > 0, "damage is not counted by its reason");
}
