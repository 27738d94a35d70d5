//! Bounds, tags and ends of fills, on a cache in memory and a stepped clock.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::{
    folio::PAGE_SIZE,
    fscache::{CookieSlot, CookieUse, FaultPoint, Refusal, Relinquish, testing::*},
};

const PAGE: u64 = PAGE_SIZE as u64;
const MS: Duration = Duration::from_millis(1);

fn config(pages_max: u64) -> FillConfig {
    FillConfig { bytes_max: pages_max * PAGE, ..FillConfig::default() }
}

fn waiting(pages_max: u64, max: Duration) -> FillConfig {
    FillConfig { when_full: FillWhenFull::Wait { max }, ..config(pages_max) }
}

fn tag(slot: &CookieSlot) -> FillTag {
    FillTag {
        identity: ident(1),
        inval_counter: slot.inval_counter(),
        still_ok: Box::new(|_| StillOk::Yes),
    }
}

/// A queue, and a cookie in use.
async fn setup(config: FillConfig) -> (Rig, FillQueue, CookieSlot, CookieUse) {
    let rig = Rig::new().await;
    let queue = FillQueue::new(Arc::clone(&rig.fscache), config);
    let (slot, user) = rig.open(ident(1)).await;
    (rig, queue, slot, user)
}

fn offer(queue: &FillQueue, slot: &CookieSlot, page: u64) -> Pushed {
    queue.try_push(cookie(slot), page * PAGE, page_of(5), tag(slot))
}

fn stored(slot: &CookieSlot, page: u64) -> bool {
    read(&slot.try_begin().expect("open"), page) == Some(5)
}

#[tokio::test]
async fn queued_data_reaches_the_cache_and_drain_waits_for_it() {
    let (rig, queue, slot, _user) = setup(config(64)).await;
    for page in 0..4 {
        assert_eq!(offer(&queue, &slot, page), Pushed::Queued);
    }
    assert_eq!(queue.queued_bytes(), 4 * PAGE);
    queue.drain().await;
    assert_eq!(queue.queued_bytes(), 0);
    assert!((0..4).all(|page| stored(&slot, page)));
    let stats = rig.counters.snapshot();
    assert_eq!((stats.cache_write_done, stats.cache_write_bytes), (4, 4 * PAGE));
    assert_eq!(stats.fill_dropped_bytes + stats.fill_stale_bytes, 0);
}

#[tokio::test]
async fn the_first_fill_of_a_file_waits_for_a_slow_lookup_longer_than_a_reader() {
    let rig = Rig::new().await;
    let queue = FillQueue::new(Arc::clone(&rig.fscache), config(64));
    rig.cache.faults().hold(FaultPoint::Lookup);
    let slot = rig.cookie(ident(1));
    let _user = slot.use_cookie(false);
    offer(&queue, &slot, 0);
    rig.pass(999 * MS).await;
    assert_eq!(queue.queued_bytes(), PAGE, "still hoping");
    rig.cache.faults().release(FaultPoint::Lookup);
    queue.drain().await;
    assert!(stored(&slot, 0));

    // But not for ever.
    rig.cache.faults().hold(FaultPoint::Lookup);
    let hung = rig.volume.acquire_cookie(b"hung", ident(1)).expect("free");
    let _hung_user = hung.use_cookie(false);
    offer(&queue, &hung, 0);
    rig.pass(1000 * MS).await;
    assert_eq!(queue.queued_bytes(), 0);
    assert_eq!(rig.counters.snapshot().fill_dropped_bytes, PAGE);
}

#[tokio::test]
async fn a_fill_whose_file_has_no_user_any_more_opens_the_object_again() {
    let (rig, queue, slot, user) = setup(config(64)).await;
    drop(user);
    rig.pass(Duration::from_secs(10)).await;
    assert!(slot.try_begin().is_none(), "expired");
    offer(&queue, &slot, 0);
    queue.drain().await;
    assert!(stored(&slot, 0));
    assert_eq!(cookie(&slot).describe().n_active, 0);
}

#[tokio::test]
async fn a_full_queue_drops_and_counts() {
    let (rig, queue, slot, _user) = setup(config(2)).await;
    rig.cache.faults().hold(FaultPoint::Write);
    assert_eq!(
        [0, 1, 2].map(|p| offer(&queue, &slot, p)),
        [Pushed::Queued, Pushed::Queued, Pushed::Dropped]
    );
    assert_eq!(rig.counters.snapshot().fill_dropped_bytes, PAGE);
    settle().await;
    rig.cache.faults().release(FaultPoint::Write);
    queue.drain().await;
    assert!(stored(&slot, 1) && !stored(&slot, 2));
    assert_eq!(offer(&queue, &slot, 2), Pushed::Queued, "there is room again");
}

