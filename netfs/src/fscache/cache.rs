//! [`FsCache`]: the registry of volumes, the cache attached to them, and what they all use (driver,
//! clock, counters, LRU).

use std::{collections::HashMap, fmt, future::Future, time::Duration};

use bytes::Bytes;

use super::{CacheBackend, Refusal, Relinquish, lru::Lru, volume::Volume};
use crate::{
    clock::{BootTime, Clock},
    driver::Handle,
    error::{Errno, Error},
    remote::VolumeId,
    stats::Counters,
    sync::{Arc, Mutex},
    waits::Waits,
};

/// Settings of a context's cache layer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FsCacheConfig {
    /// How long a reader waits for a cookie that is being looked up or cut over before it asks the
    /// server instead. 20 ms: longer than any healthy disk takes, shorter than anyone notices.
    pub cache_wait: Duration,
    /// How long an unused object stays open (row 103: 10 s).
    pub lru_delay: Duration,
    /// How long acquiring a volume waits for its relinquished predecessor to be closed (row 94: 20 s).
    pub collision_wait: Duration,
}

impl Default for FsCacheConfig {
    fn default() -> Self {
        FsCacheConfig {
            cache_wait: Duration::from_millis(20),
            lru_delay: Duration::from_secs(10),
            collision_wait: Duration::from_secs(20),
        }
    }
}

/// Why a volume could not be acquired.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VolumeError {
    /// The volume is live already: share it.
    #[error("cache volume {0:?} is already in use; share the volume that is open")]
    InUse(VolumeId),
    /// Its predecessor was relinquished but is still not closed.
    #[error("cache volume {0:?} is still being closed by its last user; try again")]
    StillClosing(VolumeId),
}

impl From<VolumeError> for Error {
    fn from(e: VolumeError) -> Error {
        Error::new(Errno::EBUSY, e.to_string())
    }
}

/// The backend did not end its calls in time. They go on in the background and their results are
/// thrown away; nothing new starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StillBusy;

impl fmt::Display for StillBusy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the cache has not ended its calls yet; they go on in the background")
    }
}

impl std::error::Error for StillBusy {}

/// The cache layer of one context.
pub(crate) struct FsCache {
    handle: Handle,
    clock: Arc<dyn Clock>,
    counters: Arc<Counters>,
    waits: Arc<Waits>,
    config: FsCacheConfig,
    lru: Lru,
    registry: Mutex<Registry>,
    /// Attaching and withdrawing are serialised: a cookie must see them in the order they took effect.
    admin: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct Registry {
    backend: Option<Arc<dyn CacheBackend>>,
    volumes: HashMap<VolumeId, Arc<Volume>>,
}

impl FsCache {
    /// A cache layer that works on `handle`. The runtime must have its time driver enabled if `clock`
    /// needs it.
    pub(crate) fn new(
        handle: Handle,
        clock: Arc<dyn Clock>,
        counters: Arc<Counters>,
        waits: Arc<Waits>,
        config: FsCacheConfig,
    ) -> Arc<FsCache> {
        Arc::new(FsCache {
            handle,
            clock,
            counters,
            waits,
            config,
            lru: Lru::default(),
            registry: Mutex::default(),
            admin: Arc::default(),
        })
    }

    /// Acquires the volume `id` (row 94). It is attached to the cache if there is one, else when one
    /// comes. What the cache holds under other `coherency` bytes is discarded (N-C72).
    ///
    /// # Errors
    /// [`VolumeError::InUse`] if it is live. A relinquished one is waited for, up to
    /// `collision_wait`, then [`VolumeError::StillClosing`].
    pub(crate) async fn acquire_volume(
        self: &Arc<Self>,
        id: VolumeId,
        coherency: Bytes,
    ) -> Result<Arc<Volume>, VolumeError> {
        let deadline = self.now() + self.config.collision_wait;
        loop {
            let before = {
                let mut registry = self.registry.lock();
                match registry.volumes.get(&id) {
                    Some(v) if !v.is_relinquished() => {
                        self.counters.volume_collisions.inc();
                        return Err(VolumeError::InUse(id));
                    }
                    Some(v) if !v.is_gone() => Arc::clone(v),
                    _ => {
                        let backend = registry.backend.clone();
                        let volume = Volume::new(Arc::clone(self), id.clone(), coherency, backend);
                        registry.volumes.insert(id, Arc::clone(&volume));
                        self.counters.volumes.inc();
                        return Ok(volume);
                    }
                }
            };
            if self.until(deadline, before.gone()).await.is_none() {
                self.counters.volume_collisions.inc();
                return Err(VolumeError::StillClosing(id));
            }
        }
    }

