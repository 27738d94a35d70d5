//! Choices and their defaults.

use std::time::Duration;

use super::{Core, Netfs};
use crate::{
    clock::{Clock, SystemClock},
    dirtylog::{DirtyLog, OwnerId},
    driver,
    error::{Errno, Error, Result},
    folio::{FolioCache, GRANULE, PAGE_SIZE},
    fscache::{CacheBackend, FillConfig, FillQueue, FillWhenFull, FsCache, FsCacheConfig},
    namespace::{ReplayAs, open_log},
    read::readahead::Tuning,
    remote::Cx,
    stats::Counters,
    sync::{Arc, Mutex, atomic::AtomicU64},
    waits::Waits,
    writeback::conflict::ConflictPolicy,
};

/// How much a miss fetches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum FillPolicy {
    /// The pages asked for, and for each sequential stream a window ahead that grows with what the
    /// stream has read and shrinks where it was for nothing.
    #[default]
    Auto,
    /// Whole 256 KiB granules, and readahead in granules: fewest requests, most bytes. For origins where
    /// a request costs more than its bytes, and files that are read whole.
    Granule,
    /// The pages asked for and never more, whatever the pattern.
    Exact,
}

#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) fill: FillPolicy,
    pub(crate) readahead: Tuning,
    pub(crate) close_patience: Duration,
    pub(crate) cache_read_timeout: Duration,
    pub(crate) remote_timeout: Duration,
    pub(crate) inode_capacity: u64,
    pub(crate) dentry_capacity: u64,
    /// Above this much the flusher works.
    pub(crate) dirty_background: u64,
    /// Older dirty bytes are flushed.
    pub(crate) dirty_expire: Duration,
    /// Bytes that may be dirty, if somebody has said so.
    pub(crate) dirty_limit: Option<u64>,
    /// Bytes of the budget that are the fill queue's.
    pub(crate) queue_bytes: u64,
    pub(crate) conflict_policy: ConflictPolicy,
    pub(crate) recall_timeout: Duration,
}

/// Builds a [`Netfs`]. Every option has a default that suits a desktop or a small server.
pub struct Builder {
    options: Options,
    readahead_max: u64,
    memory_bytes: u64,
    dirty_limits: Option<(u64, u64)>,
    driver_threads: usize,
    clock: Arc<dyn Clock>,
    backend: Option<Arc<dyn CacheBackend>>,
    fills: FillConfig,
    fscache: FsCacheConfig,
    dirty_log: Option<Arc<dyn DirtyLog>>,
    replay_as: Option<ReplayAs>,
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            options: Options {
                fill: FillPolicy::default(),
                readahead: Tuning::default(),
                close_patience: Duration::from_secs(5),
                cache_read_timeout: Duration::from_secs(1),
                remote_timeout: Duration::from_secs(120),
                inode_capacity: 100_000,
                dentry_capacity: 200_000,
                dirty_background: 0,
                dirty_expire: Duration::from_secs(30),
                dirty_limit: None,
                queue_bytes: 0,
                conflict_policy: ConflictPolicy::default(),
                recall_timeout: Duration::from_secs(45),
            },
            readahead_max: 4 << 20,
            memory_bytes: 256 << 20,
            dirty_limits: None,
            driver_threads: 2,
            clock: Arc::new(SystemClock),
            backend: None,
            fills: FillConfig::default(),
            fscache: FsCacheConfig::default(),
            dirty_log: None,
            replay_as: None,
        }
    }
}

impl Builder {
    /// The byte budget of the page cache (default 256 MiB, at least one 256 KiB granule).
    #[must_use]
    pub fn memory_bytes(mut self, bytes: u64) -> Builder {
        self.memory_bytes = bytes;
        self
    }

    /// The disk cache (default none).
    #[must_use]
    pub fn cache(mut self, backend: Arc<dyn CacheBackend>) -> Builder {
        self.backend = Some(backend);
        self
    }

