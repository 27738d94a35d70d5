use std::{
    pin::pin,
    sync::{
        Arc as StdArc,
        atomic::{AtomicUsize, Ordering as O},
    },
    task::{Context, Poll, Wake, Waker},
};

use super::*;
use crate::{
    folio::{GRANULE, Held, PAGE_SIZE, cache::MemoryUsage, shares},
    stats::Counters,
};

const PAGE: u64 = PAGE_SIZE as u64;
const MIB: u64 = 1 << 20;

pub(super) fn cache(budget: u64) -> Arc<FolioCache> {
    FolioCache::new(budget, Arc::new(Counters::default()))
}

/// Locks what is missing of `range`, without a file size.
pub(super) fn lock(index: &FolioIndex, cache: &FolioCache, range: Range<u64>) -> Vec<LockedFolio> {
    let runs = index.absent_runs(range);
    let window = cache.alloc_window(&runs, u64::MAX, GRANULE).expect("within the budget");
    index.lock_window(window)
}

pub(super) fn fill(locked: LockedFolio, byte: u8) -> Arc<Folio> {
    let LockedFolio { folio, mut fill } = locked;
    fill.copy_in(&vec![byte; folio.len()]);
    fill.advance(folio.len());
    folio
}

/// Fills and publishes what is missing of `range`.
fn load(index: &FolioIndex, cache: &FolioCache, range: Range<u64>, byte: u8) {
    for locked in lock(index, cache, range) {
        assert!(index.publish(&fill(locked, byte)));
    }
}

fn read(index: &FolioIndex, offset: u64, len: usize) -> Vec<u8> {
    let mut into = vec![0xee; len];
    let n = index.copy_uptodate(offset, &mut into);
    into.truncate(n);
    into
}

#[derive(Default)]
struct CountWakes(AtomicUsize);

impl Wake for CountWakes {
    fn wake(self: StdArc<Self>) {
        self.0.fetch_add(1, O::Relaxed);
    }
}

#[test]
fn a_read_gets_the_uptodate_prefix_and_stops_at_the_first_gap() {
    let cache = cache(16 * MIB);
    let index = cache.new_index();
    load(&index, &cache, 0..3 * PAGE, 1);
    load(&index, &cache, 3 * PAGE..2 * MIB, 2);
    let locked = lock(&index, &cache, 2 * MIB..2 * MIB + PAGE);
    assert_eq!(read(&index, 3 * PAGE - 2, 4), [1, 1, 2, 2]);
    assert_eq!(read(&index, PAGE, 4 * MIB as usize).len(), 2 * MIB as usize - PAGE_SIZE);
    assert_eq!(read(&index, 2 * MIB, 1), []);
    let mut slices = Slices::new();
    let n = index.slices_uptodate(PAGE + 1, 4 * MIB as usize, &mut slices);
    assert_eq!(n, 2 * MIB as usize - PAGE_SIZE - 1);
    assert_eq!(slices.iter().map(|s| s.len()).sum::<usize>(), n);
    locked.into_iter().for_each(|l| index.fail(&l.folio));
}

#[test]
fn a_folio_found_again_larger_repeats_nothing_of_the_one_before_it() {
    let (cache, page) = (cache(16 * MIB), PAGE_SIZE as u64);
    let index = cache.new_index();
    load(&index, &cache, 0..page, 1);
    let Lookup::Uptodate(small) = index.get(0) else { panic!("just loaded") };
    // A reader holds the first page when it is evicted and comes back as part of a larger folio.
    assert!(index.evict(&small));
    load(&index, &cache, 0..2 * page, 1);
    let Lookup::Uptodate(large) = index.get(page) else { panic!("just loaded") };
    assert_eq!((small.range(), large.range()), (0..page, 0..2 * page));
    let held = [small, large].map(|folio| Held { folio, found: true });
    let of = |range: Range<u64>| shares(&held, &range).map(|(_, r)| r).collect::<Vec<_>>();
    assert_eq!(of(100..2 * page), [100..page, page..2 * page]);
    assert_eq!(of(100..page + 7), [100..page, page..page + 7]);
    index.count_held(&held, &(0..2 * page));
    assert_eq!(cache.counters().snapshot().memory_hit_bytes, 2 * page);
}

