//! Fetches that have bytes for the disk cache but have not queued them yet.
//!
//! A reader may return as soon as its folios are published, which is before they are queued (the
//! queue may make the fetch wait). [`Intents`] closes the gap: an intent is taken before a folio is
//! published, so that draining after a read has returned covers what that read downloaded.
//!
//! The same count, kept a second time for whole fetches, tells when none is under way.

use tokio::sync::Notify;

use crate::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// How many fetches are in that gap.
#[derive(Default)]
pub(crate) struct Intents {
    open: AtomicUsize,
    none_left: Notify,
}

/// One of them.
pub(crate) struct Intent(Arc<Intents>);

impl Intents {
    pub(crate) fn begin(self: &Arc<Self>) -> Intent {
        self.open.fetch_add(1, Ordering::AcqRel);
        Intent(Arc::clone(self))
    }

    /// Completes at a moment when there was none.
    pub(crate) async fn settled(&self) {
        loop {
            let none_left = self.none_left.notified();
            if self.open.load(Ordering::Acquire) == 0 {
                return;
            }
            none_left.await;
        }
    }
}

impl Drop for Intent {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none_left.notify_waiters();
        }
    }
}
