//! One phase: the whole tree read through a cache by a few threads, every byte compared.
//!
//! One thread walks the mount and hands out files, the readers read each in steps of 1 MiB and compare
//! every step with the origin, read directly. The time of comparing is measured and taken off.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crossbeam::channel::{Receiver, bounded};
use netfs::{
    File, FillWhenFull, Mount, Netfs,
    remote::{Cred, Cx},
};
use netfs_local::LocalFs;

use super::{
    compare::{Mismatch, Reference},
    place::open_cache,
    report::PhaseReport,
    walk::{Task, Walker},
};
use crate::{
    args::Tuning,
    failure::Failure,
    interrupt::Interrupt,
    progress::{Progress, say},
};

/// One read.
const STEP: usize = 1 << 20;

/// Files found but not yet being read.
const FOUND_AHEAD: usize = 256;

/// Longest wait for the disk cache. The demo shows what the cache has, so it waits for a busy disk
/// where a mount would rather ask the server.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a session needs.
#[derive(Clone, Copy)]
pub(crate) struct Setup<'a> {
    pub(crate) origin: &'a Path,
    pub(crate) cache: &'a Path,
    /// Bytes of the tree, for the progress bar.
    pub(crate) total_bytes: u64,
    pub(crate) tuning: &'a Tuning,
    pub(crate) progress: &'a Progress,
    pub(crate) interrupt: &'a Interrupt,
}

/// A cache with the origin mounted.
pub(crate) struct Session<'a> {
    setup: Setup<'a>,
    netfs: Netfs,
    mount: Mount,
    cx: Cx,
}

impl<'a> Session<'a> {
    /// Opens the cache and mounts the origin.
    pub(crate) fn open(setup: Setup<'a>) -> Result<Session<'a>, Failure> {
        let fs =
            LocalFs::builder(setup.origin).open().map_err(Failure::netfs("open the origin"))?;
        let netfs = Netfs::builder()
            .cache(open_cache(setup.cache)?)
            .memory_bytes(setup.tuning.memory_bytes)
            .fill_queue(64 << 20, FillWhenFull::Wait { max: PATIENCE })
            .cache_wait(PATIENCE)
            .cache_read_timeout(PATIENCE)
            .build()
            .map_err(Failure::netfs("start"))?;
        let cx = Cx::new(Cred::current());
        let mount =
            pollster::block_on(netfs.mount(fs, &cx)).map_err(Failure::netfs("mount the origin"))?;
        Ok(Session { setup, netfs, mount, cx })
    }

    /// Reads everything once and waits until it is stored.
    pub(crate) fn phase(&self, name: &str) -> Result<PhaseReport, Failure> {
        self.setup.progress.start(&format!("phase {name}"), self.setup.total_bytes);
        let before = self.netfs.stats();
        let started = Instant::now();
        let read = self.read_all();
        let read = read.inspect_err(|_| self.setup.progress.finish())?;
        pollster::block_on(self.netfs.drain_fills());
        let wall = started.elapsed();
        self.setup.progress.finish();
        let stats = self.netfs.stats().since(&before);
        tracing::debug!(phase = name, ?stats, cache = ?self.netfs.cache_stats(), "phase done");
        if stats.fill_dropped_bytes > 0 {
            say(&format!("{} bytes were read but not cached", stats.fill_dropped_bytes));
        }
        // The readers compare at the same time, so that it took the phase their mean.
        let comparing = read.comparing / u32::from(self.setup.tuning.readers);
        let seconds = wall.saturating_sub(comparing).as_secs_f64();
        let mut report = PhaseReport::new(name, read.files, read.bytes, seconds, &stats);
        report.wrong_bytes = print_mismatches(name, &read.mismatches);
        Ok(report)
    }

    /// Closes the cache, so that another process may open it.
    pub(crate) fn close(self) {
        drop(self.mount);
        let left = self.netfs.blocking_shutdown(PATIENCE);
        if !left.is_nothing() {
            say(&format!("out of time: {left}"));
        }
    }

    fn read_all(&self) -> Result<Tally, Failure> {
        let reference = self.setup.tuning.reference.as_deref().unwrap_or(self.setup.origin);
        let interrupt = self.setup.interrupt;
        let walker = Walker { mount: &self.mount, cx: &self.cx, reference, interrupt };
        let (found, tasks) = bounded(FOUND_AHEAD);
        let failed = AtomicBool::new(false);
        thread::scope(|scope| {
            let readers: Vec<_> = (0..self.setup.tuning.readers)
                .map(|_| {
                    let reader = Reader { session: self, reference, failed: &failed };
                    let tasks = tasks.clone();
                    scope.spawn(move || reader.run(&tasks))
                })
                .collect();
            drop(tasks);
            let names = walker.walk(|task| found.send(task).is_ok());
            drop(found);
            let mut total = Tally::default();
            let mut failure = None;
            for reader in readers {
                match reader.join() {
                    Ok(Ok(tally)) => total.add(tally),
                    Ok(Err(e)) => failure = Some(e),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            total.mismatches.extend(names?);
            failure.map_or(Ok(total), Err)
        })
    }
}

/// What readers did.
#[derive(Default)]
struct Tally {
    files: u64,
    bytes: u64,
    comparing: Duration,
    mismatches: Vec<Mismatch>,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.comparing += other.comparing;
        self.mismatches.extend(other.mismatches);
    }
}

/// One reading thread.
struct Reader<'a> {
    session: &'a Session<'a>,
    reference: &'a Path,
    /// Another reader has failed.
    failed: &'a AtomicBool,
}

impl Reader<'_> {
    fn run(&self, tasks: &Receiver<Task>) -> Result<Tally, Failure> {
        let mut tally = Tally::default();
        let mut buf = vec![0; STEP];
        let mut spare = Vec::new();
        for task in tasks {
            if self.failed.load(Ordering::Relaxed) {
                break;
            }
            spare = self
                .file(&task, &mut buf, spare, &mut tally)
                .inspect_err(|_| self.failed.store(true, Ordering::Relaxed))?;
            thread::sleep(self.session.setup.tuning.delay_per_file());
        }
        Ok(tally)
    }

