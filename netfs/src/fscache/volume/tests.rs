//! Volumes over the life of caches that come, go and refuse.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    fscache::{
        FaultPoint, MemCache, NullCache, Refusal, Relinquish, StillBusy, VolumeError, testing::*,
        volume::Over,
    },
    sync::Arc,
};

#[tokio::test]
async fn row_94_a_live_volume_is_not_acquired_twice() {
    let rig = Rig::new().await;
    let second = rig.fscache.acquire_volume(volume_id(), Bytes::new()).await.map(drop);
    assert_eq!(second, Err(VolumeError::InUse(volume_id())));
    assert_eq!(rig.counters.snapshot().volume_collisions, 1);
}

#[tokio::test]
async fn row_94_a_relinquished_volume_is_waited_for() {
    let rig = Rig::new().await;
    let (slot, user) = rig.open(ident(1)).await;
    write(&slot.try_begin().expect("open"), 0, 1);
    drop((slot, user));
    settle().await;
    let (fscache, volume) = (Arc::clone(&rig.fscache), Arc::clone(&rig.volume));
    rig.cache.faults().hold(FaultPoint::Close);
    let (_slot, user) = rig.open(ident(1)).await;
    drop(user);
    let end = tokio::spawn(async move {
        fscache.relinquish_volume(&volume, Relinquish::Keep, Duration::from_secs(1)).await
    });
    settle().await;
    let fscache = Arc::clone(&rig.fscache);
    let again =
        tokio::spawn(async move { fscache.acquire_volume(volume_id(), Bytes::new()).await });
    rig.pass(Duration::from_secs(1)).await;
    assert_eq!(end.await.expect("ran"), Err(StillBusy), "a close hangs");
    assert!(!again.is_finished());

    rig.cache.faults().release(FaultPoint::Close);
    let volume = again.await.expect("ran").expect("free once the old one is closed");
    let slot = volume.acquire_cookie(KEY, ident(1)).expect("free");
    let _user = slot.use_cookie(false);
    assert_eq!(read(&slot.begin(None).await.expect("open"), 0), Some(1), "kept");
    let none = rig.volume.acquire_cookie(b"x", ident(1)).expect("free");
    assert!(none.cookie().is_none(), "the old volume gives no cookies any more");
}

#[tokio::test]
async fn row_94_waiting_for_a_relinquished_volume_is_bounded() {
    let rig = Rig::new().await;
    rig.cache.faults().hold(FaultPoint::Close);
    let (_slot, user) = rig.open(ident(1)).await;
    drop(user);
    let (fscache, volume) = (Arc::clone(&rig.fscache), Arc::clone(&rig.volume));
    let _end = tokio::spawn(async move {
        fscache.relinquish_volume(&volume, Relinquish::Keep, PATIENCE).await
    });
    settle().await;
    let fscache = Arc::clone(&rig.fscache);
    let again =
        tokio::spawn(
            async move { fscache.acquire_volume(volume_id(), Bytes::new()).await.map(drop) },
        );
    rig.pass(Duration::from_secs(20)).await;
    assert_eq!(again.await.expect("ran"), Err(VolumeError::StillClosing(volume_id())));
    rig.cache.faults().release(FaultPoint::Close);
}

#[tokio::test]
async fn a_retired_volume_is_deleted_with_everything_in_it() {
    let rig = Rig::new().await;
    let (slot, user) = rig.open(ident(1)).await;
    write(&slot.try_begin().expect("open"), 0, 1);
    drop((slot, user));
    rig.fscache
        .relinquish_volume(&rig.volume, Relinquish::Retire, PATIENCE)
        .await
        .expect("nothing hangs");
    assert!(rig.cache.stored(&volume_id(), KEY).is_none());
}

