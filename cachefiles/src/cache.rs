//! The cache: one directory, its threads and its budgets.

mod builder;
mod graveyard;
mod options;
mod probe;
mod superblock;

use std::{
    collections::HashMap,
    fs::File,
    path::PathBuf,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use netfs::{
    fscache::{BackendStats, CacheBackend, CacheVolume, Refusal},
    remote::VolumeId,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;

pub use builder::{Builder, OpenError};
pub use options::KernelCache;
pub(crate) use options::Options;
pub use probe::{LinkMethod, Probe};

use crate::{
    checksum::mix,
    committer::Committer,
    descriptors::Descriptors,
    header::VOLUME_AUX_MAX,
    io::{Io, KernelCopy},
    stats::Counters,
    volume::Volume,
    workers::{Gate, Lane, Workers},
};

/// How long dropping a cache waits for its disk.
const DROP_WAIT: Duration = Duration::from_secs(10);

/// An open cache directory: a [`CacheBackend`] on disk.
///
/// The directory belongs to this value alone until [`withdraw`](CacheBackend::withdraw) has completed
/// or the value is dropped. Dropping it does the same as withdrawing, and waits for it for up to ten
/// seconds: a hung disk must not hang its user for good.
pub struct CacheDir {
    pub(crate) shared: Arc<Shared>,
}

/// What all parts of a cache share.
pub(crate) struct Shared {
    pub(crate) io: Arc<dyn Io>,
    pub(crate) stats: Arc<Counters>,
    pub(crate) workers: Workers,
    pub(crate) committer: Committer,
    pub(crate) descriptors: Descriptors,
    /// Bounds what is in flight in the whole cache.
    pub(crate) gate: Arc<Gate>,
    pub(crate) cache_dir: File,
    pub(crate) graveyard: File,
    pub(crate) volumes: Mutex<HashMap<String, Weak<Volume>>>,
    path: PathBuf,
    options: Options,
    probe: Probe,
    nowait: AtomicBool,
    /// Set for good by the beginning of a withdrawal; deletions under way look at it too.
    withdrawn: Arc<AtomicBool>,
    /// Held locked while we own the directory. The mutex is held while shutting down.
    lock: Mutex<Option<superblock::DirLock>>,
    /// Source of names, generations and nonces.
    last: AtomicU64,
    seed: u64,
}

impl CacheDir {
    /// Starts describing a cache in `path`.
    #[must_use]
    pub fn builder(path: impl Into<PathBuf>) -> Builder {
        Builder::new(path.into())
    }

    /// What the file system below the directory can do, as found out at opening.
    #[must_use]
    pub fn probe(&self) -> &Probe {
        &self.shared.probe
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        &self.shared.path
    }
}

impl Drop for CacheDir {
    fn drop(&mut self) {
        let finished = self.shared.start_shut_down();
        if self.shared.workers.is_current_thread() {
            // Whoever was told of the end of its I/O had the last reference. Shutting down waits for
            // this thread to return, so it cannot wait for that.
            return;
        }
        if finished.recv_timeout(DROP_WAIT) == Err(RecvTimeoutError::Timeout) {
            tracing::error!(cache = %self.shared.path.display(), "the cache's disk does not answer");
        }
    }
}

impl Shared {
    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// Bytes of an inline content map at most.
    pub(crate) fn inline_max(&self) -> u64 {
        self.probe.inline_map_max as u64
    }

    pub(crate) fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::Acquire)
    }

    /// Whether a read can be told not to wait.
    pub(crate) fn nowait(&self) -> bool {
        self.nowait.load(Ordering::Relaxed)
    }

    /// A file turned out not to support it: all reads go to the I/O threads from now on.
    pub(crate) fn give_up_nowait(&self) {
        self.nowait.store(false, Ordering::Relaxed);
    }

    /// How data is read.
    pub(crate) fn read_copy(&self) -> KernelCopy {
        let drop = self.options.kernel_cache.drops_reads() && self.probe.dont_cache_read;
        if drop { KernelCopy::Drop } else { KernelCopy::Keep }
    }

    /// How data is written.
    pub(crate) fn write_copy(&self) -> KernelCopy {
        let drop = self.options.kernel_cache.drops_writes() && self.probe.dont_cache_write;
        if drop { KernelCopy::Drop } else { KernelCopy::Keep }
    }

    /// A number that grows from call to call and, the clock permitting, from run to run.
    pub(crate) fn next_number(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_nanos()).unwrap_or(0);
        let next = |last: u64| now.max(last.saturating_add(1));
        let update = |last| Some(next(last));
        let (Ok(last) | Err(last)) =
            self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
        next(last)
    }

    /// Generation and nonce for a new incarnation.
    pub(crate) fn new_incarnation(&self) -> (u64, u64) {
        let number = self.next_number();
        (number, mix(self.seed ^ number))
    }

    /// Shuts down on a thread of its own, which drops the sender at the end.
    fn start_shut_down(self: &Arc<Self>) -> mpsc::Receiver<()> {
        self.withdrawn.store(true, Ordering::Release);
        let (done, finished) = mpsc::channel();
        let shared = Arc::clone(self);
        let thread = std::thread::Builder::new().name("cachefiles-end".into());
        let started = thread.spawn(move || {
            shared.shut_down();
            drop(done);
        });
        if started.is_err() && !self.workers.is_current_thread() {
            self.shut_down();
        }
        finished
    }

    /// Idempotent; waits for what is under way, also if somebody else is shutting down already: the
    /// directory is given up after the last call on it has ended, and not before (N-C69).
    fn shut_down(&self) {
        self.withdrawn.store(true, Ordering::Release);
        let mut lock = self.lock.lock();
        self.workers.stop();
        self.committer.stop();
        self.descriptors.close_all();
        drop(lock.take());
    }

    fn acquire_now(self: &Arc<Self>, id: &VolumeId, aux: &[u8]) -> Result<Arc<Volume>, Refusal> {
        if aux.len() > VOLUME_AUX_MAX {
            return Err(Refusal::Unsupported);
        }
        let mut volumes = self.volumes.lock();
        if volumes.get(id.as_str()).is_some_and(|v| v.strong_count() > 0) {
            return Err(Refusal::InUse);
        }
        let volume = Volume::open(Arc::clone(self), id.as_str(), aux).map_err(|e| {
            tracing::warn!(volume = id.as_str(), "cannot open a volume: {e}");
            crate::object::refusal(e)
        })?;
        let volume = Arc::new(volume);
        volumes.insert(id.as_str().to_owned(), Arc::downgrade(&volume));
        Ok(volume)
    }
}

