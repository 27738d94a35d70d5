//! A few threads for system calls that may block, started as they are needed.
//!
//! The adapter brings its own so that a hung mount occupies neither the core's driver threads nor a
//! host runtime's blocking pool, and works under any executor. The queue is as long as the core's
//! requests in flight, whose memory the core's budget bounds already.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::Duration,
};

use netfs::{Errno, Error, Result};
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// How long a thread without work stays.
const IDLE: Duration = Duration::from_secs(10);

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    work: Condvar,
}

/// The threads. Dropping it lets running calls end on their own: a call stuck in a hung mount must
/// not hang its owner.
pub(crate) struct Pool {
    inner: Arc<Inner>,
    max_threads: usize,
}

impl Pool {
    pub(crate) fn new(max_threads: usize) -> Pool {
        Pool { inner: Arc::default(), max_threads: max_threads.max(1) }
    }

    /// Runs `job` on one of the threads.
    ///
    /// # Errors
    /// `EAGAIN` if no thread could be started and none is there; `ECANCELED` if the job panicked.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let (tx, rx) = oneshot::channel();
        self.push(Box::new(move || {
            // The caller may have gone; its job was run for its effects then.
            let _ = tx.send(job());
        }))?;
        rx.await.map_err(|_| Error::new(Errno::ECANCELED, "a call on the local tree was abandoned"))
    }

    fn push(&self, job: Job) -> Result<()> {
        let mut state = self.inner.state.lock();
        state.jobs.push_back(job);
        if state.idle >= state.jobs.len() || state.threads >= self.max_threads {
            self.inner.work.notify_one();
            return Ok(());
        }
        state.threads += 1;
        drop(state);
        let inner = Arc::clone(&self.inner);
        let started = thread::Builder::new().name("netfs-local".into()).spawn(move || work(&inner));
        let Err(e) = started else { return Ok(()) };
        let mut state = self.inner.state.lock();
        state.threads -= 1;
        if state.threads > 0 {
            return Ok(());
        }
        // Nobody would ever run it. Others may have queued behind it; each of them gets here too.
        state.jobs.pop_back();
        Err(Error::io(e, "starting a thread for calls on the local tree"))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut state = self.inner.state.lock();
        state.closed = true;
        let abandoned = std::mem::take(&mut state.jobs);
        drop(state);
        self.inner.work.notify_all();
        // Outside the lock: a job's own drop (a sub reporting its cancellation) may do anything.
        drop(abandoned);
    }
}

fn work(inner: &Inner) {
    while let Some(job) = next(inner) {
        // The thread outlives a panic, which has been reported by the hook; the caller gets ECANCELED
        // because the job's channel went with it.
        let _ = catch_unwind(AssertUnwindSafe(job));
    }
}

/// The next job; `None` ends the thread, which is out of the count when the lock is let go, so that
/// nobody queues a job for a thread that has already decided to leave.
fn next(inner: &Inner) -> Option<Job> {
    let mut state = inner.state.lock();
    loop {
        if let Some(job) = state.jobs.pop_front() {
            return Some(job);
        }
        if state.closed {
            state.threads -= 1;
            return None;
        }
        state.idle += 1;
        let timeout = inner.work.wait_for(&mut state, IDLE);
        state.idle -= 1;
        if timeout.timed_out() && state.jobs.is_empty() {
            state.threads -= 1;
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_run_and_a_panicking_one_hurts_nobody_else() {
        let pool = Pool::new(2);
        let boom = pollster::block_on(pool.run(|| -> u32 { panic!("on purpose") }));
        assert_eq!(boom.unwrap_err().errno(), Errno::ECANCELED);
        for n in 0..20 {
            assert_eq!(pollster::block_on(pool.run(move || n * 2)).unwrap(), n * 2);
        }
    }
}
