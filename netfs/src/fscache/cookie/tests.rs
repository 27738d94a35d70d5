//! The shell around the state machine, on a cache in memory and a stepped clock.

mod model;

use std::time::Duration;

use crate::{
    fscache::{
        CacheBackend, CookieSlot, CookieState, FaultPoint, Identity, Refusal, Relinquish,
        StillBusy, testing::*,
    },
    sync::Arc,
};

const MS: Duration = Duration::from_millis(1);
const DELAY: Duration = Duration::from_secs(10);

fn state(slot: &CookieSlot) -> CookieState {
    cookie(slot).describe().state
}

/// The object is open for a user and page 0 holds 1.
async fn filled(rig: &Rig) -> (CookieSlot, crate::fscache::CookieUse) {
    let (slot, user) = rig.open(ident(1)).await;
    let access = slot.try_begin().expect("open");
    assert_eq!(write(&access, 0, 1), Some(Ok(())));
    (slot, user)
}

#[tokio::test]
async fn n_c53_what_was_filled_is_read_by_the_next_access() {
    let rig = Rig::new().await;
    let (slot, _user) = rig.open(ident(1)).await;
    let first = slot.try_begin().expect("open");
    assert_eq!(read(&first, 0), None);
    assert_eq!(write(&first, 0, 7), Some(Ok(())));
    drop(first);
    assert_eq!(read(&slot.try_begin().expect("open"), 0), Some(7));
}

#[tokio::test]
async fn a_lookup_that_is_too_slow_is_not_waited_for_but_serves_later() {
    let rig = Rig::new().await;
    rig.cache.faults().hold(FaultPoint::Lookup);
    let slot = rig.cookie(ident(1));
    let _user = slot.use_cookie(false);
    assert!(slot.try_begin().is_none());
    let waiter = tokio::spawn({
        let cookie = Arc::clone(cookie(&slot));
        async move { cookie.begin(None).await.map(drop) }
    });
    rig.pass(19 * MS).await;
    assert!(!waiter.is_finished(), "cache_wait is 20 ms");
    rig.pass(MS).await;
    assert_eq!(waiter.await.expect("ran"), Err(Refusal::TimedOut));
    assert_eq!(rig.counters.snapshot().cache_wait_timeouts, 1);

    rig.cache.faults().release(FaultPoint::Lookup);
    until(|| slot.try_begin().is_some()).await;
    assert_eq!(rig.cache.faults().calls(FaultPoint::Lookup), 1);
}

#[tokio::test]
async fn the_callers_own_deadline_counts_if_it_is_earlier() {
    let rig = Rig::new().await;
    rig.cache.faults().hold(FaultPoint::Lookup);
    let slot = rig.cookie(ident(1));
    let _user = slot.use_cookie(false);
    let now = crate::clock::Clock::now(&rig.clock);
    assert_eq!(slot.begin(Some(now)).await.map(drop), Err(Refusal::TimedOut));
}

#[tokio::test]
async fn n_c76_a_hung_object_does_not_keep_others_from_being_read() {
    let rig = Rig::new().await;
    let (other, _other_user) = rig.open(ident(1)).await;
    rig.cache.faults().hold(FaultPoint::Lookup);
    let hung = rig.volume.acquire_cookie(b"hung", ident(1)).expect("free");
    let _user = hung.use_cookie(false);
    settle().await;
    assert!(hung.try_begin().is_none());
    assert!(other.try_begin().is_some());
}

#[tokio::test]
async fn n_c46_an_unused_object_is_closed_after_the_delay_and_not_earlier() {
    let rig = Rig::new().await;
    let (slot, user) = rig.open(ident(1)).await;
    rig.pass(DELAY).await;
    assert_eq!(state(&slot), CookieState::Active, "in use");
    user.unuse(None);
    rig.pass(DELAY - MS).await;
    assert_eq!(state(&slot), CookieState::Active, "too early");
    rig.pass(MS).await;
    until(|| state(&slot) == CookieState::Quiescent).await;
    assert_eq!(rig.cache.stats().objects_open, 0);
    assert_eq!(rig.fscache.lru().len(), 0);

    // It comes back with the next user.
    let _user = slot.use_cookie(false);
    assert!(slot.begin(None).await.is_ok());
}