#[tokio::test]
async fn n_c72_other_coherency_data_discard_exactly_that_volume() {
    let rig = Rig::new().await;
    let other_id = crate::remote::VolumeId::new("test,other").expect("valid");
    let other = rig.fscache.acquire_volume(other_id.clone(), Bytes::new()).await.expect("free");
    for volume in [&rig.volume, &other] {
        let slot = volume.acquire_cookie(KEY, ident(1)).expect("free");
        let _user = slot.use_cookie(false);
        write(&slot.begin(None).await.expect("opens"), 0, 1);
    }
    for volume in [&rig.volume, &other] {
        rig.fscache.relinquish_volume(volume, Relinquish::Keep, PATIENCE).await.expect("idle");
    }
    let changed = Bytes::from_static(b"new");
    for (id, coherency, kept) in [(volume_id(), changed, false), (other_id, Bytes::new(), true)] {
        let volume = rig.fscache.acquire_volume(id, coherency).await.expect("free");
        let slot = volume.acquire_cookie(KEY, ident(1)).expect("free");
        let _user = slot.use_cookie(false);
        let access = slot.begin(None).await.expect("opens");
        assert_eq!(read(&access, 0).is_some(), kept);
    }
}

#[tokio::test]
async fn row_93_a_volume_acquired_before_there_is_a_cache_moves_into_the_first_one() {
    let rig = Rig::new().await;
    rig.fscache.withdraw(PATIENCE).await.expect("idle");
    let id = crate::remote::VolumeId::new("test,early").expect("valid");
    let volume = rig.fscache.acquire_volume(id, Bytes::new()).await.expect("free");
    let slot = volume.acquire_cookie(KEY, ident(1)).expect("free");
    let _user = slot.use_cookie(false);
    assert_eq!(slot.begin(None).await.map(drop), Err(Refusal::Disabled));
    assert!(volume.describe().cache.is_none());
    let cache = MemCache::new();
    rig.fscache.attach(backend(&cache), PATIENCE).await.expect("nothing to withdraw");
    assert!(slot.begin(None).await.is_ok());
    assert!(rig.fscache.backend().is_some());
    assert_eq!(rig.fscache.volumes().len(), 2);
}

#[tokio::test]
async fn row_95_lookups_wait_for_the_volume_and_a_volume_that_was_refused_is_tried_again() {
    let cache = MemCache::new();
    cache.faults().hold(FaultPoint::AcquireVolume);
    let rig = Rig::on(cache).await;
    let slot = rig.cookie(ident(1));
    let user = slot.use_cookie(false);
    settle().await;
    assert_eq!(rig.cache.faults().calls(FaultPoint::Lookup), 0);
    rig.cache.faults().refuse(FaultPoint::AcquireVolume, Some(Refusal::NoSpace));
    rig.cache.faults().release(FaultPoint::AcquireVolume);
    until(|| slot.describe().is_some_and(|c| c.state.letter() == 'F')).await;
    drop(user);
    rig.cache.faults().refuse(FaultPoint::AcquireVolume, None);
    let _user = slot.use_cookie(false);
    assert!(slot.begin(None).await.is_ok());
}

#[tokio::test]
async fn with_the_null_cache_everything_goes_on_uncached() {
    let rig = Rig::new().await;
    rig.fscache.attach(Arc::new(NullCache), PATIENCE).await.expect("idle");
    let slot = rig.cookie(ident(1));
    let _user = slot.use_cookie(false);
    assert_eq!(slot.begin(None).await.map(drop), Err(Refusal::Unsupported));
    slot.invalidate(ident(2), false);
    slot.relinquish(Relinquish::Retire);
    settle().await;
    assert_eq!(rig.volume.cookies().len(), 0);
    rig.fscache.withdraw(PATIENCE).await.expect("idle");
}

/// A mount that is dropped right before its context is shut down gives its volume up whenever the driver
/// comes to it: nobody made a mistake.
#[tokio::test]
async fn giving_up_a_volume_whose_context_has_gone_is_not_giving_it_up_twice() {
    let rig = Rig::new().await;
    let (volume, how) = (Arc::clone(&rig.volume), Relinquish::Keep);
    rig.fscache.abort();
    assert_eq!(volume.begin_relinquish(), Err(Over::Aborted));
    assert_eq!(rig.fscache.relinquish_volume(&volume, how, PATIENCE).await, Ok(()));
    assert!(volume.is_gone());

    let rig = Rig::new().await;
    assert_eq!(rig.fscache.relinquish_volume(&rig.volume, how, PATIENCE).await, Ok(()));
    assert_eq!(rig.volume.begin_relinquish(), Err(Over::Twice), "that is one");
}
