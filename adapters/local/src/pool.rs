//! A few threads for system calls that may block, started as they are needed.
//!
//! The adapter brings its own so that a hung mount occupies neither the core's driver threads nor a
//! host runtime's blocking pool, and works under any executor. The queue is as long as the core's
//! requests in flight, whose memory the core's budget bounds already.
//!
//! What must be done one after the other waits in a [lane](Lane), not on a thread: however much of one file is to
//! be written, and however slowly, it has one thread, and everything else has the others.

use std::{
    collections::{HashMap, VecDeque},
    io, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::Duration,
};

use netfs::{Errno, Error, Result};
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

/// To be run if it is given `Ok`; else the error is all that comes of it.
type Job = Box<dyn FnOnce(Result<()>) + Send>;

/// Starts one of the threads.
type Start = fn(Arc<Inner>) -> io::Result<()>;

/// How long a thread without work stays.
const IDLE: Duration = Duration::from_secs(10);

/// What happens to one file one after the other.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Lane {
    /// Its changes, so that each knows the version it found.
    Changes(Arc<[u8]>),
    /// Its syncs: an error is told to one of them only.
    Syncs(Arc<[u8]>),
}

struct Task {
    job: Job,
    lane: Option<Lane>,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Task>,
    /// What waits for the lane's job that is queued or runs now. A lane without one has no entry.
    lanes: HashMap<Lane, VecDeque<Job>>,
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
    start: Start,
}

impl Pool {
    pub(crate) fn new(max_threads: usize) -> Pool {
        Pool { inner: Arc::default(), max_threads: max_threads.max(1), start }
    }

    /// Runs `job` on one of the threads, after all jobs that came into its `lane` before.
    ///
    /// # Errors
    /// `EAGAIN` if no thread could be started and none is there; `ECANCELED` if the job panicked.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        lane: Option<Lane>,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let (tx, rx) = oneshot::channel();
        let job = Box::new(move |go: Result<()>| {
            // The caller may have gone; its job was run for its effects then.
            let _ = tx.send(go.map(|()| job()));
        });
        self.push(lane, job);
        let gone = |_| Error::new(Errno::ECANCELED, "a call on the local tree was abandoned");
        rx.await.map_err(gone)?
    }

    fn push(&self, lane: Option<Lane>, job: Job) {
        let mut state = self.inner.state.lock();
        if let Some(lane) = &lane {
            if let Some(waiting) = state.lanes.get_mut(lane) {
                waiting.push_back(job);
                return;
            }
            state.lanes.insert(lane.clone(), VecDeque::new());
        }
        state.jobs.push_back(Task { job, lane });
        if state.idle >= state.jobs.len() || state.threads >= self.max_threads {
            self.inner.work.notify_one();
            return;
        }
        state.threads += 1;
        drop(state);
        let Err(e) = (self.start)(Arc::clone(&self.inner)) else { return };
        let mut state = self.inner.state.lock();
        state.threads -= 1;
        if state.threads > 0 {
            return; // Whoever is there or about to be runs it; or the last of them to fail gets here.
        }
        // Nobody would ever run any of them, whoever queued them: some relied on threads that did not come.
        let (jobs, lanes) = (mem::take(&mut state.jobs), mem::take(&mut state.lanes));
        drop(state);
        // Outside the lock: a job's own drop (a sub reporting its cancellation) may do anything.
        let failed = Error::io(e, "starting a thread for calls on the local tree");
        let waiting = lanes.into_values().flatten();
        for job in jobs.into_iter().map(|task| task.job).chain(waiting) {
            job(Err(failed.clone()));
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut state = self.inner.state.lock();
        state.closed = true;
        let abandoned = (mem::take(&mut state.jobs), mem::take(&mut state.lanes));
        drop(state);
        self.inner.work.notify_all();
        // Outside the lock, as in `push`.
        drop(abandoned);
    }
}

fn start(inner: Arc<Inner>) -> io::Result<()> {
    thread::Builder::new().name("netfs-local".into()).spawn(move || work(&inner)).map(drop)
}

fn work(inner: &Inner) {
    while let Some(Task { job, lane }) = next(inner) {
        // The thread outlives a panic, which has been reported by the hook; the caller gets ECANCELED
        // because the job's channel went with it.
        let _ = catch_unwind(AssertUnwindSafe(|| job(Ok(()))));
        if let Some(lane) = lane {
            advance(inner, lane);
        }
    }
}

/// The lane's next job takes its place at the end of the queue: it had its turn.
fn advance(inner: &Inner, lane: Lane) {
    let mut state = inner.state.lock();
    match state.lanes.get_mut(&lane).and_then(VecDeque::pop_front) {
        // This thread looks for a job next, so there is one for it.
        Some(job) => state.jobs.push_back(Task { job, lane: Some(lane) }),
        None => _ = state.lanes.remove(&lane),
    }
}