#[tokio::test]
async fn n_c45_storms_of_use_and_unuse_close_nothing_and_leave_one_lru_entry() {
    let rig = Rig::new().await;
    let (slot, user) = rig.open(ident(1)).await;
    user.unuse(None);
    for _ in 0..50 {
        rig.pass(Duration::from_secs(1)).await;
        slot.use_cookie(false).unuse(None);
        assert!(rig.fscache.lru().len() <= 1);
        assert!(slot.try_begin().is_some(), "still open");
    }
    assert_eq!(rig.cache.faults().calls(FaultPoint::Lookup), 1);
    rig.pass(DELAY).await;
    until(|| state(&slot) == CookieState::Quiescent).await;
}

#[tokio::test]
async fn n_c45_a_use_during_the_discard_looks_the_object_up_again() {
    let rig = Rig::new().await;
    let (slot, user) = filled(&rig).await;
    user.unuse(None);
    rig.cache.faults().hold(FaultPoint::Close);
    rig.pass(DELAY).await;
    assert_eq!(state(&slot), CookieState::LruDiscarding);
    let _user = slot.use_cookie(false);
    assert!(slot.try_begin().is_none());
    rig.cache.faults().release(FaultPoint::Close);
    let access = slot.begin(None).await.expect("opened again");
    assert_eq!(read(&access, 0), Some(1), "what was stored is still there");
}

#[tokio::test]
async fn an_access_under_way_keeps_the_object_from_being_closed() {
    let rig = Rig::new().await;
    let (slot, user) = filled(&rig).await;
    let access = slot.try_begin().expect("open");
    user.unuse(None);
    rig.pass(DELAY).await;
    assert_eq!(rig.cache.faults().calls(FaultPoint::Close), 0);
    assert_eq!(read(&access, 0), Some(1));
    drop(access);
    until(|| rig.cache.stats().objects_open == 0).await;
}

#[tokio::test]
async fn n_c44_a_late_word_of_an_earlier_drain_closes_nothing_under_a_reader() {
    let rig = Rig::new().await;
    let (slot, user) = filled(&rig).await;
    let access = slot.try_begin().expect("open");
    drop(user);
    rig.pass(DELAY).await;
    assert_eq!(state(&slot), CookieState::LruDiscarding);
    // As said by an access that left before the gate was opened and closed once more.
    cookie(&slot).access_drained();
    settle().await;
    assert_eq!(rig.cache.faults().calls(FaultPoint::Close), 0);
    assert_eq!(read(&access, 0), Some(1));
}

#[tokio::test]
async fn n_c47_a_key_has_one_live_cookie_and_its_next_one_waits_for_the_object_to_be_closed() {
    let rig = Rig::new().await;
    let (old, user) = filled(&rig).await;
    let duplicate = rig.volume.acquire_cookie(KEY, ident(1)).map(|_| ());
    assert!(duplicate.is_err_and(|e| e.key == KEY), "live");
    assert_eq!(rig.counters.snapshot().cookie_collisions, 1);

    rig.cache.faults().hold(FaultPoint::Close);
    drop(user);
    old.relinquish(Relinquish::Keep);
    let new = rig.cookie(ident(1));
    let _user = new.use_cookie(false);
    settle().await;
    assert_eq!(rig.cache.faults().calls(FaultPoint::Lookup), 1, "the old object is still open");
    rig.cache.faults().release(FaultPoint::Close);
    let access = new.begin(None).await.expect("opens once the old one is closed");
    assert_eq!(read(&access, 0), Some(1));
}

#[tokio::test]
async fn n_c47_a_cookie_that_never_looked_up_does_not_hide_the_one_before_it() {
    let rig = Rig::new().await;
    let (first, user) = filled(&rig).await;
    rig.cache.faults().hold(FaultPoint::Close);
    drop(user);
    drop(first);
    drop(rig.cookie(ident(1)));
    let third = rig.cookie(ident(1));
    let _user = third.use_cookie(false);
    settle().await;
    assert_eq!(rig.cache.faults().calls(FaultPoint::Lookup), 1);
    rig.cache.faults().release(FaultPoint::Close);
    assert!(third.begin(None).await.is_ok());
}

/// The states an invalidation can meet; each brings a filled cookie there.
#[derive(Clone, Copy, Debug)]
enum Meets {
    Active,
    ActiveIdle,
    Quiescent,
    LookingUp,
    LruDiscarding,
    Withdrawn,
    WithdrawnFor,
    CutOverRefused,
}

