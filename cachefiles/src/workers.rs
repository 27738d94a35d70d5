//! The cache's own I/O threads: a hung disk occupies these, never a thread of the host's runtime.
//!
//! Two lanes: what a reader waits for (lookups, reads, commits) and fills. A worker takes from the
//! fill lane only when nothing waits in the other. The channels themselves are unbounded; how much
//! may be in them is bounded by [`Gate`]s at the door, so that ending an object is never refused.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{JoinHandle, ThreadId},
};

use crossbeam::channel::{Receiver, Sender, TryRecvError, select, unbounded};
use netfs::fscache::Refusal;
use parking_lot::{Mutex, RwLock};

/// Something to do on an I/O thread.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Which queue a job goes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lane {
    /// Somebody waits for it.
    Urgent,
    /// A fill.
    Fill,
}

struct Lanes {
    urgent: Sender<Job>,
    fill: Sender<Job>,
}

/// The threads.
pub(crate) struct Workers {
    lanes: RwLock<Option<Lanes>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    ids: Vec<ThreadId>,
}

impl Workers {
    /// Starts `count` threads.
    pub(crate) fn start(count: usize) -> std::io::Result<Workers> {
        let (urgent, urgent_jobs) = unbounded();
        let (fill, fill_jobs) = unbounded();
        let mut threads = Vec::new();
        for i in 0..count {
            let (urgent, fill) = (urgent_jobs.clone(), fill_jobs.clone());
            let name = format!("cachefiles-io-{i}");
            threads
                .push(std::thread::Builder::new().name(name).spawn(move || work(&urgent, &fill))?);
        }
        let lanes = RwLock::new(Some(Lanes { urgent, fill }));
        let ids = threads.iter().map(|t| t.thread().id()).collect();
        Ok(Workers { lanes, threads: Mutex::new(threads), ids })
    }

    /// Queues a job; dropped if the cache is withdrawn.
    pub(crate) fn submit(&self, lane: Lane, job: Job) -> Result<(), Refusal> {
        let lanes = self.lanes.read();
        let lanes = lanes.as_ref().ok_or(Refusal::Withdrawn)?;
        let queue = match lane {
            Lane::Urgent => &lanes.urgent,
            Lane::Fill => &lanes.fill,
        };
        queue.send(job).map_err(|_| Refusal::Withdrawn)
    }

    /// Whether the caller runs on one of the threads.
    pub(crate) fn is_current_thread(&self) -> bool {
        self.ids.contains(&std::thread::current().id())
    }

    /// Takes no more jobs, does those that were queued, ends the threads.
    pub(crate) fn stop(&self) {
        *self.lanes.write() = None;
        let own = std::thread::current().id();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // The last reference to a cache may be dropped by one of its own jobs.
            if thread.thread().id() != own && thread.join().is_err() {
                tracing::error!("an I/O thread of the cache panicked");
            }
        }
    }
}

fn work(urgent: &Receiver<Job>, fill: &Receiver<Job>) {
    while let Some(job) = next(urgent, fill) {
        // A job's panic must not take the thread along: its guards end the sub it was given.
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            tracing::error!("a job of the cache panicked");
        }
    }
}

fn next(urgent: &Receiver<Job>, fill: &Receiver<Job>) -> Option<Job> {
    match urgent.try_recv() {
        Ok(job) => return Some(job),
        Err(TryRecvError::Disconnected) => return fill.recv().ok(),
        Err(TryRecvError::Empty) => {}
    }
    select! {
        recv(urgent) -> job => job.ok().or_else(|| fill.recv().ok()),
        recv(fill) -> job => job.ok().or_else(|| urgent.recv().ok()),
    }
}

/// A bound on what is in flight.
#[derive(Debug)]
pub(crate) struct Gate {
    inside: AtomicUsize,
    max: usize,
}

impl Gate {
    /// At most `max` at a time.
    pub(crate) fn new(max: usize) -> Arc<Gate> {
        Arc::new(Gate { inside: AtomicUsize::new(0), max })
    }

    /// In, or refused at once.
    pub(crate) fn enter(self: &Arc<Gate>) -> Result<Pass, Refusal> {
        self.inside
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < self.max).then_some(n + 1))
            .map_err(|_| Refusal::Busy)?;
        Ok(Pass(Arc::clone(self)))
    }
}

/// A place inside a [`Gate`].
#[derive(Debug)]
pub(crate) struct Pass(Arc<Gate>);

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_lets_in_as_many_as_it_says() {
        let gate = Gate::new(2);
        let first = gate.enter();
        let _second = gate.enter();
        assert!(matches!(gate.enter(), Err(Refusal::Busy)));
        drop(first);
        assert!(gate.enter().is_ok());
    }

    #[test]
    fn queued_jobs_are_done_before_the_threads_end() {
        let workers = Workers::start(2).expect("threads");
        let done = Arc::new(AtomicUsize::new(0));
        for i in 0..100 {
            let done = Arc::clone(&done);
            let lane = if i % 2 == 0 { Lane::Urgent } else { Lane::Fill };
            let job = Box::new(move || {
                assert!(i != 50, "one job panics; the others are done all the same");
                done.fetch_add(1, Ordering::Relaxed);
            });
            workers.submit(lane, job).expect("running");
        }
        workers.stop();
        assert_eq!(done.load(Ordering::Relaxed), 99);
        assert_eq!(workers.submit(Lane::Fill, Box::new(|| ())), Err(Refusal::Withdrawn));
    }
}