/// The next job; `None` ends the thread, which is out of the count when the lock is let go, so that
/// nobody queues a job for a thread that has already decided to leave.
fn next(inner: &Inner) -> Option<Task> {
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
    use std::{
        sync::{
            Barrier,
            atomic::{AtomicUsize, Ordering},
            mpsc,
        },
        task::{Context, Waker},
    };

    use super::*;

    fn lane(name: &str) -> Option<Lane> {
        Some(Lane::Changes(name.as_bytes().into()))
    }

    /// Queues a job, and says later what it returned. The bound is for a defect only.
    fn queue<T: Send + 'static>(
        pool: &Arc<Pool>,
        lane: Option<Lane>,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> impl FnOnce() -> T {
        let (tx, rx) = mpsc::channel();
        let mut call = Box::pin({
            let pool = Arc::clone(pool);
            async move { pool.run(lane, move || _ = tx.send(job())).await }
        });
        // It is in the queue once it was polled.
        let polled = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        move || {
            drop((call, polled));
            rx.recv_timeout(Duration::from_secs(60)).expect("it was run")
        }
    }

    #[test]
    fn jobs_run_and_a_panicking_one_hurts_nobody_else() {
        let pool = Pool::new(2);
        for lane in [None, lane("a")] {
            let boom =
                pollster::block_on(pool.run(lane.clone(), || -> u32 { panic!("on purpose") }));
            assert_eq!(boom.unwrap_err().errno(), Errno::ECANCELED);
            for n in 0..20 {
                let twice = pollster::block_on(pool.run(lane.clone(), move || n * 2));
                assert_eq!(twice.unwrap(), n * 2);
            }
        }
    }

    /// A gate that is shut, and how to open it.
    fn gate() -> (impl FnOnce() + Send + 'static, impl FnOnce()) {
        let (open, gate) = mpsc::channel::<()>();
        (move || _ = gate.recv(), move || drop(open))
    }

    #[test]
    fn a_lane_has_one_thread_whatever_waits_in_it() {
        let pool = Arc::new(Pool::new(2));
        let (shut, open) = gate();
        let first = queue(&pool, lane("slow"), shut);
        let (shut, open_2) = gate();
        let second = queue(&pool, lane("slow"), shut);
        let rest: Vec<_> = (0..50).map(|n| queue(&pool, lane("slow"), move || n)).collect();
        // Queued behind all of those, and none of them can end.
        for other in [None, lane("fast"), Some(Lane::Syncs(b"slow"[..].into()))] {
            assert_eq!(queue(&pool, other, || "run")(), "run");
        }
        open();
        open_2();
        first();
        second();
        for (n, job) in rest.into_iter().enumerate() {
            assert_eq!(job(), n);
        }
        pollster::block_on(pool.run(lane("slow"), || ())).unwrap();
        let lanes = || pool.inner.state.lock().lanes.len();
        while lanes() > 0 {
            thread::yield_now(); // the last job's thread is about to see to it
        }
    }

    /// Two threads fail to start at once, while more jobs rely on them.
    #[test]
    fn what_no_thread_will_run_is_told_so_and_never_run_later() {
        static BOTH: Barrier = Barrier::new(3);
        let failing = |_| {
            BOTH.wait();
            Err(io::Error::from_raw_os_error(libc::EAGAIN))
        };
        let pool = Arc::new(Pool { inner: Arc::default(), max_threads: 2, start: failing });
        let ran = Arc::new(AtomicUsize::new(0));
        let (tx, rx) = mpsc::channel();
        let call = |lane: Option<Lane>| {
            let (pool, ran, tx) = (Arc::clone(&pool), Arc::clone(&ran), tx.clone());
            let job = move || _ = ran.fetch_add(1, Ordering::SeqCst);
            move || _ = tx.send(pollster::block_on(pool.run(lane, job)).map_err(|e| e.errno()))
        };
        let queued = |n| {
            let state = pool.inner.state.lock();
            state.jobs.len() + state.lanes.values().map(VecDeque::len).sum::<usize>() == n
        };
        for (n, lane) in [lane("a"), None, None, lane("a"), lane("b"), lane("b")].iter().enumerate()
        {
            // The first two start threads; the others find as many as there may be.
            thread::spawn(call(lane.clone()));
            while !queued(n + 1) {
                thread::yield_now();
            }
        }
        BOTH.wait();
        for n in 0..6 {
            let told = rx.recv_timeout(Duration::from_secs(60));
            assert_eq!(told.expect("an answer"), Err(Errno::EAGAIN), "answer {n}");
        }
        assert!(queued(0) && pool.inner.state.lock().threads == 0);
        let pool = Pool { inner: Arc::clone(&pool.inner), max_threads: 2, start };
        for lane in [None, lane("a")] {
            pollster::block_on(pool.run(lane, || ())).unwrap();
        }
        assert_eq!(ran.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn jobs_of_a_lane_run_in_their_order_and_never_two_at_once() {
        let pool = Arc::new(Pool::new(4));
        let (running, order) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (shut, open) = gate();
        let first = queue(&pool, lane("a"), shut);
        let jobs: Vec<_> = (0..200)
            .map(|n| {
                let (running, order) = (Arc::clone(&running), Arc::clone(&order));
                queue(&pool, lane("a"), move || {
                    let others = running.fetch_add(1, Ordering::SeqCst);
                    order.lock().push(n);
                    thread::yield_now();
                    running.fetch_sub(1, Ordering::SeqCst);
                    others
                })
            })
            .collect();
        open();
        first();
        for job in jobs {
            assert_eq!(job(), 0);
        }
        assert_eq!(*order.lock(), (0..200).collect::<Vec<_>>());
    }
}