async fn bring(rig: &Rig, slot: &CookieSlot, user: crate::fscache::CookieUse, to: Meets) {
    let faults = rig.cache.faults();
    match to {
        Meets::Active => {}
        Meets::ActiveIdle => drop(user),
        Meets::Quiescent => {
            drop(user);
            rig.pass(DELAY).await;
            until(|| state(slot) == CookieState::Quiescent).await;
        }
        Meets::LookingUp => {
            drop(user);
            rig.pass(DELAY).await;
            until(|| state(slot) == CookieState::Quiescent).await;
            faults.hold(FaultPoint::Lookup);
            let user = slot.use_cookie(false);
            until(|| faults.waiting(FaultPoint::Lookup) == 1).await;
            drop(user);
        }
        Meets::LruDiscarding => {
            drop(user);
            faults.hold(FaultPoint::Close);
            rig.pass(DELAY).await;
            assert_eq!(state(slot), CookieState::LruDiscarding);
        }
        Meets::Withdrawn => {
            faults.hold(FaultPoint::Close);
            let (fscache, clock) = (Arc::clone(&rig.fscache), rig.clock.clone());
            let task = tokio::spawn(async move { fscache.withdraw(MS).await });
            until(|| faults.waiting(FaultPoint::Close) == 1).await;
            clock.advance(MS);
            assert_eq!(task.await.expect("ran"), Err(StillBusy));
            assert_eq!(state(slot), CookieState::Withdrawing);
        }
        Meets::WithdrawnFor => {
            rig.fscache.withdraw(PATIENCE).await.expect("idle");
            assert_eq!(state(slot), CookieState::Quiescent);
        }
        Meets::CutOverRefused => faults.refuse(FaultPoint::CutOver, Some(Refusal::NoSpace)),
    }
}

/// N-C48: whatever state it meets, and whether or not the identity changes, nothing from before is
/// read afterwards: not by accesses under way, not after the object was opened again.
#[tokio::test]
async fn n_c48_an_invalidation_in_any_state_voids_all_that_was_stored() {
    use Meets::*;
    let states = [
        Active,
        ActiveIdle,
        Quiescent,
        LookingUp,
        LruDiscarding,
        Withdrawn,
        WithdrawnFor,
        CutOverRefused,
    ];
    for (to, identity) in states.into_iter().flat_map(|s| [(s, ident(1)), (s, ident(2))]) {
        let rig = Rig::new().await;
        let (slot, user) = filled(&rig).await;
        bring(&rig, &slot, user, to).await;
        let under_way = slot.try_begin();
        slot.invalidate(identity.clone(), false);
        if let Some(access) = under_way {
            assert!(!access.is_current(), "{to:?}");
            assert_eq!(read(&access, 0), None, "{to:?}");
        }
        let faults = rig.cache.faults();
        for point in [FaultPoint::Lookup, FaultPoint::Close] {
            faults.release(point);
        }
        settle().await;
        faults.refuse(FaultPoint::CutOver, None);
        if matches!(to, Withdrawn | WithdrawnFor) {
            rig.fscache.attach(backend(&rig.cache.restart()), PATIENCE).await.expect("attaches");
        }
        // Through the same cookie, then through another one on what was stored.
        assert_void(&rig, &slot, &identity, to).await;
        slot.relinquish(Relinquish::Keep);
        settle().await;
        assert_void(&rig, &rig.cookie(identity.clone()), &identity, to).await;
    }
}

async fn assert_void(rig: &Rig, slot: &CookieSlot, identity: &Identity, to: Meets) {
    let _user = slot.use_cookie(false);
    let Ok(access) = slot.begin(None).await else {
        panic!("{to:?}: does not come back: {:?}", slot.describe());
    };
    assert_eq!(read(&access, 0), None, "{to:?} with {identity:?}");
    assert_eq!(access.object().identity(), *identity, "{to:?}");
    drop(access);
    rig.pass(DELAY).await;
}

