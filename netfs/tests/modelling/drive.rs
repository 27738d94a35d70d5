//! Futures run on the thread of the test, which sees when nothing moves any more.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::Thread,
    time::{Duration, Instant},
};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs `work` to its end. Whenever nothing has woken it for `patience`, `idle` is told how long it has stood still
/// so far: it lets time pass, or somebody go on, or ends the test. Counted in turns, not by the clock: on a machine
/// with too much to do a turn takes long, and nothing else moves either.
pub(crate) fn drive<T>(
    work: impl Future<Output = T>,
    patience: Duration,
    mut idle: impl FnMut(Duration),
) -> T {
    let mut work = pin!(work);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut stood = Duration::ZERO;
    loop {
        if let Poll::Ready(out) = work.as_mut().poll(&mut Context::from_waker(&waker)) {
            return out;
        }
        let before = Instant::now();
        std::thread::park_timeout(patience);
        if before.elapsed() >= patience {
            stood += patience;
            idle(stood);
        }
    }
}