impl CacheBackend for CacheDir {
    fn name(&self) -> String {
        self.shared.path.display().to_string()
    }

    fn acquire_volume(
        self: Arc<Self>,
        id: VolumeId,
        coherency: Bytes,
    ) -> BoxFuture<'static, Result<Arc<dyn CacheVolume>, Refusal>> {
        let shared = Arc::clone(&self.shared);
        let (answer, answered) = oneshot::channel();
        let theirs = Arc::clone(&shared);
        let queued = shared.workers.submit(
            Lane::Urgent,
            Box::new(move || {
                // Nobody waits any more: the volume is closed again.
                let _ = answer.send(theirs.acquire_now(&id, &coherency));
            }),
        );
        Box::pin(async move {
            queued?;
            match answered.await {
                Ok(Ok(volume)) => Ok(volume as Arc<dyn CacheVolume>),
                Ok(Err(refusal)) => {
                    Counters::count(&shared.stats.refusals);
                    Err(refusal)
                }
                Err(_) => Err(Refusal::Withdrawn),
            }
        })
    }

    fn withdraw(self: Arc<Self>) -> BoxFuture<'static, ()> {
        self.shared.withdrawn.store(true, Ordering::Release);
        let (done, finished) = oneshot::channel::<()>();
        let shared = Arc::clone(&self.shared);
        // Its own thread, because it waits for the others to end.
        let thread = std::thread::Builder::new().name("cachefiles-withdraw".into());
        let started = thread.spawn(move || {
            shared.shut_down();
            drop(done);
        });
        Box::pin(async move {
            if started.is_err() {
                self.shared.shut_down();
            }
            // The sender is dropped, not used: done is done.
            let _ = finished.await;
        })
    }

    fn health(&self) -> Result<(), Refusal> {
        if self.shared.is_withdrawn() { Err(Refusal::Withdrawn) } else { Ok(()) }
    }

    fn stats(&self) -> BackendStats {
        self.shared.stats.snapshot()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_free_even_if_a_forked_process_has_the_lock_file_open() {
        let dir = tempfile::tempdir().expect("dir");
        let cache = CacheDir::builder(dir.path()).open().expect("opens");
        // The same open file, as after a fork.
        let copy = cache.shared.lock.lock().as_ref().map(superblock::DirLock::try_clone);
        pollster::block_on(Arc::clone(&cache).withdraw());
        CacheDir::builder(dir.path()).open().expect("given up");
        assert!(copy.is_some_and(|c| c.is_ok()));
    }
}