/// N-C48 across cookies: an invalidation under the same identity that could not be carried out before
/// its cookie went away is remembered for the key.
#[tokio::test]
async fn n_c48_the_next_cookie_inherits_what_could_not_be_voided() {
    let rig = Rig::new().await;
    let (slot, user) = filled(&rig).await;
    drop(user);
    rig.pass(DELAY).await;
    until(|| state(&slot) == CookieState::Quiescent).await;
    rig.fscache.withdraw(PATIENCE).await.expect("idle");
    slot.invalidate(ident(1), false);
    drop(slot);
    rig.fscache.attach(backend(&rig.cache.restart()), PATIENCE).await.expect("free");
    let (slot, _user) = rig.open(ident(1)).await;
    assert_eq!(read(&slot.try_begin().expect("open"), 0), None);
}

#[tokio::test]
async fn n_c50_a_dio_invalidation_keeps_caching_off_until_the_last_user_has_left() {
    let rig = Rig::new().await;
    let (slot, first) = filled(&rig).await;
    let second = slot.use_cookie(true);
    slot.invalidate(ident(2), true);
    settle().await;
    assert_eq!(slot.begin(None).await.map(drop), Err(Refusal::Disabled));
    drop(first);
    let third = slot.use_cookie(false);
    drop(second);
    assert_eq!(slot.begin(None).await.map(drop), Err(Refusal::Disabled), "a user is left");
    drop(third);
    let _user = slot.use_cookie(false);
    let access = slot.begin(None).await.expect("on again");
    assert_eq!(read(&access, 0), None);
}

#[tokio::test]
async fn n_c51_a_retired_object_is_gone_from_the_cache_also_when_it_was_not_open() {
    for open in [true, false] {
        let rig = Rig::new().await;
        let (slot, user) = filled(&rig).await;
        assert!(rig.cache.stored(&volume_id(), KEY).is_some());
        drop(user);
        if !open {
            rig.pass(DELAY).await;
            until(|| state(&slot) == CookieState::Quiescent).await;
        }
        slot.relinquish(Relinquish::Retire);
        let gone = Arc::clone(cookie(&slot));
        gone.dropped().await;
        assert!(rig.cache.stored(&volume_id(), KEY).is_none());
        assert_eq!(rig.cache.stats().objects_open, 0);
    }
}

#[tokio::test]
async fn a_relinquished_object_is_committed_and_serves_the_next_cookie() {
    let rig = Rig::new().await;
    let (slot, user) = filled(&rig).await;
    drop((user, slot));
    let (slot, _user) = rig.open(ident(1)).await;
    assert_eq!(read(&slot.try_begin().expect("open"), 0), Some(1));
    slot.relinquish(Relinquish::Keep);
    slot.relinquish(Relinquish::Retire); // warns
    assert_eq!(rig.counters.snapshot().retires, 0);
}

#[tokio::test]
async fn n_c52_keys_and_coherency_data_of_any_length_have_a_defined_result() {
    let rig = Rig::new().await;
    for (len, valid) in [(0, false), (1, true), (252, true), (253, true), (255, true), (256, false)]
    {
        let slot = rig.volume.acquire_cookie(&vec![b'k'; len], ident(1)).expect("free");
        assert_eq!(slot.cookie().is_some(), valid, "key of {len} bytes");
        let _user = slot.use_cookie(false);
        assert_eq!(slot.begin(None).await.is_ok(), valid, "key of {len} bytes");
        let aux = Identity { aux: vec![1; len].into(), size: 1 };
        let key = [b'a', u8::try_from(len % 251).expect("small")];
        let slot = rig.volume.acquire_cookie(&key, aux).expect("free");
        assert_eq!(slot.cookie().is_some(), len <= 255, "aux of {len} bytes");
    }
}

#[tokio::test]
async fn n_c54_every_call_on_no_cookie_does_nothing() {
    let slot = CookieSlot::none();
    let user = slot.use_cookie(true);
    assert!(slot.try_begin().is_none());
    assert_eq!(slot.begin(None).await.map(drop), Err(Refusal::Disabled));
    slot.invalidate(ident(1), true);
    slot.update(ident(2));
    slot.modified(ident(3), &[]);
    assert_eq!(slot.inval_counter(), 0);
    assert!(slot.describe().is_none());
    user.unuse(Some(ident(4)));
    slot.relinquish(Relinquish::Retire);
    slot.relinquish(Relinquish::Retire);
}