#[tokio::test]
async fn a_full_queue_that_waits_loses_nothing_as_long_as_the_cache_keeps_up() {
    let (rig, queue, slot, _user) = setup(waiting(1, 100 * MS)).await;
    for page in 0..10 {
        let pushed = queue.push(cookie(&slot), page * PAGE, page_of(5), tag(&slot)).await;
        assert_eq!(pushed, Pushed::Queued);
    }
    queue.drain().await;
    assert!((0..10).all(|page| stored(&slot, page)));
    assert_eq!(rig.counters.snapshot().fill_waits, 9);
}

#[tokio::test]
async fn waiting_for_room_is_bounded() {
    let (rig, queue, slot, _user) = setup(waiting(1, 100 * MS)).await;
    rig.cache.faults().hold(FaultPoint::Write);
    assert_eq!(offer(&queue, &slot, 0), Pushed::Queued);
    let waiter = tokio::spawn({
        let (queue, cookie, tag) = (queue.clone(), Arc::clone(cookie(&slot)), tag(&slot));
        async move { queue.push(&cookie, PAGE, page_of(5), tag).await }
    });
    rig.pass(99 * MS).await;
    assert!(!waiter.is_finished());
    rig.pass(MS).await;
    assert_eq!(waiter.await.expect("ran"), Pushed::Dropped);
    assert_eq!(rig.counters.snapshot().fill_dropped_bytes, PAGE);
    rig.cache.faults().release(FaultPoint::Write);
}

#[tokio::test]
async fn a_fill_larger_than_the_queue_is_let_in_alone() {
    let (_rig, queue, slot, _user) = setup(config(1)).await;
    let data = [page_of(5), page_of(5)].concat();
    assert_eq!(queue.try_push(cookie(&slot), 0, data, tag(&slot)), Pushed::Queued);
    queue.drain().await;
    assert!(stored(&slot, 0) && stored(&slot, 1));
}

/// Each part of the tag alone keeps a fill out.
#[tokio::test]
async fn n_c48_a_fill_from_before_a_change_is_not_stored() {
    let (rig, queue, slot, _user) = setup(config(64)).await;
    let fetched_before = tag(&slot);
    slot.invalidate(ident(1), false);
    let other_version = FillTag { identity: ident(2), ..tag(&slot) };
    let disowned = FillTag { still_ok: Box::new(|_| StillOk::No), ..tag(&slot) };
    for (page, tag) in (0..).zip([fetched_before, other_version, disowned]) {
        queue.try_push(cookie(&slot), page * PAGE, page_of(5), tag);
        queue.drain().await;
        assert!(!stored(&slot, page), "tag {page}");
    }
    let stats = rig.counters.snapshot();
    assert_eq!((stats.fill_stale_bytes, stats.cache_write), (3 * PAGE, 0));
    offer(&queue, &slot, 3);
    queue.drain().await;
    assert!(stored(&slot, 3), "the tag that is right gets in");
}

#[tokio::test]
async fn n_c48_a_fill_overtaken_by_an_invalidation_on_its_way_has_no_effect() {
    let (rig, queue, slot, _user) = setup(config(64)).await;
    rig.cache.faults().hold(FaultPoint::Write);
    offer(&queue, &slot, 0);
    until(|| rig.cache.faults().waiting(FaultPoint::Write) == 1).await;
    slot.invalidate(ident(1), false);
    rig.cache.faults().release(FaultPoint::Write);
    queue.drain().await;
    assert!(!stored(&slot, 0));
    assert_eq!(rig.counters.snapshot().fill_stale_bytes, PAGE);
}

