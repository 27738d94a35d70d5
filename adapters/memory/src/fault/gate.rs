//! A gate that calls hang at, so that tests order events without sleeping.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Semaphore, watch};

/// How long [`Gate::wait_hit`] waits before it decides that the test is broken.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(60);

/// Calls that reach a gate hang until it is released. Clones are the same gate.
///
/// ```
/// # use netfs_memory::{Fault, Gate, MemoryFs, Op, SnapshotAt};
/// let fs = MemoryFs::builder().file("a", 10).build()?;
/// let gate = Gate::new();
/// fs.inject(Fault::on(Op::Read).file("a").hold(&gate, SnapshotAt::Issue));
/// // ... start a read of "a" on another thread; then:
/// // gate.wait_hit();                      // it hangs at the server
/// fs.change("a").rewrite()?;               // a third party changes the file meanwhile
/// gate.release();                          // the late reply has the old bytes
/// # Ok::<(), netfs::Error>(())
/// ```
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    /// One permit lets one call through; closed = open for all.
    permits: Semaphore,
    state: Mutex<State>,
    changed: Condvar,
    hits: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    hits: u64,
    waiting: usize,
}

impl Gate {
    /// A closed gate.
    #[must_use]
    pub fn new() -> Gate {
        Gate(Arc::new(Inner {
            permits: Semaphore::new(0),
            state: Mutex::default(),
            changed: Condvar::new(),
            hits: watch::Sender::new(0),
        }))
    }

    /// Lets everyone through, now and from now on.
    pub fn release(&self) {
        self.0.permits.close();
    }

    /// Lets one call through, the one that waits longest or else the next to come.
    pub fn release_one(&self) {
        self.0.permits.add_permits(1);
    }

    /// Whether [`release`](Gate::release) was called.
    #[must_use]
    pub fn is_released(&self) -> bool {
        self.0.permits.is_closed()
    }

    /// How many calls have reached the gate.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.0.state.lock().hits
    }

    /// How many calls hang at the gate now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.state.lock().waiting
    }

    /// Blocks the calling thread until a call has reached the gate.
    ///
    /// # Panics
    /// If none does within a minute: the test would hang for ever.
    pub fn wait_hit(&self) {
        self.wait_hits(1);
    }

    /// Blocks the calling thread until `n` calls have reached the gate, counted from its making.
    ///
    /// # Panics
    /// If they do not within a minute: the test would hang for ever.
    pub fn wait_hits(&self, n: u64) {
        let mut state = self.0.state.lock();
        while state.hits < n {
            let late = self.0.changed.wait_for(&mut state, WATCHDOG).timed_out();
            assert!(
                !late || state.hits >= n,
                "gate: {} of {n} calls arrived in a minute",
                state.hits
            );
        }
    }

    /// Completes once `n` calls have reached the gate: [`wait_hits`](Gate::wait_hits) for async tests.
    pub fn hit(&self, n: u64) -> impl Future<Output = ()> + Send + 'static {
        let mut hits = self.0.hits.subscribe();
        // The gate is kept alive, so the sender is too and the wait cannot fail.
        let gate = self.clone();
        async move {
            let _ = hits.wait_for(|&h| h >= n).await;
            drop(gate);
        }
    }

    /// Hangs until let go. A dropped future leaves the gate.
    pub(crate) async fn pass(&self) {
        let hits = {
            let mut state = self.0.state.lock();
            state.hits += 1;
            state.waiting += 1;
            state.hits
        };
        let _leave = Leave(&self.0);
        // Concurrent arrivals may report out of order; the count must not go back.
        self.0.hits.send_if_modified(|h| std::mem::replace(h, hits.max(*h)) < hits);
        self.0.changed.notify_all();
        if let Ok(permit) = self.0.permits.acquire().await {
            permit.forget();
        }
    }
}

impl Default for Gate {
    fn default() -> Self {
        Gate::new()
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let State { hits, waiting } = *self.0.state.lock();
        write!(f, "Gate({hits} hits, {waiting} waiting)")
    }
}

struct Leave<'a>(&'a Inner);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.state.lock().waiting -= 1;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_gate_holds_until_released() {
        let gate = Gate::new();
        let mut first = Box::pin(gate.pass());
        let mut second = Box::pin(gate.pass());
        assert!((&mut first).now_or_never().is_none());
        assert!((&mut second).now_or_never().is_none());
        gate.wait_hits(2);
        assert_eq!((gate.hits(), gate.waiting()), (2, 2));
        gate.release_one();
        assert!((&mut first).now_or_never().is_some());
        assert!((&mut second).now_or_never().is_none());
        gate.release();
        assert!(second.now_or_never().is_some());
        assert_eq!(gate.waiting(), 0);
        assert!(gate.pass().now_or_never().is_some());
    }

    #[test]
    fn a_dropped_call_leaves_the_gate() {
        let gate = Gate::new();
        let mut call = Box::pin(gate.pass());
        assert!((&mut call).now_or_never().is_none());
        drop(call);
        assert_eq!((gate.hits(), gate.waiting()), (1, 0));
        assert!(gate.hit(1).now_or_never().is_some());
        assert!(gate.hit(2).now_or_never().is_none());
    }
}
