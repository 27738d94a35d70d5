//! Callers' buffers that are folios, and where they end.
//!
//! A buffer's end is foreign code (its owner's `Drop`): it may take long, and may end things of this library.
//! But the last handle of a folio's memory often goes while a lock of ours is held. So a buffer that was a folio
//! is put aside when that is gone, and let go of by whoever comes by next without a lock.

use bytes::Bytes;

use crate::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

/// The smallest folio made of a caller's buffer. Below it the copy costs less than a folio of its own does, and
/// the more of a buffer its folios make use of, the less memory it keeps alive that nobody counts.
pub(crate) const LENT_MIN: usize = 16 * 1024;

/// Buffers that are no folio's memory any more.
#[derive(Default)]
pub(crate) struct Returned {
    buffers: Mutex<Vec<Bytes>>,
    /// A look without the lock.
    any: AtomicBool,
}

impl Returned {
    /// Puts a buffer aside. Any lock may be held.
    pub(super) fn put(&self, buffer: Bytes) {
        self.buffers.lock().push(buffer);
        self.any.store(true, Ordering::Release);
    }

    /// Lets go of what was put aside. No lock may be held.
    pub(super) fn let_go(&self) {
        if self.any.load(Ordering::Acquire) {
            let mut buffers = self.buffers.lock();
            self.any.store(false, Ordering::Relaxed);
            let gone = std::mem::take(&mut *buffers);
            drop(buffers);
            drop(gone);
        }
    }
}