/// Of four fills two are on their way when the owner changes pages 1 and 3, and two are queued.
#[tokio::test]
async fn row_108_an_own_change_voids_the_fills_it_meets_and_the_others_go_on() {
    let (rig, queue, slot, _user) = setup(FillConfig { writes_max: 2, ..config(64) }).await;
    rig.cache.faults().hold(FaultPoint::Write);
    (0..4).for_each(|page| assert_eq!(offer(&queue, &slot, page), Pushed::Queued));
    until(|| rig.cache.faults().waiting(FaultPoint::Write) == 2).await;
    let changed = [PAGE + 5..PAGE + 6, 3 * PAGE..u64::MAX];
    let renamed = Identity { size: 9 * PAGE, ..ident(2) };
    slot.modified(renamed.clone(), &changed);
    // Of the version before, offered too late: nobody knows what it is about.
    offer(&queue, &slot, 4);
    let tag_of_now = FillTag { identity: renamed, ..tag(&slot) };
    queue.try_push(cookie(&slot), 5 * PAGE, page_of(5), tag_of_now);
    rig.cache.faults().release(FaultPoint::Write);
    let ended = tokio::spawn({
        let queue = queue.clone();
        async move { queue.drain().await }
    });
    while !ended.is_finished() {
        // Who was overtaken tries again after a pause.
        rig.pass(10 * MS).await;
    }
    let there: Vec<bool> = (0..6).map(|page| stored(&slot, page)).collect();
    assert_eq!(there, [true, false, true, false, false, true]);
    let stats = rig.counters.snapshot();
    assert_eq!((stats.fill_stale_bytes, stats.fill_dropped_bytes), (3 * PAGE, 0));
    assert_eq!(stats.invalidates, 0);
}

#[tokio::test]
async fn the_cores_test_is_asked_at_the_time_of_the_write() {
    let rig = Rig::new().await;
    let queue = FillQueue::new(Arc::clone(&rig.fscache), config(64));
    rig.cache.faults().hold(FaultPoint::Lookup);
    let slot = rig.cookie(ident(1));
    let _user = slot.use_cookie(false);
    let good = Arc::new(AtomicBool::new(true));
    let ask = Arc::clone(&good);
    let still_ok = Box::new(
        move |_: &Identity| {
            if ask.load(Ordering::SeqCst) { StillOk::Yes } else { StillOk::No }
        },
    );
    queue.try_push(cookie(&slot), 0, page_of(5), FillTag { still_ok, ..tag(&slot) });
    settle().await;
    good.store(false, Ordering::SeqCst);
    rig.cache.faults().release(FaultPoint::Lookup);
    queue.drain().await;
    assert!(!stored(&slot, 0));
}

#[tokio::test]
async fn n_c76_hung_writes_give_their_place_to_others_after_a_while() {
    let limits = FillConfig { writes_max: 1, ..config(64) };
    let (rig, queue, slot, _user) = setup(limits).await;
    rig.cache.faults().hold(FaultPoint::Write);
    offer(&queue, &slot, 0);
    offer(&queue, &slot, 1);
    settle().await;
    assert_eq!(rig.cache.faults().waiting(FaultPoint::Write), 1, "one at a time");
    rig.pass(limits.stuck_after).await;
    assert_eq!(rig.cache.faults().waiting(FaultPoint::Write), 2);
    assert_eq!(queue.queued_bytes(), 2 * PAGE, "hung writes still hold memory");
    rig.cache.faults().release(FaultPoint::Write);
    queue.drain().await;
}

/// A disk that is merely slow: writes that outlast `stuck_after` give their places up, so more are under
/// way than the cache takes. It refuses those, and gets them again when it has room.
#[tokio::test]
async fn what_a_slow_cache_is_too_busy_for_is_stored_when_it_has_room() {
    let limits = FillConfig { writes_max: 2, ..waiting(64, PATIENCE) };
    let (rig, queue, slot, _user) = setup(limits).await;
    rig.cache.faults().hold(FaultPoint::Write);
    rig.cache.faults().writes_max(Some(3));
    for page in 0..8 {
        assert_eq!(offer(&queue, &slot, page), Pushed::Queued);
    }
    rig.pass(limits.stuck_after).await;
    rig.pass(limits.stuck_after).await;
    assert_eq!(rig.cache.faults().waiting(FaultPoint::Write), 3, "all that it takes");
    let stats = rig.counters.snapshot();
    assert!(stats.cache_refusals > 0, "and was asked for more");
    assert_eq!((stats.fill_dropped_bytes, queue.queued_bytes()), (0, 8 * PAGE));
    rig.cache.faults().release(FaultPoint::Write);
    queue.drain().await;
    assert!((0..8).all(|page| stored(&slot, page)));
    let stats = rig.counters.snapshot();
    assert_eq!((stats.cache_write_bytes, stats.fill_dropped_bytes), (8 * PAGE, 0));
}