#[test]
fn one_page_at_the_end_of_the_offset_space_costs_little_and_is_found() {
    let cache = cache(16 * MIB);
    let index = cache.new_index();
    let last = (1u64 << 63) - PAGE;
    for at in [last, 1 << 50, 5 * MIB, 0] {
        load(&index, &cache, at..at + PAGE, at.trailing_zeros() as u8);
    }
    assert_eq!(read(&index, last, 10), [12; 10]);
    assert_eq!(read(&index, 1 << 50, 1), [50]);
    assert!(index.content.read().slots.vector_len() < 32);
    assert_eq!(index.absent_runs(last - PAGE..last + PAGE)[0], last - PAGE..last);
    // A removal of nearly everything looks at what is there, not at 2^45 granules.
    assert_eq!(index.remove_range(PAGE..u64::MAX).folios, 3);
    assert_eq!(read(&index, 0, 1), [64]);
}

#[test]
fn a_removal_moves_the_generation_and_an_eviction_does_not() {
    let cache = cache(16 * MIB);
    let index = cache.new_index();
    load(&index, &cache, 0..4 * MIB, 1);
    let before = index.data_gen();
    assert_eq!(index.clear(), Removed { folios: 16, bytes: 4 * MIB, locked: 0 });
    let after = index.data_gen();
    assert_ne!(after, before);
    assert_eq!(read(&index, 0, 1), []);
    for i in 0..5 {
        load(&index, &cache, i * 4 * MIB..(i + 1) * 4 * MIB, 1);
    }
    assert!(cache.usage().indexed < 16 * MIB && index.data_gen() == after);
}

#[test]
fn n_c48_what_was_cleared_while_it_was_fetched_is_never_published() {
    let cache = cache(16 * MIB);
    let index = cache.new_index();
    let mut old = lock(&index, &cache, 0..PAGE);
    let removed = index.clear();
    assert_eq!((removed.folios, removed.locked), (1, 1));
    assert_eq!(cache.usage().abandoned, PAGE, "its fetch still writes");
    load(&index, &cache, 0..PAGE, 2);
    let old = fill(old.remove(0), 1);
    assert!(!index.publish(&old));
    assert_eq!(read(&index, 0, 1), [2]);
    assert_eq!((cache.usage().abandoned, cache.usage().pinned), (0, PAGE));
    drop(old);
    assert_eq!(cache.usage().pinned, 0);
}

#[test]
fn the_condition_of_a_publish_is_the_last_word() {
    let cache = cache(16 * MIB);
    let index = cache.new_index();
    let folio = fill(lock(&index, &cache, 0..PAGE).remove(0), 1);
    assert!(!index.publish_if(&folio, || false));
    assert!(matches!(index.get(0), Lookup::Absent));
    assert_eq!(pollster::block_on(folio.wait_unlocked()), Unlocked::Failed);
}

#[test]
fn a_folio_with_a_byte_nobody_filled_is_never_published() {
    let cache = cache(16 * MIB);
    let index = cache.new_index();
    let LockedFolio { folio, mut fill } = lock(&index, &cache, 0..PAGE).remove(0);
    fill.advance(PAGE_SIZE - 1);
    assert!(!index.publish(&folio), "still being filled");
    drop(fill);
    assert!(!index.publish(&folio), "given up one byte early");
    assert!(matches!(index.get(0), Lookup::Absent));
}

