//! Time as a parameter: boot time (it runs through suspend, so a promise cannot outlive one), a
//! system clock, and a stepped clock for tests.

mod coarse;

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    ops::{Add, Sub},
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::future::BoxFuture;

use crate::sync::{Arc, Mutex};

/// An instant of the boot-time clock, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BootTime(u64);

impl BootTime {
    /// The earliest instant.
    pub const ZERO: BootTime = BootTime(0);
    /// An instant that never comes.
    pub const NEVER: BootTime = BootTime(u64::MAX);

    /// From nanoseconds since boot.
    #[must_use]
    pub const fn from_nanos(ns: u64) -> BootTime {
        BootTime(ns)
    }

    /// Nanoseconds since boot.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time since `earlier`, zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: BootTime) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for BootTime {
    type Output = BootTime;
    fn add(self, d: Duration) -> BootTime {
        BootTime(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for BootTime {
    type Output = BootTime;
    fn sub(self, d: Duration) -> BootTime {
        BootTime(self.0.saturating_sub(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Debug for BootTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", Duration::from_nanos(self.0))
    }
}

/// Where the library gets the time from. Implementations must never go backwards.
pub trait Clock: Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> BootTime;

    /// Whether `deadline` is still ahead. Exactly at it, it is not (P-D3). Every memory hit under a
    /// promise with a deadline asks this, so an implementation may find a "yes" in a cheaper way than by
    /// telling the time, if it is never a wrong one.
    fn is_ahead(&self, deadline: BootTime) -> bool {
        self.now() < deadline
    }

    /// Completes once `now() >= deadline`. Must be polled on the library's driver threads.
    fn sleep_until(&self, deadline: BootTime) -> BoxFuture<'static, ()>;
}

/// `CLOCK_BOOTTIME`. Whether a deadline is ahead is answered by the coarse clocks where that is safe.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> BootTime {
        let ts = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        // Boot time is never negative; a hostile value would only make promises expire.
        let secs = u64::try_from(ts.tv_sec).unwrap_or(0);
        let nanos = u64::try_from(ts.tv_nsec).unwrap_or(0);
        BootTime(secs.saturating_mul(1_000_000_000).saturating_add(nanos))
    }

    fn is_ahead(&self, deadline: BootTime) -> bool {
        coarse::surely_ahead(deadline.0) || self.now() < deadline
    }

    fn sleep_until(&self, deadline: BootTime) -> BoxFuture<'static, ()> {
        let clock = *self;
        Box::pin(async move {
            // tokio sleeps on the monotonic clock, which stops in suspend: loop until boot time agrees.
            loop {
                let left = deadline.since(clock.now());
                if left.is_zero() {
                    return;
                }
                tokio::time::sleep(left).await;
            }
        })
    }
}

/// A clock that only moves when told to, for tests: no test ever sleeps to wait for time.
///
/// ```
/// use netfs::clock::{Clock, StepClock};
/// use std::time::Duration;
/// let clock = StepClock::new();
/// let before = clock.now();
/// clock.advance(Duration::from_secs(10));
/// assert_eq!(clock.now().since(before), Duration::from_secs(10));
/// ```
#[derive(Clone, Default)]
pub struct StepClock(Arc<Mutex<Steps>>);

#[derive(Default)]
struct Steps {
    now: BootTime,
    next_id: u64,
    sleepers: BTreeMap<(BootTime, u64), Option<Waker>>,
}

impl StepClock {
    /// A clock that starts one hour after boot, so that subtracting margins never saturates.
    #[must_use]
    pub fn new() -> StepClock {
        let clock = StepClock::default();
        clock.0.lock().now = BootTime::ZERO + Duration::from_secs(3600);
        clock
    }

    /// Moves time forward and wakes everyone whose deadline has come.
    pub fn advance(&self, by: Duration) {
        let due: Vec<Waker> = {
            let mut steps = self.0.lock();
            steps.now = steps.now + by;
            let now = steps.now;
            steps.sleepers.range_mut(..=(now, u64::MAX)).filter_map(|(_, w)| w.take()).collect()
        };
        due.into_iter().for_each(Waker::wake);
    }

    /// How many sleeps are pending: a test can wait for work to reach its timer without sleeping.
    #[must_use]
    pub fn sleepers(&self) -> usize {
        self.0.lock().sleepers.len()
    }
}

impl Clock for StepClock {
    fn now(&self) -> BootTime {
        self.0.lock().now
    }

    fn sleep_until(&self, deadline: BootTime) -> BoxFuture<'static, ()> {
        let id = {
            let mut steps = self.0.lock();
            steps.next_id += 1;
            let id = steps.next_id;
            steps.sleepers.insert((deadline, id), None);
            id
        };
        Box::pin(StepSleep { steps: Arc::clone(&self.0), key: (deadline, id) })
    }
}

struct StepSleep {
    steps: Arc<Mutex<Steps>>,
    key: (BootTime, u64),
}

impl Future for StepSleep {
    type Output = ();
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut steps = self.steps.lock();
        if steps.now >= self.key.0 {
            return Poll::Ready(());
        }
        steps.sleepers.insert(self.key, Some(cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for StepSleep {
    fn drop(&mut self) {
        self.steps.lock().sleepers.remove(&self.key);
    }
}
