//! What the tests of this folder share: a cache layer over a [`MemCache`] on a stepped clock.

use std::time::Duration;

use bytes::Bytes;

use super::{
    Access, CacheBackend, CacheWrite, Cookie, CookieSlot, ExtentKind, FsCache, FsCacheConfig,
    Identity, MemCache, Refusal, TryRead, Volume,
};
use crate::{
    clock::StepClock,
    driver::Handle,
    folio::{PAGE_SIZE, Slice},
    remote::VolumeId,
    stats::Counters,
    sync::Arc,
};

pub(super) const PATIENCE: Duration = Duration::from_secs(60);
pub(super) const KEY: &[u8] = b"file";

pub(super) struct Rig {
    pub(super) clock: StepClock,
    pub(super) counters: Arc<Counters>,
    pub(super) fscache: Arc<FsCache>,
    pub(super) cache: Arc<MemCache>,
    pub(super) volume: Arc<Volume>,
}

impl Rig {
    /// A volume on an attached cache.
    pub(super) async fn new() -> Rig {
        Rig::on(MemCache::new()).await
    }

    pub(super) async fn on(cache: Arc<MemCache>) -> Rig {
        let clock = StepClock::new();
        let counters = Arc::new(Counters::default());
        let fscache = FsCache::new(
            Handle::current(),
            Arc::new(clock.clone()),
            Arc::clone(&counters),
            Arc::default(),
            FsCacheConfig::default(),
        );
        fscache.attach(backend(&cache), PATIENCE).await.expect("nothing to withdraw");
        let volume = fscache.acquire_volume(volume_id(), Bytes::new()).await.expect("free");
        Rig { clock, counters, fscache, cache, volume }
    }

    pub(super) fn cookie(&self, identity: Identity) -> CookieSlot {
        self.volume.acquire_cookie(KEY, identity).expect("free key")
    }

    /// A cookie in use whose object is open.
    pub(super) async fn open(&self, identity: Identity) -> (CookieSlot, super::CookieUse) {
        let slot = self.cookie(identity);
        let user = slot.use_cookie(false);
        slot.begin(None).await.expect("opens");
        (slot, user)
    }

    /// Lets time pass and everything that is due happen.
    pub(super) async fn pass(&self, by: Duration) {
        settle().await;
        self.clock.advance(by);
        settle().await;
    }
}

impl Drop for Rig {
    /// As the context's end does: volumes and their registry hold each other until then.
    fn drop(&mut self) {
        self.fscache.abort();
    }
}

pub(super) fn backend(cache: &Arc<MemCache>) -> Arc<dyn CacheBackend> {
    Arc::clone(cache) as Arc<dyn CacheBackend>
}

pub(super) fn volume_id() -> VolumeId {
    VolumeId::new("test,volume").expect("valid")
}

/// An identity of a file of 16 pages.
pub(super) fn ident(version: u8) -> Identity {
    Identity { aux: Bytes::copy_from_slice(&[version]), size: 16 * PAGE_SIZE as u64 }
}

pub(super) fn cookie(slot: &CookieSlot) -> &Arc<Cookie> {
    slot.cookie().expect("a cookie")
}

pub(super) fn page_of(byte: u8) -> Vec<Slice> {
    vec![Slice::from_bytes(&[byte; PAGE_SIZE])]
}

/// Writes a page of `byte` through the access; what the backend said, once it has said it.
pub(super) fn write(access: &Access, page: u64, byte: u8) -> Option<Result<(), Refusal>> {
    let said = Arc::new(crate::sync::Mutex::new(None));
    let note = Arc::clone(&said);
    let object = Arc::clone(access.object());
    let offset = page * PAGE_SIZE as u64;
    let generation = object.generation();
    object.write(CacheWrite::new(offset, page_of(byte), generation, move |r| {
        *note.lock() = Some(r);
    }));
    let said = said.lock();
    *said
}

/// A byte of a page, if the object has it and the access is still good after the read.
pub(super) fn read(access: &Access, page: u64) -> Option<u8> {
    let offset = page * PAGE_SIZE as u64;
    let extents = access.object().extents(offset..offset + PAGE_SIZE as u64);
    assert_eq!(extents.len(), 1, "a page is there wholly or not at all");
    let mut into = [0xEE; PAGE_SIZE];
    match (extents[0].kind, access.object().try_read(offset, &mut into)) {
        (ExtentKind::Data, TryRead::Done) if access.is_current() => {
            assert!(into.iter().all(|b| *b == into[0]), "a torn page");
            Some(into[0])
        }
        _ => None,
    }
}

/// Lets every task that can run do so. The runtime has one thread, so each yield runs all others once.
pub(super) async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

/// Waits for something that other tasks bring about.
pub(super) async fn until(mut what: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if what() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it never happened");
}
