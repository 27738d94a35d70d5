//! Real threads on a tiny budget: what is read is always of a version that was current during the
//! read, the budget holds at every look, and nobody waits for ever.
//!
//! The origin is a version number a file; a fetch samples it first, as a real one samples its epoch,
//! and publishes only if it has not moved. A changer bumps the version and clears in one step.

use std::{sync::atomic::AtomicBool, thread};

use super::*;
use crate::{
    folio::{GRANULE, PAGE_SIZE},
    stats::Counters,
};

const PAGE: u64 = PAGE_SIZE as u64;
const FILES: usize = 3;
const FILE_SIZE: u64 = 3 * GRANULE as u64;
const BUDGET: u64 = 4 * GRANULE as u64;
const READS: usize = 6_000;

struct File {
    index: Arc<FolioIndex>,
    version: AtomicU64,
}

struct World {
    cache: Arc<FolioCache>,
    files: Vec<File>,
    stop: AtomicBool,
    /// Reads given up because the budget was exhausted.
    transients: AtomicU64,
}

/// Eight bytes that say whose they are.
fn word(file: usize, version: u64, offset: u64) -> [u8; 8] {
    ((version << 32) | ((file as u64) << 24) | (offset / 8)).to_le_bytes()
}

/// A small deterministic generator; the seed is the thread's number.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

impl World {
    /// Reads at `offset` and checks every byte, fetching and waiting as a reader would.
    fn read(&self, file: usize, offset: u64, len: usize, rng: &mut Rng) {
        let oldest = self.files[file].version.load(Ordering::Acquire);
        let index = &self.files[file].index;
        // Each round something was there, was waited for, or was fetched; others may take it away
        // again before we look, but not for ever.
        for _ in 0..10_000 {
            let mut into = vec![0; len];
            let n = index.copy_uptodate(offset, &mut into);
            self.check(file, offset, &into[..n], oldest);
            if n == len {
                return;
            }
            let at = offset + n as u64;
            match index.get(at) {
                Lookup::Uptodate(_) => {}
                Lookup::Locked(folio) => drop(pollster::block_on(folio.wait_unlocked())),
                Lookup::Partial => unreachable!("nobody writes"),
                Lookup::Absent => {
                    if !self.fetch(file, at..offset + len as u64, rng) {
                        self.transients.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                }
            }
        }
        panic!("a reader of file {file} starved");
    }

    /// False if the budget is exhausted.
    fn fetch(&self, file: usize, range: Range<u64>, rng: &mut Rng) -> bool {
        let File { index, version } = &self.files[file];
        let sampled = version.load(Ordering::Acquire);
        let cap = PAGE_SIZE << rng.below(7);
        let runs = index.absent_runs(range);
        let Some(window) = self.cache.alloc_window(&runs, FILE_SIZE, cap) else { return false };
        let mut locked = index.lock_window(window);
        while !locked.is_empty() {
            // In any order, as replies come.
            let LockedFolio { folio, mut fill } =
                locked.swap_remove(rng.below(locked.len() as u64) as usize);
            if rng.below(20) == 0 {
                index.fail(&folio);
                continue;
            }
            let words = folio.range().step_by(8).flat_map(|at| word(file, sampled, at));
            fill.copy_in(&words.collect::<Vec<u8>>());
            fill.advance(folio.len());
            if rng.below(50) == 0 {
                thread::yield_now();
            }
            index.publish_if(&folio, || version.load(Ordering::Acquire) == sampled);
        }
        true
    }

    /// All of one read is of one version, not older than `oldest`.
    fn check(&self, file: usize, offset: u64, bytes: &[u8], oldest: u64) {
        let newest = self.files[file].version.load(Ordering::Acquire);
        let Some(first) = bytes.first_chunk() else { return };
        let version = u64::from_le_bytes(*first) >> 32;
        assert!(
            (oldest..=newest).contains(&version),
            "stale: {version} not in {oldest}..={newest}"
        );
        for (i, got) in bytes.chunks_exact(8).enumerate() {
            assert_eq!(got, word(file, version, offset + 8 * i as u64), "file {file} at {offset}");
        }
    }

    fn reader(&self, seed: u64) {
        let mut rng = Rng(seed);
        let mut kept: Option<(Slices, Vec<u8>)> = None;
        for _ in 0..READS {
            let file = rng.below(FILES as u64) as usize;
            let offset = rng.below(FILE_SIZE / 8) * 8;
            let len = (1 + rng.below(PAGE * 4)).next_multiple_of(8) << rng.below(5);
            let len = len.min(FILE_SIZE - offset) as usize;
            self.read(file, offset, len, &mut rng);
            if rng.below(10) == 0 {
                if let Some((slices, copy)) = kept.take() {
                    assert!(slices.iter().flat_map(|s| s.iter()).eq(&copy), "a slice changed");
                }
                let mut slices = Slices::new();
                self.files[file].index.slices_uptodate(offset, len, &mut slices);
                let copy = slices.iter().flat_map(|s| s.iter().copied()).collect();
                kept = Some((slices, copy));
            }
        }
    }

    fn changer(&self, seed: u64) {
        let mut rng = Rng(seed);
        while !self.stop.load(Ordering::Relaxed) {
            let File { index, version } = &self.files[rng.below(FILES as u64) as usize];
            match rng.below(3) {
                // The same content, dropped for no reason.
                0 => drop(index.remove_range(rng.below(FILE_SIZE)..FILE_SIZE)),
                _ => drop(index.clear_with(|| {
                    version.fetch_add(1, Ordering::AcqRel);
                })),
            }
            let usage = self.cache.usage();
            assert!(usage.budgeted <= BUDGET, "{usage:?}");
            (0..rng.below(2000)).for_each(|_| std::hint::spin_loop());
            thread::yield_now();
        }
    }
}

#[test]
fn readers_see_whole_current_content_and_the_budget_holds() {
    let cache = FolioCache::new(BUDGET, Arc::new(Counters::default()));
    let file = || File { index: cache.new_index(), version: AtomicU64::new(1) };
    let world = World {
        files: (0..FILES).map(|_| file()).collect(),
        cache,
        stop: AtomicBool::new(false),
        transients: AtomicU64::new(0),
    };
    thread::scope(|s| {
        let changer = s.spawn(|| world.changer(99));
        let readers: Vec<_> = (1..5)
            .map(|i| {
                s.spawn({
                    let world = &world;
                    move || world.reader(i)
                })
            })
            .collect();
        let failed = readers.into_iter().any(|r| r.join().is_err());
        world.stop.store(true, Ordering::Relaxed);
        assert!(!failed && changer.join().is_ok());
    });
    assert!(world.transients.load(Ordering::Relaxed) < 4 * READS as u64 / 2);
    let World { cache, files, .. } = world;
    drop(files);
    let usage = cache.usage();
    assert_eq!((usage.budgeted, usage.pinned, usage.folios), (0, 0, 0));
}
