//! The backend's contract, kept by the in-memory cache.

use std::{collections::HashSet, ops::Range};

use futures_util::FutureExt;
use proptest::prelude::*;

use super::*;
use crate::{
    fscache::{
        CacheMiss, CacheObject, CacheRead, CacheWrite, ExtentKind, TryRead,
        testing::{backend, ident, page_of, volume_id},
    },
    stats::Counters,
};

const PAGE: u64 = PAGE_SIZE as u64;

/// Runs a future of a cache whose calls do not hang.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("nothing hangs")
}

fn open_volume(cache: &Arc<MemCache>) -> Arc<dyn CacheVolume> {
    now(backend(cache).acquire_volume(volume_id(), Bytes::new())).expect("opens")
}

fn open(cache: &Arc<MemCache>, identity: Identity) -> Result<Opened, Refusal> {
    now(open_volume(cache).lookup(Bytes::from_static(b"k"), identity))
}

fn object(cache: &Arc<MemCache>, identity: Identity) -> Arc<dyn CacheObject> {
    open(cache, identity).expect("opens").object
}

fn store(object: &Arc<dyn CacheObject>, page: u64, byte: u8) -> Result<(), Refusal> {
    let (said, hear) = std::sync::mpsc::channel();
    let generation = object.generation();
    Arc::clone(object).write(CacheWrite::new(page * PAGE, page_of(byte), generation, move |r| {
        said.send(r).expect("heard");
    }));
    hear.try_recv().expect("ended")
}

fn fetch(object: &Arc<dyn CacheObject>, range: Range<u64>) -> Result<Vec<u8>, CacheMiss> {
    let (said, hear) = std::sync::mpsc::channel();
    let len = usize::try_from(range.end - range.start).expect("small");
    Arc::clone(object).read(CacheRead::detached(range.start, len, move |r| {
        said.send(r).expect("heard");
    }));
    hear.try_recv().expect("ended")
}

#[test]
fn what_is_stored_is_found_again_under_its_identity_only() {
    let cache = MemCache::new();
    let first = object(&cache, ident(1));
    store(&first, 0, 7).expect("stored");
    assert!(open(&cache, ident(1)).is_err_and(|r| r == Refusal::InUse));
    now(Arc::clone(&first).close(Relinquish::Keep));
    assert_eq!(store(&first, 1, 7), Err(Refusal::Stale), "closed");

    let again = open(&cache, ident(1)).expect("opens");
    assert_eq!(again.found, Found::Existing);
    assert_eq!(fetch(&again.object, 10..20), Ok(vec![7; 10]));
    now(again.object.close(Relinquish::Keep));
    let other = open(&cache, ident(2)).expect("opens");
    assert_eq!(other.found, Found::ReplacedStale);
    assert_eq!(fetch(&other.object, 0..PAGE), Err(CacheMiss::Absent));
}

#[test]
fn a_restart_keeps_what_was_stored_and_kills_what_was_open() {
    let cache = MemCache::new();
    let old = object(&cache, ident(1));
    store(&old, 0, 7).expect("stored");
    let next = cache.restart();
    assert_eq!(cache.health(), Err(Refusal::Withdrawn));
    assert!(matches!(old.try_read(0, &mut [0; 4]), TryRead::Miss(_)));
    let new = open(&next, ident(1)).expect("opens");
    assert_eq!(new.found, Found::Existing);
    assert_eq!(fetch(&new.object, 0..4), Ok(vec![7; 4]));
    now(old.close(Relinquish::Retire));
    assert_eq!(fetch(&new.object, 0..4), Ok(vec![7; 4]), "the dead cannot delete");
}

#[test]
fn n_c48_after_a_cut_over_the_old_object_is_dead_and_the_new_one_empty() {
    let cache = MemCache::new();
    let old = object(&cache, ident(1));
    store(&old, 0, 7).expect("stored");
    let new = old.cut_over(ident(1)).expect("cut over");
    assert!(new.generation() > old.generation());
    assert_eq!(fetch(&old, 0..4), Err(CacheMiss::Stale));
    assert_eq!(store(&old, 0, 7), Err(Refusal::Stale));
    assert_eq!(fetch(&new, 0..4), Err(CacheMiss::Absent));
    old.mark_zero(0..PAGE);
    assert_eq!(new.extents(0..PAGE)[0].kind, ExtentKind::Absent);
    assert_eq!(old.extents(0..PAGE)[0].kind, ExtentKind::Absent);
}

#[test]
fn a_damaged_page_is_a_miss_and_forgotten() {
    let cache = MemCache::new();
    let object = object(&cache, ident(1));
    store(&object, 1, 7).expect("stored");
    assert!(!cache.corrupt(&volume_id(), b"k", 0), "nothing stored there");
    assert!(cache.corrupt(&volume_id(), b"k", PAGE + 5));
    assert_eq!(object.try_read(PAGE, &mut [0; 4]), TryRead::Miss(CacheMiss::Corrupt));
    assert_eq!(object.extents(PAGE..2 * PAGE)[0].kind, ExtentKind::Absent);
}