#[test]
fn slices_stay_what_they_are_whatever_happens_to_the_file() {
    let cache = cache(MIB);
    let index = cache.new_index();
    load(&index, &cache, 0..PAGE, 1);
    let mut slices = Slices::new();
    index.slices_uptodate(0, PAGE_SIZE, &mut slices);
    index.clear();
    assert_eq!(cache.usage().pinned, PAGE);
    for i in 0..20 {
        load(&index, &cache, i * MIB..i * MIB + MIB / 2, 2);
    }
    assert_eq!(slices[0][..], [1; PAGE_SIZE]);
    drop(index);
    assert_eq!(slices[0][..], [1; PAGE_SIZE]);
    slices.clear();
    let usage = cache.usage();
    assert_eq!(
        usage,
        MemoryUsage { budget: MIB, mapped: usage.mapped, ..MemoryUsage::default() },
        "nothing is left behind"
    );
}

#[test]
fn a_window_gets_all_its_memory_or_none() {
    let cache = cache(MIB);
    let index = cache.new_index();
    load(&index, &cache, 0..MIB / 2, 1);
    let whole_file = std::slice::from_ref(&(0..u64::MAX / 2));
    assert!(cache.alloc_window(whole_file, u64::MAX, GRANULE).is_none());
    assert_eq!(cache.usage().indexed, MIB / 2, "nothing was evicted in vain");
    let one = lock(&index, &cache, 2 * MIB..2 * MIB + GRANULE as u64);
    assert!(
        cache
            .alloc_window(std::slice::from_ref(&(8 * MIB..9 * MIB - 4 * PAGE)), u64::MAX, GRANULE)
            .is_none()
    );
    assert_eq!(cache.usage().indexed, MIB / 2, "nor for what does not fit even then");
    one.into_iter().for_each(|l| index.fail(&l.folio));
    let busy = lock(&index, &cache, 4 * MIB..4 * MIB + 3 * GRANULE as u64);
    let more = cache.alloc_window(std::slice::from_ref(&(8 * MIB..9 * MIB)), u64::MAX, GRANULE);
    assert!(more.is_none(), "what is being filled cannot be evicted");
    let transient = cache.transient(100);
    assert_eq!((cache.usage().transient, transient.len()), (100, 100));
    busy.into_iter().for_each(|l| index.fail(&l.folio));
}

#[test]
fn a_loser_of_the_race_for_a_range_gets_nothing_and_its_memory_goes_back() {
    let cache = cache(MIB);
    let index = cache.new_index();
    let runs = index.absent_runs(0..4 * PAGE);
    let alloc = || cache.alloc_window(&runs, u64::MAX, GRANULE).expect("room");
    let (first, second) = (alloc(), alloc());
    let winner = index.lock_window(first);
    assert_eq!((winner.len(), index.lock_window(second).len()), (1, 0));
    assert_eq!(cache.usage().in_flight, 4 * PAGE);
    assert_eq!(index.locked_in(PAGE..2 * PAGE).len(), 1);
    assert!(index.absent_runs(0..4 * PAGE).is_empty());
    winner.into_iter().for_each(|l| index.fail(&l.folio));
    assert_eq!(cache.usage().in_flight, 0);
}

#[test]
fn misses_know_their_reason() {
    let cache = cache(MIB);
    let index = cache.new_index();
    assert_eq!(index.miss_reason(0..PAGE), MissReason::Cold);
    load(&index, &cache, 0..GRANULE as u64, 1);
    for i in 1..8 {
        load(&index, &cache, i * MIB..i * MIB + GRANULE as u64, 1);
    }
    assert!(matches!(index.get(0), Lookup::Absent));
    assert_eq!(index.miss_reason(0..PAGE), MissReason::Capacity);
    index.clear();
    assert_eq!(index.miss_reason(7 * MIB..7 * MIB + 1), MissReason::Coherency);
    assert_eq!(index.miss_reason(0..1), MissReason::Capacity, "was not there to be dropped");
    assert_eq!(index.miss_reason(100 * MIB..101 * MIB), MissReason::Cold);
    assert_eq!(index.miss_reason(0..u64::MAX), MissReason::Coherency);
}

