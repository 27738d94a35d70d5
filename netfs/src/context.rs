//! [`Netfs`]: the memory budget, the disk cache, the clock and the driver threads that mounts share.

mod builder;

use std::{collections::HashMap, fmt, time::Duration};

pub(crate) use builder::Options;
pub use builder::{Builder, FillPolicy};

use crate::{
    clock::Clock,
    driver::{self, Handle, Runtime},
    error::{Errno, Error, Result},
    folio::{FolioCache, GRANULE, MemoryUsage},
    fscache::{BackendStats, CookieInfo, FillQueue, FsCache, VolumeInfo},
    namespace::{Earlier, Mount, ReplayAs, Volume},
    read::intent::Intents,
    remote::{Cx, DynRemoteFs, Erased, RemoteFs, VolumeId},
    stats::{Counters, Stats},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    timer,
    waits::{WaitInfo, Waits},
    writeback::{
        flusher::{self, Flusher},
        log::Journal,
    },
};

/// One cache: memory, optional disk backend and driver threads, shared by any number of mounts.
///
/// ```
/// use netfs::{Netfs, remote::{Cred, Cx}};
/// let netfs = Netfs::builder().memory_bytes(64 << 20).build()?;
/// assert_eq!(netfs.stats().read_bytes, 0);
/// netfs.blocking_shutdown(std::time::Duration::from_secs(5));
/// # Ok::<(), netfs::Error>(())
/// ```
pub struct Netfs {
    core: Arc<Core>,
    runtime: Option<Runtime>,
}

/// What [`Netfs::shutdown`] gave up because its deadline passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Undone {
    /// Bytes that were not copied to the disk cache: they will be fetched again.
    pub fill_bytes: u64,
    /// Bytes that were written and are not on the server: they are lost.
    pub dirty_bytes: u64,
}

impl Undone {
    /// Whether all was done.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Undone::default()
    }
}

impl fmt::Display for Undone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Undone { fill_bytes, dirty_bytes } = self;
        write!(
            f,
            "{fill_bytes} bytes not copied to the disk cache, {dirty_bytes} written bytes lost"
        )
    }
}

/// What everything below a [`Netfs`] shares.
pub(crate) struct Core {
    pub(crate) options: Options,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) folios: Arc<FolioCache>,
    pub(crate) driver: Handle,
    pub(crate) fscache: Arc<FsCache>,
    pub(crate) fills: FillQueue,
    pub(crate) flusher: Arc<Flusher>,
    pub(crate) intents: Arc<Intents>,
    /// Fetches under way, and readahead that is about to become one.
    pub(crate) fetches: Arc<Intents>,
    pub(crate) waits: Arc<Waits>,
    pub(crate) closed: AtomicBool,
    pub(crate) journal: Option<Arc<Journal>>,
    pub(crate) earlier: Earlier,
    pub(crate) replay_as: Option<ReplayAs>,
    next_inode: AtomicU64,
    volumes: Mutex<HashMap<VolumeId, Weak<Volume>>>,
    /// One change of the budget at a time.
    resizing: Mutex<()>,
}

impl Core {
    pub(crate) fn next_inode_id(&self) -> u64 {
        self.next_inode.fetch_add(1, Ordering::Relaxed)
    }

    /// Refuses new work after shutdown.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::new(Errno::ESHUTDOWN, "this Netfs has been shut down"));
        }
        Ok(())
    }

    /// Bounds one call to the server (other than a read, which has its own bound): a server that never
    /// answers must not hold its callers for ever.
    pub(crate) async fn answered<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let deadline = self.clock.now() + self.options.remote_timeout;
        timer::until(&self.driver, &*self.clock, deadline, call).await.unwrap_or_else(|| {
            Err(Error::new(Errno::ETIMEDOUT, "the server did not answer in time; try again"))
        })
    }

    /// The volume of that id: shared by all its mounts.
    fn volume(self: &Arc<Self>, fs: &dyn DynRemoteFs) -> Arc<Volume> {
        let id = fs.volume_id();
        let mut volumes = self.volumes.lock();
        volumes.retain(|_, v| v.strong_count() > 0);
        if let Some(live) = volumes.get(&id).and_then(Weak::upgrade) {
            return live;
        }
        let volume = Volume::new(Arc::clone(self), id.clone(), fs.volume_coherency());
        volumes.insert(id, Arc::downgrade(&volume));
        volume
    }

    fn live_volumes(&self) -> Vec<Arc<Volume>> {
        self.volumes.lock().values().filter_map(Weak::upgrade).collect()
    }
}

