//! [`MemCache`]: the backend without a disk. `object` is one open object, `faults` the switches that
//! make the cache misbehave.

mod faults;
mod object;

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
pub use faults::{FaultPoint, MemFaults};
use futures_util::future::BoxFuture;
use object::MemObject;

use super::{
    BackendStats, CacheBackend, CacheVolume, Found, Identity, Opened, Refusal, Relinquish,
};
use crate::{
    folio::PAGE_SIZE,
    remote::VolumeId,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

/// A cache in memory: a complete, honest backend without a disk, and the test double of the project.
///
/// It keeps pages by exact content map, checks identities at lookup, cuts over, keeps generations and
/// refuses what the contract says to refuse. What was stored stays findable after the objects have
/// been closed, and after [`MemCache::restart`], which is a process that died: everything that was
/// open is dead, and a new cache starts on what was stored.
///
/// [`MemCache::faults`] makes it misbehave: refuse, hang until released, fail reads, fall ill.
///
/// ```
/// use netfs::fscache::{CacheBackend, MemCache, Refusal};
/// let cache = MemCache::new();
/// assert!(cache.health().is_ok());
/// cache.faults().sick(Some(Refusal::IoError));
/// assert_eq!(cache.health(), Err(Refusal::IoError));
/// ```
pub struct MemCache {
    store: Arc<Mutex<Store>>,
    faults: MemFaults,
    withdrawn: AtomicBool,
}

/// What survives a restart.
#[derive(Default)]
struct Store {
    volumes: HashMap<VolumeId, StoredVolume>,
    next_generation: u64,
    stats: BackendStats,
}

struct StoredVolume {
    coherency: Bytes,
    files: HashMap<Bytes, StoredFile>,
}

/// One object's content. The incarnation says whose it is: an open object with another one is dead.
struct StoredFile {
    incarnation: u64,
    /// What writes have to name: at least the incarnation.
    generation: u64,
    identity: Identity,
    /// The owner is changing the file: not to be found after a restart.
    modifying: bool,
    pages: BTreeMap<u64, Page>,
    open: bool,
}

enum Page {
    Data(Box<[u8]>),
    Zero,
    /// Its checksum will not match.
    Corrupt,
}

impl MemCache {
    /// An empty cache.
    #[must_use]
    pub fn new() -> Arc<MemCache> {
        MemCache::on(Arc::default())
    }

    /// The cache after its process was killed: a new one over what is stored. Everything obtained from
    /// this one is dead from now on.
    #[must_use]
    pub fn restart(&self) -> Arc<MemCache> {
        self.withdrawn.store(true, Ordering::SeqCst);
        let mut store = self.store.lock();
        let Store { volumes, next_generation, .. } = &mut *store;
        for file in volumes.values_mut().flat_map(|v| v.files.values_mut()) {
            // Another generation: the dead process's objects find themselves out of date.
            *next_generation += 1;
            (file.incarnation, file.generation) = (*next_generation, *next_generation);
            file.open = false;
        }
        store.stats.objects_open = 0;
        drop(store);
        MemCache::on(Arc::clone(&self.store))
    }

    /// The switches that make it misbehave.
    #[must_use]
    pub fn faults(&self) -> &MemFaults {
        &self.faults
    }

    /// Damages the stored page at `offset`, so that its checksum does not match. False if nothing is
    /// stored there.
    pub fn corrupt(&self, volume: &VolumeId, key: &[u8], offset: u64) -> bool {
        let mut store = self.store.lock();
        let page = store
            .volumes
            .get_mut(volume)
            .and_then(|v| v.files.get_mut(key))
            .and_then(|f| f.pages.get_mut(&(offset / PAGE_SIZE as u64)));
        match page {
            Some(page) => {
                *page = Page::Corrupt;
                true
            }
            None => false,
        }
    }

    /// Identity and number of stored pages of an object, open or not.
    #[must_use]
    pub fn stored(&self, volume: &VolumeId, key: &[u8]) -> Option<(Identity, usize)> {
        let store = self.store.lock();
        let file = store.volumes.get(volume)?.files.get(key)?;
        Some((file.identity.clone(), file.pages.len()))
    }

    fn on(store: Arc<Mutex<Store>>) -> Arc<MemCache> {
        Arc::new(MemCache {
            store,
            faults: MemFaults::default(),
            withdrawn: AtomicBool::new(false),
        })
    }

    fn next_generation(&self) -> u64 {
        let mut store = self.store.lock();
        store.next_generation += 1;
        store.next_generation
    }

    fn admit(&self) -> Result<(), Refusal> {
        if self.withdrawn.load(Ordering::SeqCst) {
            return Err(Refusal::Withdrawn);
        }
        self.faults.sickness().map_or(Ok(()), Err)
    }
}

impl CacheBackend for MemCache {
    fn name(&self) -> String {
        "memory".into()
    }

    fn acquire_volume(
        self: Arc<Self>,
        id: VolumeId,
        coherency: Bytes,
    ) -> BoxFuture<'static, Result<Arc<dyn CacheVolume>, Refusal>> {
        Box::pin(async move {
            self.faults.pass(FaultPoint::AcquireVolume).await?;
            self.admit()?;
            let mut store = self.store.lock();
            let volume = store.volumes.entry(id.clone()).or_insert_with(|| StoredVolume {
                coherency: coherency.clone(),
                files: HashMap::new(),
            });
            if volume.coherency != coherency {
                *volume = StoredVolume { coherency, files: HashMap::new() };
            }
            drop(store);
            Ok(Arc::new(MemVolume { cache: Arc::clone(&self), id }) as Arc<dyn CacheVolume>)
        })
    }

    fn withdraw(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.withdrawn.store(true, Ordering::SeqCst) })
    }

    fn health(&self) -> Result<(), Refusal> {
        self.admit()
    }

    fn stats(&self) -> BackendStats {
        self.store.lock().stats
    }
}