#[test]
fn every_waiter_is_woken_once_and_those_that_left_are_not() {
    let cache = cache(MIB);
    let index = cache.new_index();
    let locked = lock(&index, &cache, 0..PAGE).remove(0);
    let counts: Vec<StdArc<CountWakes>> = (0..50).map(|_| StdArc::default()).collect();
    let mut waits: Vec<_> = (0..50).map(|_| Box::pin(locked.folio.wait_unlocked())).collect();
    for (wait, count) in waits.iter_mut().zip(&counts) {
        let waker = Waker::from(StdArc::clone(count));
        for _ in 0..2 {
            assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
    }
    waits.drain(..25);
    let late = pin!(locked.folio.wait_unlocked());
    assert!(late.poll(&mut Context::from_waker(Waker::noop())).is_pending());
    index.publish(&fill(locked, 1));
    for (i, count) in counts.iter().enumerate() {
        assert_eq!(count.0.load(O::Relaxed), usize::from(i >= 25), "waiter {i}");
    }
    for mut wait in waits {
        let poll = wait.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(poll, Poll::Ready(Unlocked::Uptodate));
    }
}

#[test]
fn a_clear_or_the_end_of_the_inode_frees_the_waiters_of_a_hung_fetch() {
    let cache = cache(MIB);
    let index = cache.new_index();
    let hung = lock(&index, &cache, 0..PAGE).remove(0);
    let wakes = StdArc::new(CountWakes::default());
    let waker = Waker::from(StdArc::clone(&wakes));
    let mut wait = Box::pin(hung.folio.wait_unlocked());
    assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    index.remove_range(0..1);
    assert_eq!(wakes.0.load(O::Relaxed), 1);
    drop(wait);
    assert_eq!(pollster::block_on(hung.folio.wait_unlocked()), Unlocked::Failed);
    let hung_too = lock(&index, &cache, 0..PAGE).remove(0);
    drop(index);
    assert_eq!(pollster::block_on(hung_too.folio.wait_unlocked()), Unlocked::Failed);
    assert_eq!(cache.usage().abandoned, 2 * PAGE);
    drop((hung, hung_too));
    assert_eq!(cache.usage().budgeted, 0);
}

#[test]
fn a_scan_in_small_steps_of_ten_times_the_budget_does_not_evict_the_hot_set() {
    let cache = cache(4 * MIB);
    let (hot, cold) = (cache.new_index(), cache.new_index());
    load(&hot, &cache, 0..2 * MIB, 1);
    for _ in 0..3 {
        for at in (0..2 * MIB).step_by(GRANULE) {
            assert_eq!(read(&hot, at, GRANULE).len(), GRANULE);
        }
    }
    for at in (0..40 * MIB).step_by(1000) {
        if read(&cold, at, 1000).len() < 1000 {
            load(&cold, &cache, at..at + 1000, 2);
            // The reader takes what it waited for, as the read path does.
            read(&cold, at, 1000);
        }
    }
    assert!(hot.absent_runs(0..2 * MIB).is_empty());
}

#[test]
fn a_look_for_one_slice_that_finds_two_folios_counts_as_no_use() {
    let cache = cache(16 * MIB);
    let index = cache.new_index();
    load(&index, &cache, 0..3 * PAGE, 1);
    let Lookup::Uptodate(first) = index.get(0) else { panic!("just loaded") };
    assert_eq!(first.range(), 0..2 * PAGE);
    assert!(index.slice_uptodate(100, 3 * PAGE - 100).is_none());
    assert_eq!(first.frequency(), 0, "the read that follows counts it");
    assert_eq!(index.slice_uptodate(100, PAGE).map(|s| s.len()), Some(PAGE_SIZE));
    assert_eq!(first.frequency(), 1);
}