/// It may be busy with reads, which end unnoticed: it is asked again after a pause, and for so long.
#[tokio::test]
async fn a_cache_that_stays_too_busy_is_given_up_and_that_is_counted() {
    let (rig, queue, slot, _user) = setup(waiting(64, PATIENCE)).await;
    rig.cache.faults().writes_max(Some(0));
    offer(&queue, &slot, 0);
    rig.pass(PATIENCE - MS).await;
    assert_eq!(queue.queued_bytes(), PAGE);
    rig.cache.faults().writes_max(None);
    rig.pass(MS).await;
    assert!(stored(&slot, 0), "asked again without another fill's end");

    rig.cache.faults().writes_max(Some(0));
    offer(&queue, &slot, 1);
    for _ in 0..2 {
        rig.pass(PATIENCE).await;
    }
    assert_eq!((queue.queued_bytes(), stored(&slot, 1)), (0, false));
    assert_eq!(rig.counters.snapshot().fill_dropped_bytes, PAGE);
}

/// With `Wait`, a lookup may take as long as room in the queue; and a lookup that hangs holds no place
/// among the writes.
#[tokio::test]
async fn a_queue_that_waits_waits_for_a_slow_lookup_as_long_and_holds_up_no_other_file() {
    let limits = FillConfig { writes_max: 1, ..waiting(64, PATIENCE) };
    let (rig, queue, other, _user) = setup(limits).await;
    rig.cache.faults().hold(FaultPoint::Lookup);
    let slow = rig.volume.acquire_cookie(b"slow", ident(1)).expect("free");
    let _slow_user = slow.use_cookie(false);
    offer(&queue, &slow, 0);
    offer(&queue, &other, 0);
    rig.pass(PATIENCE - MS).await;
    assert!(stored(&other, 0));
    assert_eq!(queue.queued_bytes(), PAGE);
    rig.cache.faults().release(FaultPoint::Lookup);
    queue.drain().await;
    assert!(stored(&slow, 0));
}

#[tokio::test]
async fn a_queued_fill_is_stored_though_its_file_goes_away_meanwhile() {
    let limits = FillConfig { writes_max: 1, ..waiting(64, PATIENCE) };
    let (rig, queue, slot, user) = setup(limits).await;
    rig.cache.faults().hold(FaultPoint::Write);
    offer(&queue, &slot, 0);
    offer(&queue, &slot, 1);
    settle().await;
    slot.relinquish(Relinquish::Keep);
    drop((slot, user));
    rig.cache.faults().release(FaultPoint::Write);
    queue.drain().await;
    let (_, pages) = rig.cache.stored(&volume_id(), KEY).expect("stored");
    assert_eq!((pages, rig.counters.snapshot().fill_dropped_bytes), (2, 0));
}

/// N-C44: what a shutdown gives up must not keep the objects from being closed.
#[tokio::test]
async fn a_shutdown_out_of_patience_lets_go_of_what_is_not_being_written_yet() {
    let limits = FillConfig { writes_max: 1, ..waiting(64, PATIENCE) };
    let (rig, queue, slot, _user) = setup(limits).await;
    rig.cache.faults().hold(FaultPoint::Write);
    assert_eq!([0, 1, 2].map(|page| offer(&queue, &slot, page)), [Pushed::Queued; 3]);
    settle().await;
    assert_eq!(cookie(&slot).describe().n_accesses, 3);
    let end = tokio::spawn({
        let queue = queue.clone();
        async move { queue.shutdown(MS).await }
    });
    rig.pass(MS).await;
    assert_eq!(end.await.expect("ran"), 3 * PAGE);
    settle().await;
    assert_eq!(cookie(&slot).describe().n_accesses, 1, "the one that hangs in the cache");
    rig.cache.faults().release(FaultPoint::Write);
    queue.drain().await;
    assert_eq!(rig.cache.faults().calls(FaultPoint::Write), 1);
}

#[tokio::test]
async fn refused_writes_are_counted_and_change_nothing() {
    let (rig, queue, slot, _user) = setup(config(64)).await;
    rig.cache.faults().refuse(FaultPoint::Write, Some(Refusal::NoSpace));
    offer(&queue, &slot, 0);
    queue.drain().await;
    let stats = rig.counters.snapshot();
    assert_eq!((stats.cache_write_failed, stats.fill_dropped_bytes), (1, PAGE));
    assert_eq!(queue.try_push(cookie(&slot), 1, page_of(5), tag(&slot)), Pushed::Refused);
    let half = vec![Slice::from_bytes(&[5; 100])];
    assert_eq!(queue.try_push(cookie(&slot), 0, half, tag(&slot)), Pushed::Refused);
    assert_eq!(queue.try_push(cookie(&slot), 0, Vec::new(), tag(&slot)), Pushed::Refused);
}

