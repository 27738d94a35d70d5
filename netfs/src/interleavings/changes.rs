//! Changes and events beside readers.

use shuttle::thread;

use super::*;
use crate::sync::atomic::{AtomicU64, Ordering};

/// P-D1, P-D5 to P-D9, P-D26: a read returns one version, and none from before a change that everybody
/// had been told of when it began; whatever fetches, validations and drops lie in between.
fn readers_beside_changes(world: World, changes: u64, evict: bool) {
    let told = Arc::new(AtomicU64::new(1));
    let readers: Vec<_> = (0..2)
        .map(|i| {
            let (file, origin, told) = (world.open(), Arc::clone(&world.origin), Arc::clone(&told));
            thread::spawn(move || {
                for _ in 0..2 {
                    let oldest = told.load(Ordering::SeqCst);
                    let mut buf = vec![0; (3 - i as usize) * PAGE as usize];
                    let offset = i * PAGE;
                    let n = block_on(file.read_at(offset, &mut buf)).expect("few changes");
                    assert_eq!(n, buf.len());
                    version_of(&buf, offset, oldest, origin.version());
                }
            })
        })
        .collect();
    for _ in 0..changes {
        let version = world.origin.change();
        told.store(version, Ordering::SeqCst);
        if evict {
            world.evict();
        }
    }
    readers.into_iter().for_each(|r| r.join().expect("no panic"));
    let mut buf = vec![0; 3 * PAGE as usize];
    let n = block_on(world.open().read_at(0, &mut buf)).expect("nothing changes any more");
    version_of(&buf[..n], 0, 1 + changes, 1 + changes);
}

#[test]
fn p_d05_no_read_is_stale_or_mixed_however_a_break_meets_fetches() {
    for answers in [Answers::Whole, Answers::Paged, Answers::Short] {
        explore(700, move || readers_beside_changes(World::new(3, 2 * PAGE, answers), 2, false));
    }
}

#[test]
fn p_d26_no_read_is_stale_or_mixed_also_while_pages_are_evicted() {
    explore(700, || readers_beside_changes(World::new(3, PAGE, Answers::Paged), 1, true));
}

/// P-D26: no read has one version's bytes and another one's end, where the file shrinks and grows.
fn readers_beside_other_sizes(world: World) {
    const SIZES: [u64; 3] = [3 * PAGE, PAGE + 100, 4 * PAGE + 7];
    const LONGEST: usize = 5 * PAGE as usize;
    fn judge(bytes: &[u8], offset: u64, asked: usize, mut versions: std::ops::RangeInclusive<u64>) {
        let fits = |v: u64| {
            let len = SIZES[v as usize - 1].saturating_sub(offset).min(asked as u64);
            bytes == content(v, offset, len as usize)
        };
        let all = versions.clone();
        assert!(versions.any(fits), "{} bytes at {offset} of none of {all:?}", bytes.len());
    }
    let told = Arc::new(AtomicU64::new(1));
    let readers = [0, 500].map(|offset| {
        let (file, origin, told) = (world.open(), Arc::clone(&world.origin), Arc::clone(&told));
        thread::spawn(move || {
            for asked in [LONGEST, 2 * PAGE as usize] {
                let oldest = told.load(Ordering::SeqCst);
                let mut buf = vec![0; asked];
                let n = block_on(file.read_at(offset, &mut buf)).expect("few changes");
                judge(&buf[..n], offset, asked, oldest..=origin.version());
            }
        })
    });
    for size in &SIZES[1..] {
        told.store(world.origin.change_to(Some(*size)), Ordering::SeqCst);
    }
    readers.into_iter().for_each(|r| r.join().expect("no panic"));
    let mut buf = vec![0; LONGEST];
    let n = block_on(world.open().read_at(0, &mut buf)).expect("nothing changes any more");
    judge(&buf[..n], 0, LONGEST, 3..=3);
}

#[test]
fn p_d26_no_read_has_one_versions_bytes_and_another_ones_end() {
    for answers in [Answers::Whole, Answers::Paged, Answers::Short] {
        explore(400, move || readers_beside_other_sizes(World::new(3, 2 * PAGE, answers)));
    }
    explore(400, || {
        let cache = crate::fscache::MemCache::new();
        readers_beside_other_sizes(World::ahead(3, 2 * PAGE, Answers::Whole, Some(cache)));
    });
}

#[test]
fn n_c48_no_read_is_stale_or_mixed_with_a_disk_cache_below() {
    explore(700, || {
        let cache = crate::fscache::MemCache::new();
        let world = World::with(3, 2 * PAGE, Answers::Whole, Some(cache));
        // Something to go stale, in memory and on disk.
        let mut buf = vec![0; 3 * PAGE as usize];
        block_on(world.open().read_at(0, &mut buf)).expect("read");
        readers_beside_changes(world, 1, true);
    });
}
