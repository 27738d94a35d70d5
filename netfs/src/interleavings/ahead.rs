//! Readahead beside its readers, beside eviction, and beside changes of the file.

use std::sync::atomic::{AtomicU64 as StdAtomicU64, Ordering as StdOrdering};

use shuttle::thread;

use super::*;
use crate::{
    MemoryUse, ReadOptions,
    sync::atomic::{AtomicU64, Ordering},
};

const PAGES: u64 = 8;

/// What all runs of a test came to: each alone may have been unlucky.
#[derive(Default)]
struct Seen {
    ahead: StdAtomicU64,
    hits: StdAtomicU64,
    late: StdAtomicU64,
}

/// Sequential readers, each with streams of its own, in steps that windows are not made of. Whatever is
/// read ahead, dropped or evicted meanwhile: a read returns one version, none from before what everybody
/// had been told of; and all bytes that the readers got are counted once.
fn sequential_readers(world: World, seen: &Seen, change: bool) {
    let before = world.netfs.stats();
    let told = Arc::new(AtomicU64::new(1));
    let reads = Arc::new(AtomicU64::new(0));
    let readers: Vec<_> = [PAGE + 100, 2 * PAGE]
        .into_iter()
        .map(|step| {
            let (file, origin, told) = (world.open(), Arc::clone(&world.origin), Arc::clone(&told));
            let reads = Arc::clone(&reads);
            thread::spawn(move || {
                let mut got = 0;
                while got < PAGES * PAGE {
                    let oldest = told.load(Ordering::SeqCst);
                    let mut buf = vec![0; step as usize];
                    let n = block_on(file.read_at(got, &mut buf)).expect("few changes");
                    assert_eq!(n as u64, step.min(PAGES * PAGE - got), "at {got}");
                    version_of(&buf[..n], got, oldest, origin.version());
                    got += n as u64;
                    reads.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    // Not all at the start, where there is nothing.
    for n in [0, 2, 4] {
        while reads.load(Ordering::SeqCst) < n {
            thread::yield_now();
        }
        world.evict();
        if change && n == 2 {
            told.store(world.origin.change(), Ordering::SeqCst);
        }
    }
    readers.into_iter().for_each(|r| r.join().expect("no panic"));
    let s = world.netfs.stats().since(&before);
    let hits = s.memory_hit_bytes + s.readahead_hit_bytes + s.disk_hit_bytes + s.zero_bytes;
    let got = 2 * PAGES * PAGE;
    assert_eq!((hits + s.miss_bytes(), s.read_bytes), (got, got), "{s:?}");
    seen.ahead.fetch_add(s.readahead, StdOrdering::Relaxed);
    seen.hits.fetch_add(s.readahead_hit_bytes, StdOrdering::Relaxed);
    seen.late.fetch_add(s.evictions + s.drops, StdOrdering::Relaxed);
}

fn explore_ahead(
    seen: &'static Seen,
    runs: usize,
    world: impl Fn() -> World + Send + Sync + Copy + 'static,
    change: bool,
) {
    explore(runs, move || sequential_readers(world(), seen, change));
    for (what, n) in [("ahead", &seen.ahead), ("hits", &seen.hits), ("late", &seen.late)] {
        assert!(n.load(StdOrdering::Relaxed) > 0, "no run came to {what}");
    }
}

#[test]
fn p_d05_read_ahead_bytes_are_never_stale_and_all_are_counted_once() {
    static SEEN: std::sync::LazyLock<Seen> = std::sync::LazyLock::new(Seen::default);
    for answers in [Answers::Whole, Answers::Paged] {
        explore_ahead(&SEEN, 250, move || World::ahead(PAGES, 2 * PAGE, answers, None), true);
    }
}

#[test]
fn read_ahead_bytes_are_counted_once_also_while_pages_are_evicted() {
    static SEEN: std::sync::LazyLock<Seen> = std::sync::LazyLock::new(Seen::default);
    explore_ahead(&SEEN, 250, || World::ahead(PAGES, PAGES * PAGE, Answers::Short, None), false);
}

#[test]
fn n_c48_read_ahead_bytes_are_never_stale_with_a_disk_cache_below() {
    static SEEN: std::sync::LazyLock<Seen> = std::sync::LazyLock::new(Seen::default);
    let world = || {
        let cache = crate::fscache::MemCache::new();
        let world = World::ahead(PAGES, 4 * PAGE, Answers::Whole, Some(cache));
        // Something of it on disk only: the windows come from both.
        let mut buf = vec![0; 3 * PAGE as usize];
        let options = ReadOptions { unbuffered: false, memory: MemoryUse::Bypass };
        block_on(world.open().read_at_with(5 * PAGE, &mut buf, options)).expect("read");
        block_on(world.netfs.drain_fills());
        world
    };
    explore_ahead(&SEEN, 250, world, true);
}