#[tokio::test]
async fn row_108_an_update_keeps_the_content_under_its_new_name() {
    let rig = Rig::new().await;
    let (slot, user) = filled(&rig).await;
    slot.update(ident(2));
    assert_eq!(read(&slot.begin(None).await.expect("open"), 0), Some(1));
    assert_eq!(rig.cache.stored(&volume_id(), KEY).map(|s| s.0), Some(ident(2)));
    // A backend that cannot rename loses the content instead, and nothing else.
    rig.cache.faults().refuse(FaultPoint::SetIdentity, Some(Refusal::Unsupported));
    user.unuse(Some(ident(3)));
    let access = slot.begin(None).await.expect("open");
    assert_eq!(read(&access, 0), None);
    assert_eq!(access.object().identity(), ident(3));
}

#[tokio::test]
async fn row_108_an_update_while_nothing_is_open_does_not_rename_what_is_stored() {
    let rig = Rig::new().await;
    let (slot, user) = filled(&rig).await;
    drop(user);
    rig.pass(DELAY).await;
    until(|| state(&slot) == CookieState::Quiescent).await;
    slot.update(ident(2));
    let _user = slot.use_cookie(false);
    assert_eq!(read(&slot.begin(None).await.expect("open"), 0), None);
}

#[tokio::test]
async fn n_c73_a_resize_forgets_the_pages_at_the_old_and_past_the_new_end() {
    let rig = Rig::new().await;
    let size = |bytes: u64| Identity { size: bytes, ..ident(1) };
    let (slot, _user) = rig.open(size(3 * 4096 + 100)).await;
    for page in 0..4 {
        assert_eq!(write(&slot.try_begin().expect("open"), page, 9), Some(Ok(())));
    }
    let there = |slot: &CookieSlot| {
        let access = slot.try_begin().expect("open");
        (0..4).map(|page| read(&access, page).is_some()).collect::<Vec<_>>()
    };
    assert_eq!(there(&slot), [true; 4]);
    slot.modified(size(4 * 4096), &[]);
    assert_eq!(there(&slot), [true, true, true, false], "growth: the old tail page is unknown");
    slot.modified(size(4096 + 1), &[]);
    slot.modified(size(4 * 4096), &[]);
    assert_eq!(there(&slot), [true, false, false, false], "shrunk and grown again");
    assert_eq!(rig.counters.snapshot().resizes, 3);
}

#[tokio::test]
async fn n_c44_after_a_withdrawal_no_backend_call_runs_or_starts_and_users_go_on_uncached() {
    let rig = Rig::new().await;
    let (slot, _user) = filled(&rig).await;
    let access = slot.try_begin().expect("open");
    let withdrawal = tokio::spawn({
        let fscache = Arc::clone(&rig.fscache);
        async move { fscache.withdraw(PATIENCE).await }
    });
    settle().await;
    assert!(!withdrawal.is_finished(), "an access is under way");
    assert!(slot.try_begin().is_none(), "none is let in any more");
    assert_eq!(rig.cache.faults().calls(FaultPoint::Close), 0);
    drop(access);
    withdrawal.await.expect("ran").expect("in time");
    assert_eq!(rig.cache.stats().objects_open, 0, "committed and closed");

    let calls = |rig: &Rig| {
        use FaultPoint::*;
        [AcquireVolume, Lookup, Read, Write, CutOver, SetIdentity, Close]
            .map(|p| rig.cache.faults().calls(p))
    };
    let before = calls(&rig);
    let _more = slot.use_cookie(false);
    assert_eq!(slot.begin(None).await.map(drop), Err(Refusal::Disabled));
    slot.update(ident(1));
    let other = rig.volume.acquire_cookie(b"other", ident(1)).expect("free");
    let _other_user = other.use_cookie(false);
    settle().await;
    assert_eq!(calls(&rig), before);

    // A cache comes back: the cookies in use, too.
    rig.fscache.attach(backend(&rig.cache.restart()), PATIENCE).await.expect("free");
    assert_eq!(read(&slot.begin(None).await.expect("open again"), 0), Some(1));
    assert!(other.begin(None).await.is_ok());
}