#[tokio::test]
async fn drain_does_not_wait_for_what_is_queued_after_it() {
    let (rig, queue, slot, _user) = setup(config(64)).await;
    rig.cache.faults().hold(FaultPoint::Write);
    offer(&queue, &slot, 0);
    until(|| rig.cache.faults().waiting(FaultPoint::Write) == 1).await;
    let drain = tokio::spawn({
        let queue = queue.clone();
        async move { queue.drain().await }
    });
    settle().await;
    assert!(!drain.is_finished());
    rig.cache.faults().release(FaultPoint::Write);
    rig.cache.faults().hold(FaultPoint::Write);
    offer(&queue, &slot, 1);
    drain.await.expect("ends although page 1 hangs");
    until(|| rig.cache.faults().waiting(FaultPoint::Write) == 1).await;
    rig.cache.faults().release(FaultPoint::Write);
}

#[tokio::test]
async fn shutdown_drains_or_counts_what_is_left() {
    let (rig, queue, slot, _user) = setup(config(64)).await;
    offer(&queue, &slot, 0);
    assert_eq!(queue.shutdown(MS).await, 0);
    assert!(stored(&slot, 0));
    assert_eq!(offer(&queue, &slot, 1), Pushed::Refused);
    assert_eq!(rig.counters.snapshot().fill_dropped_bytes, PAGE, "also that is counted");

    let queue = FillQueue::new(Arc::clone(&rig.fscache), config(64));
    rig.cache.faults().hold(FaultPoint::Write);
    offer(&queue, &slot, 1);
    let end = tokio::spawn({
        let queue = queue.clone();
        async move { queue.shutdown(MS).await }
    });
    rig.pass(MS).await;
    assert_eq!(end.await.expect("ran"), PAGE);
    assert_eq!(rig.counters.snapshot().fill_dropped_bytes, 2 * PAGE);
    rig.cache.faults().release(FaultPoint::Write);
}

/// What a shutdown has counted ends later: refused, out of patience or too late to be true.
#[tokio::test]
async fn what_a_shutdown_gave_up_is_counted_once_whatever_becomes_of_it() {
    for refusal in [Refusal::NoSpace, Refusal::Stale] {
        let (rig, queue, slot, _user) = setup(config(64)).await;
        rig.cache.faults().hold(FaultPoint::Write);
        offer(&queue, &slot, 0);
        rig.cache.faults().hold(FaultPoint::Lookup);
        let hung = rig.volume.acquire_cookie(b"hung", ident(1)).expect("free");
        let _hung_user = hung.use_cookie(false);
        offer(&queue, &hung, 0);
        settle().await;
        let end = tokio::spawn({
            let queue = queue.clone();
            async move { queue.shutdown(MS).await }
        });
        rig.pass(MS).await;
        assert_eq!(end.await.expect("ran"), 2 * PAGE);
        rig.cache.faults().refuse(FaultPoint::Write, Some(refusal));
        rig.cache.faults().release(FaultPoint::Write);
        rig.pass(1000 * MS).await;
        assert_eq!(queue.queued_bytes(), 0, "both have ended");
        let stats = rig.counters.snapshot();
        assert_eq!((stats.fill_dropped_bytes, stats.fill_stale_bytes), (2 * PAGE, 0));
    }
}

/// They hold their objects open, and no room will do any more.
#[tokio::test]
async fn a_shutdown_sends_those_away_who_wait_for_room_and_counts_their_bytes() {
    let (rig, queue, slot, _user) = setup(waiting(1, PATIENCE)).await;
    rig.cache.faults().hold(FaultPoint::Write);
    offer(&queue, &slot, 0);
    let waits = tokio::spawn({
        let (queue, cookie, tag) = (queue.clone(), Arc::clone(cookie(&slot)), tag(&slot));
        async move { queue.push(&cookie, PAGE, page_of(5), tag).await }
    });
    settle().await;
    assert_eq!(cookie(&slot).describe().n_accesses, 2);
    let end = tokio::spawn({
        let queue = queue.clone();
        async move { queue.shutdown(PATIENCE).await }
    });
    settle().await;
    assert!(waits.is_finished());
    assert_eq!(waits.await.expect("ran"), Pushed::Refused);
    assert_eq!(cookie(&slot).describe().n_accesses, 1);
    rig.cache.faults().release(FaultPoint::Write);
    assert_eq!(end.await.expect("ran"), 0);
    assert_eq!(rig.counters.snapshot().fill_dropped_bytes, PAGE);
}