impl Netfs {
    /// Starts with the defaults; see [`Builder`].
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    fn start(runtime: Runtime, core: Core) -> Netfs {
        let core = Arc::new(core);
        drop(core.driver.spawn(flusher::run(Arc::downgrade(&core))));
        Netfs { core, runtime: Some(runtime) }
    }

    /// Attaches an adapter. Mounts whose adapters report the same [`VolumeId`] share inodes, cached
    /// bytes and cookies; each keeps its own adapter and credentials.
    ///
    /// # Errors
    /// What the adapter's `root` returned; `ESHUTDOWN` after [`shutdown`](Netfs::shutdown). With a
    /// [log](Builder::dirty_log) that has bytes of the volume also whatever keeps them from becoming dirty
    /// again: without them the files must not be read. They stay in the log; mount again.
    pub async fn mount<F: RemoteFs>(&self, fs: Arc<F>, cx: &Cx) -> Result<Mount> {
        self.core.check_open()?;
        let fs: Arc<dyn DynRemoteFs> = Arc::new(Erased(fs));
        let volume = self.core.volume(&*fs);
        fs.attach(volume.events());
        let mount = Mount::new(volume, fs, cx).await?;
        mount.replay(cx).await?;
        Ok(mount)
    }

    /// [`mount`](Netfs::mount) for threads.
    ///
    /// # Errors
    /// As [`mount`](Netfs::mount).
    pub fn blocking_mount<F: RemoteFs>(&self, fs: Arc<F>, cx: &Cx) -> Result<Mount> {
        driver::block_on(self.mount(fs, cx))
    }