    /// Gives a volume up and waits, at most `patience`, until it is closed.
    ///
    /// # Errors
    /// [`StillBusy`] if that took longer; it goes on in the background.
    pub(crate) async fn relinquish_volume(
        self: &Arc<Self>,
        volume: &Arc<Volume>,
        how: Relinquish,
        patience: Duration,
    ) -> Result<(), StillBusy> {
        let (this, volume) = (Arc::clone(self), Arc::clone(volume));
        self.in_background(patience, async move {
            volume.relinquish(how).await;
            let mut registry = this.registry.lock();
            if registry.volumes.get(volume.id()).is_some_and(|v| Arc::ptr_eq(v, &volume)) {
                registry.volumes.remove(volume.id());
            }
        })
        .await
    }

    /// Attaches a cache; volumes that are there already move in (row 93). A cache that was attached
    /// before is withdrawn first.
    ///
    /// # Errors
    /// [`StillBusy`] if the withdrawal of the last cache takes longer than `patience`; the new one is
    /// attached when it has ended.
    pub(crate) async fn attach(
        self: &Arc<Self>,
        backend: Arc<dyn CacheBackend>,
        patience: Duration,
    ) -> Result<(), StillBusy> {
        let this = Arc::clone(self);
        self.in_background(patience, async move {
            let admin = Arc::clone(&this.admin);
            let _admin = admin.lock().await;
            this.withdraw_now().await;
            let volumes: Vec<_> = {
                let mut registry = this.registry.lock();
                registry.backend = Some(Arc::clone(&backend));
                registry.volumes.values().cloned().collect()
            };
            for volume in volumes {
                volume.attach(Arc::clone(&backend));
            }
        })
        .await
    }

    /// Withdraws the cache (row 114): no new access starts, those under way are waited for, objects
    /// are committed and closed, volumes and the cache are told. Users go on uncached; open cookies
    /// come back with the next [`attach`](FsCache::attach).
    ///
    /// On `Ok` no backend call is running or can start (N-C44).
    ///
    /// # Errors
    /// [`StillBusy`] if the cache did not end its calls within `patience`.
    pub(crate) async fn withdraw(self: &Arc<Self>, patience: Duration) -> Result<(), StillBusy> {
        let this = Arc::clone(self);
        self.in_background(patience, async move {
            let admin = Arc::clone(&this.admin);
            let _admin = admin.lock().await;
            this.withdraw_now().await;
        })
        .await
    }

    /// Lets go of everything at once, without telling anybody: the context is being dropped. What was
    /// not committed is lost (its pages are fetched again). Afterwards nothing here keeps the backend
    /// alive; without this, volumes and registry would keep each other.
    pub(crate) fn abort(&self) {
        let (backend, volumes) = {
            let mut registry = self.registry.lock();
            let volumes: Vec<_> = registry.volumes.drain().map(|(_, v)| v).collect();
            (registry.backend.take(), volumes)
        };
        volumes.iter().for_each(|volume| volume.abort());
        drop(backend);
    }

    /// The volumes that exist.
    pub(crate) fn volumes(&self) -> Vec<Arc<Volume>> {
        self.registry.lock().volumes.values().cloned().collect()
    }

    /// The attached cache.
    pub(crate) fn backend(&self) -> Option<Arc<dyn CacheBackend>> {
        self.registry.lock().backend.clone()
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Where those who wait for the cache are listed.
    pub(super) fn waits(&self) -> &Arc<Waits> {
        &self.waits
    }

    pub(super) fn config(&self) -> &FsCacheConfig {
        &self.config
    }

    pub(super) fn lru(&self) -> &Lru {
        &self.lru
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub(super) fn now(&self) -> BootTime {
        self.clock.now()
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.handle.spawn(task));
    }

    /// Counts a refusal by the backend.
    pub(super) fn refused(&self, refusal: Refusal) -> Refusal {
        self.counters.cache_refusals.inc();
        refusal
    }

    /// Waits for `what`, but not past `deadline`.
    pub(super) async fn until<T>(
        &self,
        deadline: BootTime,
        what: impl Future<Output = T>,
    ) -> Option<T> {
        tokio::select! {
            biased;
            value = what => Some(value),
            () = self.clock.sleep_until(deadline) => None,
        }
    }

    async fn withdraw_now(&self) {
        let (backend, volumes) = {
            let mut registry = self.registry.lock();
            let volumes: Vec<_> = registry.volumes.values().cloned().collect();
            (registry.backend.take(), volumes)
        };
        futures_util::future::join_all(volumes.iter().map(|v| v.withdraw())).await;
        if let Some(backend) = backend {
            backend.withdraw().await;
        }
    }

    /// Runs `task` to its end on the driver, whether the caller waits for it or not.
    async fn in_background(
        &self,
        patience: Duration,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), StillBusy> {
        let deadline = self.now() + patience;
        let task = self.handle.spawn(task);
        match self.until(deadline, task).await {
            Some(Ok(())) => Ok(()),
            // The driver is gone: nobody is left who could end the task.
            Some(Err(_)) | None => Err(StillBusy),
        }
    }
}
