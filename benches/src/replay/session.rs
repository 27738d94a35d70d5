//! One life of the cache: opened, used for a phase, closed.

use std::{
    ops::Range,
    sync::{Arc, OnceLock, atomic::AtomicU64},
    thread,
    time::Duration,
};

use cachefiles::CacheDir;
use netfs::{
    File, FillWhenFull, Mount, Netfs,
    remote::{Cred, Cx},
};

use super::{
    Config, Phase, ReplayError, Watch,
    origin::{Origin, path},
    tally::Tally,
    worker::Worker,
};

/// Longest wait for the disk cache. A replay shows what the cache has, so it waits for a busy disk
/// where a mount would rather ask the server.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes that may wait to be copied to the disk cache.
const FILL_QUEUE: u64 = 64 << 20;

/// A cache with the origin mounted, and the trace's files, opened at their first use.
pub(super) struct Session<'a> {
    pub(super) origin: &'a Origin<'a>,
    pub(super) config: &'a Config,
    pub(super) netfs: Netfs,
    mount: Mount,
    cx: Cx,
    files: Vec<OnceLock<File>>,
    /// Requests begun, for [`Config::lie_at`].
    pub(super) begun: AtomicU64,
}

impl<'a> Session<'a> {
    pub(super) fn open(
        origin: &'a Origin<'a>,
        config: &'a Config,
    ) -> Result<Session<'a>, ReplayError> {
        let mut builder = Netfs::builder()
            .memory_bytes(config.memory_bytes)
            .fill(config.fill.policy())
            .fill_queue(FILL_QUEUE, FillWhenFull::Wait { max: PATIENCE })
            .cache_wait(PATIENCE)
            .cache_read_timeout(PATIENCE);
        if config.threads <= 1 {
            // In the order in which they were started, so that reclaim finds the same every time.
            builder = builder.driver_threads(1);
        }
        if let Some(dir) = &config.cache {
            builder = builder.cache(CacheDir::builder(dir).open()?);
        }
        let netfs = builder.build().map_err(ReplayError::netfs("start the cache"))?;
        let cx = Cx::new(Cred::new(0, 0));
        let mount = netfs.blocking_mount(Arc::clone(&origin.fs), &cx);
        let mount = mount.map_err(ReplayError::netfs("mount the origin"))?;
        let files = origin.trace.files.iter().map(|_| OnceLock::new()).collect();
        Ok(Session { origin, config, netfs, mount, cx, files, begun: AtomicU64::new(0) })
    }

    /// Replays a part of the trace.
    pub(super) fn phase(
        &self,
        name: &'static str,
        part: Range<usize>,
        watch: &dyn Watch,
    ) -> Result<Phase, ReplayError> {
        watch.phase(name, part.len() as u64);
        let tally = if self.config.threads > 1 {
            self.threads(part, watch)?
        } else {
            let mut worker = Worker::new(self, watch, true)?;
            worker.run(part)?;
            worker.tally
        };
        pollster::block_on(self.netfs.settled());
        let stats = self.netfs.stats();
        if stats.fill_dropped_bytes > 0 {
            watch.note(&format!("{} bytes were read but not cached", stats.fill_dropped_bytes));
        }
        Phase::new(name, self, &tally, &stats)
    }

    /// Each file belongs to one thread.
    fn threads(&self, part: Range<usize>, watch: &dyn Watch) -> Result<Tally, ReplayError> {
        let parts = self.shares(part);
        thread::scope(|scope| {
            let run = |share: Vec<usize>| {
                let mut worker = Worker::new(self, watch, false)?;
                worker.run(share)?;
                Ok(worker.tally)
            };
            let threads: Vec<_> =
                parts.into_iter().map(|share| scope.spawn(move || run(share))).collect();
            let mut total = Tally::new()?;
            let mut failed = None;
            for thread in threads {
                match thread.join() {
                    Ok(Ok(tally)) => total.add(&tally)?,
                    Ok(Err(e)) => failed = Some(e),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            failed.map_or(Ok(total), Err)
        })
    }

    /// The requests of each thread: the busiest file first, to the thread with the least to do.
    fn shares(&self, part: Range<usize>) -> Vec<Vec<usize>> {
        let requests = &self.origin.trace.requests;
        let mut bytes = vec![0u64; self.files.len()];
        for request in &requests[part.clone()] {
            bytes[request.file as usize] += u64::from(request.len);
        }
        let mut order: Vec<usize> = (0..bytes.len()).collect();
        order.sort_by_key(|&file| std::cmp::Reverse(bytes[file]));
        let mut load = vec![0u64; self.config.threads];
        let mut owner = vec![0; bytes.len()];
        for file in order {
            let least = (0..load.len()).min_by_key(|&t| load[t]).unwrap_or(0);
            owner[file] = least;
            load[least] += bytes[file];
        }
        let mut shares = vec![Vec::new(); self.config.threads];
        for i in part {
            shares[owner[requests[i].file as usize]].push(i);
        }
        shares
    }

    /// The file, opened if it was not.
    pub(super) fn file(&self, number: u32) -> Result<&File, ReplayError> {
        let missing = || ReplayError::Internal(format!("there is no file {number}"));
        let slot = self.files.get(number as usize).ok_or_else(missing)?;
        if let Some(file) = slot.get() {
            return Ok(file);
        }
        let opened = self.mount.blocking().open(path(number as usize), &self.cx);
        let opened = opened.map_err(ReplayError::netfs(format!("open file {number}")))?;
        Ok(slot.get_or_init(|| opened))
    }

    /// Closes the cache, so that it can be opened again.
    pub(super) fn close(self, watch: &dyn Watch) {
        drop(self.files);
        drop(self.mount);
        let left = self.netfs.blocking_shutdown(PATIENCE);
        if !left.is_nothing() {
            watch.note(&format!("out of time: {left}"));
        }
    }
}