    /// Reads one file to its end; `spare` is the buffer for the origin's own bytes.
    fn file(
        &self,
        task: &Task,
        buf: &mut [u8],
        spare: Vec<u8>,
        tally: &mut Tally,
    ) -> Result<Vec<u8>, Failure> {
        let setup = &self.session.setup;
        let direct = self.reference.join(&task.path);
        let unread = || Failure::netfs(format!("read {:?}", task.path.display()));
        let file = self.open(task).map_err(unread())?;
        let timed = Instant::now();
        let mut reference =
            Reference::open(&direct, spare).map_err(Failure::io("open", &direct))?;
        tally.comparing += timed.elapsed();
        let mut at = 0;
        loop {
            setup.interrupt.check()?;
            let n = file.blocking().read_at(at, buf).map_err(unread())?;
            let timed = Instant::now();
            reference.compare(at, &buf[..n]).map_err(Failure::io("read", &direct))?;
            tally.comparing += timed.elapsed();
            at += n as u64;
            setup.progress.add(n as u64);
            if n < buf.len() {
                break;
            }
        }
        let timed = Instant::now();
        let (spare, mismatch) =
            reference.finish(&task.path, at).map_err(Failure::io("read", &direct))?;
        tally.comparing += timed.elapsed();
        tally.mismatches.extend(mismatch);
        tally.files += 1;
        tally.bytes += at;
        Ok(spare)
    }

    fn open(&self, task: &Task) -> netfs::Result<File> {
        pollster::block_on(self.session.mount.open(&task.node, &self.session.cx))
    }
}

/// Says where bytes were wrong; returns how many.
fn print_mismatches(phase: &str, mismatches: &[Mismatch]) -> u64 {
    const SHOWN: usize = 20;
    for m in mismatches.iter().take(SHOWN) {
        say(&format!(
            "WRONG in phase {phase}: {} {} ({} bytes)",
            m.path.display(),
            m.what,
            m.bytes
        ));
    }
    if mismatches.len() > SHOWN {
        say(&format!("WRONG in phase {phase}: {} more files", mismatches.len() - SHOWN));
    }
    mismatches.iter().map(|m| m.bytes).sum()
}

/// Waits until what was just changed in the origin has a version: before that nothing of it is stored.
pub(crate) fn settle(origin: &Path) -> Result<(), Failure> {
    let fs: Arc<LocalFs> = LocalFs::builder(PathBuf::from(origin))
        .open()
        .map_err(Failure::netfs("open the origin"))?;
    fs.settle();
    Ok(())
}