#[test]
fn switches_do_what_they_say() {
    let cache = MemCache::new();
    let object = object(&cache, ident(1));
    store(&object, 0, 7).expect("stored");
    let faults = cache.faults();
    faults.never_inline(true);
    assert_eq!(object.try_read(0, &mut [0; 4]), TryRead::WouldBlock);
    assert_eq!(fetch(&object, 0..4), Ok(vec![7; 4]));
    faults.never_inline(false);
    faults.fail_reads(Some(CacheMiss::Io));
    assert_eq!(fetch(&object, 0..4), Err(CacheMiss::Io));
    faults.fail_reads(None);
    faults.not_loaded(true);
    assert_eq!(object.extents(0..PAGE)[0].kind, ExtentKind::NotLoaded);
    faults.not_loaded(false);
    faults.hold(FaultPoint::Read);
    let heard = Arc::new(Counters::default());
    let count = Arc::clone(&heard);
    Arc::clone(&object).read(CacheRead::detached(0, 4, move |_| count.drops.inc()));
    assert_eq!((heard.snapshot().drops, faults.waiting(FaultPoint::Read)), (0, 1));
    faults.release(FaultPoint::Read);
    assert_eq!(heard.snapshot().drops, 1);
}

#[test]
fn misaligned_writes_are_refused_and_pages_past_the_end_not_stored() {
    let cache = MemCache::new();
    let object = object(&cache, Identity { size: PAGE + 1, ..ident(1) });
    let generation = object.generation();
    let refused = Arc::new(Counters::default());
    let count = Arc::clone(&refused);
    let sub = CacheWrite::new(1, page_of(1), generation, move |r| {
        assert_eq!(r, Err(Refusal::Unsupported));
        count.drops.inc();
    });
    Arc::clone(&object).write(sub);
    assert_eq!(refused.snapshot().drops, 1);
    store(&object, 1, 1).expect("the tail page");
    store(&object, 2, 1).expect("past the end");
    assert_eq!(cache.stored(&volume_id(), b"k").map(|s| s.1), Some(1));
}

#[derive(Clone, Debug)]
enum Op {
    Store(u64),
    Forget(Range<u64>),
    Zero(Range<u64>),
    CutOver,
    Resize(u64),
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    let range = (0..9 * PAGE, 0..4 * PAGE).prop_map(|(start, len)| start..start + len);
    let pages = (0..9u64, 0..4u64).prop_map(|(start, len)| start * PAGE..(start + len) * PAGE);
    prop_oneof![
        6 => (0..9u64).prop_map(Op::Store),
        2 => range.prop_map(Op::Forget),
        2 => pages.prop_map(Op::Zero),
        1 => Just(Op::CutOver),
        1 => (1..9 * PAGE).prop_map(Op::Resize),
        1 => Just(Op::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// The content map against two plain sets of page numbers.
    #[test]
    fn n_c58_extents_are_exactly_what_was_stored(ops in proptest::collection::vec(op(), 1..40)) {
        let cache = MemCache::new();
        let mut size = 8 * PAGE + 100;
        let name = |size| Identity { size, ..ident(1) };
        let mut object = object(&cache, name(size));
        let (mut data, mut zero) = (HashSet::new(), HashSet::new());
        for op in ops {
            match op {
                Op::Store(page) => {
                    store(&object, page, u8::try_from(page).expect("small")).expect("stored");
                    if page * PAGE < size {
                        zero.remove(&page);
                        data.insert(page);
                    }
                }
                Op::Forget(r) => {
                    object.forget(r.clone());
                    let hit = |p: &u64| p * PAGE < r.end && (p + 1) * PAGE > r.start;
                    data.retain(|p| !hit(p) || r.is_empty());
                    zero.retain(|p| !hit(p) || r.is_empty());
                }
                Op::Zero(r) => {
                    object.mark_zero(r.clone());
                    for page in r.start / PAGE..r.end.min(size).div_ceil(PAGE) {
                        data.remove(&page);
                        zero.insert(page);
                    }
                }
                Op::CutOver => {
                    object = object.cut_over(name(size)).expect("cut over");
                    data.clear();
                    zero.clear();
                }
                Op::Resize(to) => {
                    object.set_identity(name(to), &[]).expect("renamed");
                    let stays = |p: &u64| {
                        let tail = !size.is_multiple_of(PAGE) && *p == size / PAGE;
                        to == size || (!tail && (p + 1) * PAGE <= to)
                    };
                    data.retain(stays);
                    zero.retain(stays);
                    size = to;
                }
                Op::Reopen => {
                    now(Arc::clone(&object).close(Relinquish::Keep));
                    object = open(&cache, name(size)).expect("opens").object;
                }
            }
            let extents = object.extents(0..size);
            prop_assert_eq!(extents.first().map(|e| e.range.start), Some(0));
            prop_assert_eq!(extents.last().map(|e| e.range.end), Some(size));
            prop_assert!(extents.windows(2).all(|w| w[0].range.end == w[1].range.start
                && w[0].kind != w[1].kind));
            for page in 0..size.div_ceil(PAGE) {
                let at = page * PAGE;
                let kind = extents.iter().find(|e| e.range.contains(&at)).map(|e| e.kind);
                let want = match (data.contains(&page), zero.contains(&page)) {
                    (true, _) => ExtentKind::Data,
                    (_, true) => ExtentKind::Zero,
                    _ => ExtentKind::Absent,
                };
                prop_assert_eq!(kind, Some(want), "page {}", page);
                let byte = u8::try_from(page).expect("small");
                if want == ExtentKind::Data {
                    prop_assert_eq!(fetch(&object, at..at + 1), Ok(vec![byte]));
                }
            }
        }
    }
}