    /// How much may be dirty: above `background` bytes files are flushed, at `limit` writers wait, those of a
    /// volume in turn (default: an eighth and a half of the budget, which they are part of). One volume's bytes
    /// are at most eight times what is still free of the limit, so one alone has 8/9 of it, and a server that
    /// hangs stops no writer of another; with many such servers there may be a page for each above the limit.
    #[must_use]
    pub fn dirty_bytes(mut self, background: u64, limit: u64) -> Builder {
        self.dirty_limits = Some((background, limit));
        self
    }

    /// A log of dirty bytes on this machine's storage (default none), for files opened at
    /// [`Durability::Journal`](crate::Durability::Journal): see [`dirtylog`](crate::dirtylog). A mount of a
    /// volume of which it has bytes makes them dirty again before it returns.
    #[must_use]
    pub fn dirty_log(mut self, log: Arc<dyn DirtyLog>) -> Builder {
        self.dirty_log = Some(log);
        self
    }

    /// With whose credentials the bytes are uploaded that a log brings back (default, and for owners that
    /// `of` does not know: those of the mount).
    #[must_use]
    pub fn replay_as(
        mut self,
        of: impl Fn(OwnerId) -> Option<Cx> + Send + Sync + 'static,
    ) -> Builder {
        self.replay_as = Some(Arc::new(of));
        self
    }

    /// Age at which dirty bytes are flushed (default 30 s).
    #[must_use]
    pub fn dirty_expire(mut self, age: Duration) -> Builder {
        self.options.dirty_expire = age;
        self
    }

    /// What becomes of bytes written here when somebody else has changed the file meanwhile (default
    /// [`ConflictPolicy::Merge`]).
    #[must_use]
    pub fn conflict_policy(mut self, policy: ConflictPolicy) -> Builder {
        self.options.conflict_policy = policy;
        self
    }

    /// Longest the uploads before a recalled promise is given back may take (default 45 s, half of the lease
    /// that NFS servers usually give: one that waits longer takes the promise away).
    #[must_use]
    pub fn recall_timeout(mut self, timeout: Duration) -> Builder {
        self.options.recall_timeout = timeout;
        self
    }

    /// Threads that run adapters and background work (default 2).
    #[must_use]
    pub fn driver_threads(mut self, threads: usize) -> Builder {
        self.driver_threads = threads;
        self
    }

    /// The clock (default `CLOCK_BOOTTIME`).
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Builder {
        self.clock = clock;
        self
    }

    /// How much a miss fetches (default [`FillPolicy::Auto`]).
    #[must_use]
    pub fn fill(mut self, fill: FillPolicy) -> Builder {
        self.options.fill = fill;
        self
    }

    /// Largest readahead of a sequential stream in bytes (default 4 MiB; 0 = none). A stream never has
    /// more than 1/128 of the memory budget ahead, but at least 16 KiB (a granule with
    /// [`FillPolicy::Granule`]).
    #[must_use]
    pub fn readahead_max(mut self, bytes: u64) -> Builder {
        self.readahead_max = bytes;
        self
    }

    /// Bytes that may wait to be copied to the disk cache (default 64 MiB, at most a quarter of the
    /// budget, which they are part of), and what happens when that is reached (default: drop,
    /// counted).
    #[must_use]
    pub fn fill_queue(mut self, bytes: u64, when_full: FillWhenFull) -> Builder {
        self.fills.bytes_max = bytes;
        self.fills.when_full = when_full;
        self
    }

    /// Longest a read waits for the disk cache to find an object before it asks the server
    /// (default 20 ms).
    #[must_use]
    pub fn cache_wait(mut self, wait: Duration) -> Builder {
        self.fscache.cache_wait = wait;
        self
    }

    /// Longest a read waits for bytes the disk cache has before it asks the server (default 1 s): a
    /// hung disk must not hang readers.
    #[must_use]
    pub fn cache_read_timeout(mut self, wait: Duration) -> Builder {
        self.options.cache_read_timeout = wait;
        self
    }

    /// How long an unused cookie keeps its object open (row 103; default 10 s).
    #[must_use]
    pub fn cookie_lru(mut self, delay: Duration) -> Builder {
        self.fscache.lru_delay = delay;
        self
    }