#[tokio::test]
async fn n_c44_a_withdrawal_from_a_hung_cache_is_bounded_and_late_answers_are_thrown_away() {
    let rig = Rig::new().await;
    rig.cache.faults().hold(FaultPoint::Lookup);
    let slot = rig.cookie(ident(1));
    let _user = slot.use_cookie(false);
    until(|| rig.cache.faults().waiting(FaultPoint::Lookup) == 1).await;
    let withdrawal = tokio::spawn({
        let fscache = Arc::clone(&rig.fscache);
        async move { fscache.withdraw(Duration::from_secs(1)).await }
    });
    rig.pass(Duration::from_secs(1)).await;
    assert_eq!(withdrawal.await.expect("ran"), Err(StillBusy));
    assert_eq!(slot.begin(None).await.map(drop), Err(Refusal::Disabled), "nobody waits for it");
    rig.cache.faults().release(FaultPoint::Lookup);
    until(|| state(&slot) == CookieState::Quiescent).await;
    assert_eq!(rig.cache.stats().objects_open, 0);
}

#[tokio::test]
async fn n_c67_a_cache_that_falls_ill_loses_every_user_with_the_next_operation() {
    let rig = Rig::new().await;
    let (slot, _user) = filled(&rig).await;
    rig.cache.faults().sick(Some(Refusal::IoError));
    assert!(slot.try_begin().is_none());
    assert_eq!(slot.begin(None).await.map(drop), Err(Refusal::IoError));
    assert_eq!(cookie(&slot).describe().n_accesses, 0, "N-C43");
    let other = rig.volume.acquire_cookie(b"other", ident(1)).expect("free");
    let _other_user = other.use_cookie(false);
    assert_eq!(other.begin(None).await.map(drop), Err(Refusal::Disabled));
    assert_eq!(rig.cache.faults().calls(FaultPoint::Lookup), 1, "no new work for an ill cache");
    rig.cache.faults().sick(None);
    assert!(slot.try_begin().is_some());
}

#[tokio::test]
async fn a_refused_lookup_is_tried_again_for_the_next_users_only() {
    let rig = Rig::new().await;
    rig.cache.faults().refuse(FaultPoint::Lookup, Some(Refusal::Descriptors));
    let slot = rig.cookie(ident(1));
    let user = slot.use_cookie(false);
    until(|| state(&slot) == CookieState::Failed).await;
    rig.cache.faults().refuse(FaultPoint::Lookup, None);
    let second = slot.use_cookie(false);
    assert_eq!(slot.begin(None).await.map(drop), Err(Refusal::Descriptors));
    assert_eq!(rig.counters.snapshot().cache_refusals, 1);
    drop((user, second));
    let _user = slot.use_cookie(false);
    assert!(slot.begin(None).await.is_ok());
}

#[tokio::test]
async fn row_116_a_cookie_tells_about_itself() {
    let rig = Rig::new().await;
    let (slot, _user) = rig.open(ident(1)).await;
    let _writer = slot.use_cookie(true);
    let _access = slot.try_begin().expect("open");
    let infos = rig.volume.cookies();
    assert_eq!(infos.len(), 1);
    let info = &infos[0];
    assert_eq!((info.state.letter(), info.n_active, info.n_modifying), ('A', 2, 1));
    assert_eq!((info.n_accesses, info.key.as_ref(), &info.identity), (1, KEY, &ident(1)));
    assert_eq!(rig.volume.describe().cache.as_deref(), Some("memory"));
}

/// Real threads: what is read through an access that is still current afterwards was written under the
/// same invalidation counter, and every access is counted out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n_c43_n_c48_readers_and_fillers_race_with_invalidations_on_threads() {
    let rig = Rig::new().await;
    let (slot, _user) = rig.open(ident(0)).await;
    let read_bytes = std::sync::atomic::AtomicU64::new(0);
    let done = std::sync::atomic::AtomicBool::new(false);
    let order = std::sync::atomic::Ordering::SeqCst;
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                while !done.load(order) || read_bytes.load(order) == 0 {
                    let Some(access) = slot.try_begin() else { continue };
                    let era = u8::try_from(access.inval_counter() % 251).expect("small");
                    if let Some(byte) = read(&access, 0) {
                        assert_eq!(byte, era, "N-C48");
                        read_bytes.fetch_add(1, order);
                    }
                    let _ = write(&access, 0, era);
                }
            });
        }
        for n in 0..2000u32 {
            slot.invalidate(ident(u8::try_from(n % 3).expect("small")), false);
            drop(slot.use_cookie(false));
            std::thread::yield_now();
        }
        done.store(true, order);
    });
    let info = cookie(&slot).describe();
    assert_eq!((info.n_accesses, info.n_active, info.inval_counter), (0, 1, 2000));
    rig.fscache.withdraw(PATIENCE).await.expect("nothing is left inside");
}