struct MemVolume {
    cache: Arc<MemCache>,
    id: VolumeId,
}

impl MemVolume {
    fn open(&self, key: &Bytes, identity: Identity) -> Result<(u64, Found), Refusal> {
        let mut store = self.cache.store.lock();
        let Store { volumes, next_generation, stats } = &mut *store;
        let volume = volumes.get_mut(&self.id).ok_or(Refusal::Withdrawn)?;
        *next_generation += 1;
        let generation = *next_generation;
        let found = match volume.files.get_mut(key) {
            Some(file) if file.open => return Err(Refusal::InUse),
            Some(file) if file.identity == identity && !file.modifying => {
                (file.incarnation, file.generation, file.open) = (generation, generation, true);
                Found::Existing
            }
            before => {
                let found = if before.is_some() { Found::ReplacedStale } else { Found::Created };
                let file = StoredFile {
                    incarnation: generation,
                    generation,
                    identity,
                    modifying: false,
                    pages: BTreeMap::new(),
                    open: true,
                };
                volume.files.insert(key.clone(), file);
                found
            }
        };
        stats.objects_open += 1;
        stats.stale_objects += u64::from(found == Found::ReplacedStale);
        Ok((generation, found))
    }
}

impl CacheVolume for MemVolume {
    fn lookup(
        self: Arc<Self>,
        key: Bytes,
        identity: Identity,
    ) -> BoxFuture<'static, Result<Opened, Refusal>> {
        Box::pin(async move {
            self.cache.faults.pass(FaultPoint::Lookup).await?;
            self.cache.admit()?;
            if key.is_empty() || key.len() > 255 {
                return Err(Refusal::Unsupported);
            }
            let (generation, found) = self.open(&key, identity)?;
            let object = MemObject::new(Arc::clone(&self.cache), self.id.clone(), key, generation);
            Ok(Opened { object, found })
        })
    }

    fn relinquish(self: Arc<Self>, how: Relinquish) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            if how == Relinquish::Retire {
                self.cache.store.lock().volumes.remove(&self.id);
            }
        })
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests;