    /// Longest a call to the server may take (default 120 s). A read is then abandoned and tried once more
    /// in fresh memory; another call fails with `ETIMEDOUT`.
    #[must_use]
    pub fn remote_timeout(mut self, timeout: Duration) -> Builder {
        self.options.remote_timeout = timeout;
        self
    }

    /// Inodes kept when nobody uses them (default 100,000): the attribute cache.
    #[must_use]
    pub fn inode_capacity(mut self, inodes: u64) -> Builder {
        self.options.inode_capacity = inodes;
        self
    }

    /// Names kept, found and not found (default 200,000).
    #[must_use]
    pub fn dentry_capacity(mut self, names: u64) -> Builder {
        self.options.dentry_capacity = names;
        self
    }

    /// Starts the driver threads.
    ///
    /// # Errors
    /// `EINVAL` for a budget below one granule or no driver threads; the operating system's error if
    /// threads cannot be started; the log's if it cannot be read.
    pub fn build(self) -> Result<Netfs> {
        if self.memory_bytes < GRANULE as u64 {
            return Err(Error::new(
                Errno::EINVAL,
                format!("memory_bytes {} is below one granule ({GRANULE})", self.memory_bytes),
            ));
        }
        if self.driver_threads == 0 {
            return Err(Error::new(Errno::EINVAL, "driver_threads must be at least 1"));
        }
        let log = self.dirty_log.map(open_log).transpose()?;
        let (journal, earlier) = log.map_or_else(Default::default, |(j, e)| (Some(Arc::new(j)), e));
        let runtime = driver::start(self.driver_threads)
            .map_err(|e| Error::io(e, "starting the driver threads"))?;
        let counters = Arc::new(Counters::default());
        let driver = runtime.handle().clone();
        let waits = Arc::<Waits>::default();
        let fscache = FsCache::new(
            driver.clone(),
            Arc::clone(&self.clock),
            Arc::clone(&counters),
            Arc::clone(&waits),
            self.fscache,
        );
        // Queued slices keep folios in memory after their eviction, so the queue's bytes are taken off
        // the folios' part: together they stay within the budget.
        let mut fills = self.fills;
        fills.bytes_max = fills.bytes_max.min(self.memory_bytes / 4);
        let queue = if self.backend.is_some() { fills.bytes_max } else { 0 };
        let folio_bytes = (self.memory_bytes - queue).max(GRANULE as u64);
        let fills = FillQueue::new(Arc::clone(&fscache), fills);
        if let Some(backend) = self.backend {
            let (cache, patience) = (Arc::clone(&fscache), self.options.close_patience);
            let attach = driver.spawn(async move { cache.attach(backend, patience).await });
            // Nothing was attached before, so there is nothing to wait for and nothing to fail.
            drop(driver::block_on(attach));
        }
        let readahead = Tuning::new(self.options.fill, self.readahead_max, folio_bytes);
        let (background, limit) = self.dirty_limits.unwrap_or((folio_bytes / 8, folio_bytes / 2));
        let limit = dirty_limit(folio_bytes, Some(limit));
        let dirty_background = background.min(limit);
        let core = Core {
            folios: FolioCache::with_dirty_limit(folio_bytes, limit, Arc::clone(&counters)),
            options: Options {
                readahead,
                dirty_background,
                dirty_limit: self.dirty_limits.map(|(_, limit)| limit),
                queue_bytes: queue,
                ..self.options
            },
            flusher: Arc::default(),
            clock: self.clock,
            counters,
            driver,
            fscache,
            fills,
            intents: Arc::default(),
            fetches: Arc::default(),
            waits,
            closed: false.into(),
            journal,
            earlier,
            replay_as: self.replay_as,
            next_inode: AtomicU64::new(1),
            volumes: Mutex::default(),
            resizing: Mutex::default(),
        };
        Ok(Netfs::start(runtime, core))
    }
}

/// How much of `folio_bytes` may be dirty: what was asked for, at most a half.
pub(super) fn dirty_limit(folio_bytes: u64, asked: Option<u64>) -> u64 {
    let page = PAGE_SIZE as u64;
    asked.unwrap_or(u64::MAX).clamp(page, (folio_bytes / 2).max(page))
}