    /// Counters since the context was built.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.core.counters.snapshot()
    }

    /// The volumes and cookies of the disk cache with their states (row 116), and since when each is in
    /// its state: what is being waited for, and for how long.
    #[must_use]
    pub fn list_cookies(&self) -> Vec<(VolumeInfo, Vec<CookieInfo>)> {
        let volumes = self.core.fscache.volumes();
        volumes.iter().map(|volume| (volume.describe(), volume.cookies())).collect()
    }

    /// What readers and requests are waiting for, the oldest first: which file, which bytes, since
    /// when. What waits for a cookie is in [`list_cookies`](Netfs::list_cookies).
    #[must_use]
    pub fn waits(&self) -> Vec<WaitInfo> {
        self.core.waits.list()
    }

    /// How the byte budget is used now.
    #[must_use]
    pub fn memory(&self) -> MemoryUsage {
        self.core.folios.usage()
    }

    /// Changes the byte budget ([`Builder::memory_bytes`]) while everything runs, at most a half of it dirty as
    /// before. A smaller one evicts clean pages at once; what is dirty, locked or being fetched cannot go, so the
    /// budget becomes no smaller than that and a granule: returned is what it is now. Ask again once
    /// [`sync`](Netfs::sync) has made more clean.
    ///
    /// What was chosen by the budget at the start stays: the fill queue's part of it, the largest readahead, and
    /// from how much dirty on the flusher works. (Writers that wait at a smaller limit make it work, too.)
    ///
    /// # Errors
    /// `EINVAL` for less than the fill queue and one granule.
    pub fn set_budget(&self, memory_bytes: u64) -> Result<u64> {
        let Options { queue_bytes, dirty_limit, .. } = self.core.options;
        let least = queue_bytes + GRANULE as u64;
        if memory_bytes < least {
            let told = format!("a budget of {memory_bytes} is below the least ({least})");
            return Err(Error::new(Errno::EINVAL, told));
        }
        let _one = self.core.resizing.lock();
        let folio_bytes = memory_bytes - queue_bytes;
        let limit = builder::dirty_limit(folio_bytes, dirty_limit);
        Ok(self.core.folios.set_budget(folio_bytes, limit) + queue_bytes)
    }

    /// Numbers of the disk cache, if there is one.
    #[must_use]
    pub fn cache_stats(&self) -> Option<BackendStats> {
        self.core.fscache.backend().map(|b| b.stats())
    }

    /// Waits until everything downloaded so far has been stored in the disk cache or dropped.
    pub async fn drain_fills(&self) {
        self.core.intents.settled().await;
        self.core.fills.drain().await;
    }

    /// Uploads what is dirty in any file, once, and waits for it; files whose upload fails keep what they
    /// have.
    ///
    /// # Errors
    /// The first failure, after all files have been tried.
    pub async fn sync(&self) -> Result<()> {
        let core = Arc::clone(&self.core);
        let work = self.core.driver.spawn(async move { flusher::sync(&core).await });
        work.await.map_err(|_| Error::new(Errno::ESHUTDOWN, "this Netfs has been shut down"))?
    }

    /// [`sync`](Netfs::sync) for threads.
    ///
    /// # Errors
    /// As [`sync`](Netfs::sync).
    pub fn blocking_sync(&self) -> Result<()> {
        driver::block_on(self.sync())
    }

    /// Waits until every fetch begun so far, readahead included, has ended, and until what was downloaded
    /// has been stored in the disk cache or dropped. A measurement that waits so between its reads does
    /// not depend on timing.
    pub async fn settled(&self) {
        self.core.fetches.settled().await;
        self.drain_fills().await;
    }

    /// Drops every page from memory that nobody holds. The disk cache keeps what it has: a switch
    /// for honest measurements of cold memory.
    pub fn drop_memory(&self) {
        for volume in self.core.live_volumes() {
            volume.for_each_inode(|inode| inode.drop_pages());
        }
        self.core.folios.let_go_returned();
    }

    /// Uploads what was written, drains fills (all that readers who have returned had downloaded), commits
    /// and closes the disk cache, and stops the driver threads. Reads in flight fail with `ESHUTDOWN` or
    /// `ECANCELED`. Says what was given up because `deadline` passed: nothing, if all went well.
    pub async fn shutdown(mut self, deadline: Duration) -> Undone {
        self.core.closed.store(true, Ordering::Release);
        let (core, driver) = (Arc::clone(&self.core), self.core.driver.clone());
        let until = core.clock.now() + deadline;
        // On the driver, so that a caller's runtime (or none) does not matter.
        let work = driver.spawn(async move {
            flusher::flush_all(&core, until).await;
            // What readers have got already is not all queued yet: it must not find the queue shut.
            let queued = core.intents.settled();
            let _ = timer::until(&core.driver, &*core.clock, until, queued).await;
            let left = core.fills.shutdown(until.since(core.clock.now())).await;
            let patience = until.since(core.clock.now()).max(core.options.close_patience);
            if let Err(error) = core.fscache.withdraw(patience).await {
                tracing::warn!(%error, "shutting down");
            }
            left
        });
        let fill_bytes = work.await.unwrap_or(0);
        self.core.folios.room().close();
        self.core.fscache.abort();
        // A buffer whose owner has a file of this context would keep it alive, and be kept by it.
        self.core.folios.let_go_returned();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        Undone { fill_bytes, dirty_bytes: self.core.flusher.clear() }
    }

    /// [`shutdown`](Netfs::shutdown) for threads.
    pub fn blocking_shutdown(self, deadline: Duration) -> Undone {
        driver::block_on(self.shutdown(deadline))
    }
}

impl Drop for Netfs {
    fn drop(&mut self) {
        self.core.closed.store(true, Ordering::Release);
        if let Some(runtime) = self.runtime.take() {
            let left = self.core.fills.queued_bytes();
            if left > 0 {
                tracing::warn!(left, "dropped without shutdown: bytes not copied to the cache");
            }
            // Never blocks: a Netfs may be dropped inside somebody's runtime.
            runtime.shutdown_background();
            self.core.fscache.abort();
            self.core.folios.room().close();
            let lost = self.core.flusher.clear();
            if lost > 0 {
                tracing::error!(lost, "dropped without shutdown: written bytes not on the server");
            }
        }
    }
}
