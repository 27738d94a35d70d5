//! Waiting for what fronts were told.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use super::front::Front;
use crate::sync::{Arc, Mutex};

/// Resolves when every front has dropped what it had mapped of the broken files, or has gone away: when it has
/// answered all that it was told of them until the break, writes before it included.
#[derive(Clone)]
#[must_use = "dropping a ticket is fine where nobody has to wait, but say so"]
pub struct Ticket(Option<Arc<Waited>>);

/// What the clones of a ticket wait for.
pub(super) struct Waited {
    /// Each up to a number of its own calls.
    fronts: Vec<(Arc<Front>, u64)>,
    wakers: Mutex<Vec<Waker>>,
}

impl Waited {
    /// Some front has answered something.
    pub(super) fn wake(&self) {
        let wakers = std::mem::take(&mut *self.wakers.lock());
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Ticket {
    /// For answers of these fronts, each up to a number it was given when it was told.
    pub(super) fn new(fronts: Vec<(Arc<Front>, u64)>) -> Ticket {
        if fronts.is_empty() {
            return Ticket::resolved();
        }
        Ticket(Some(Arc::new(Waited { fronts, wakers: Mutex::default() })))
    }

    /// A ticket for nothing.
    pub(crate) fn resolved() -> Ticket {
        Ticket(None)
    }

    /// Whether all have answered.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.missing() == 0
    }

    fn missing(&self) -> usize {
        let fronts = self.0.iter().flat_map(|waited| &waited.fronts);
        fronts.filter(|(front, upto)| !front.has_answered(*upto)).count()
    }
}

impl Future for Ticket {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(waited) = &self.0 else { return Poll::Ready(()) };
        // First: an answer that comes after the look below finds it.
        remember(&mut waited.wakers.lock(), cx.waker());
        let mut missing = false;
        for (front, upto) in &waited.fronts {
            missing |= front.watch(*upto, waited);
        }
        if missing { Poll::Pending } else { Poll::Ready(()) }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({} fronts missing)", self.missing())
    }
}

/// Adds a waker unless it is there already.
pub(in crate::coherency) fn remember(wakers: &mut Vec<Waker>, waker: &Waker) {
    if !wakers.iter().any(|w| w.will_wake(waker)) {
        wakers.push(waker.clone());
    }
}
