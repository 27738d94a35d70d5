//! Fills on their way to an object whose owner changes the file meanwhile.
//!
//! An own change gives the content another identity and voids the pages it wrote; all others are what they
//! were. So a fill is not tied to the identity it was offered under but to its place in the object: it
//! makes a claim when it is offered, under the cookie's identity of that moment, and each later own change
//! voids the claims it meets, in one step with the new identity. An invalidation voids all of them, by the
//! invalidation counter.

use std::{collections::HashMap, ops::Range};

use super::Cookie;
use crate::{
    fscache::Identity,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// The claims on one cookie's object. Guarded by the cookie's state lock.
#[derive(Default)]
pub(super) struct Claims {
    next: u64,
    live: HashMap<u64, (Range<u64>, Arc<AtomicBool>)>,
}

impl Claims {
    /// The owner has changed these bytes.
    pub(super) fn void(&mut self, changed: &[Range<u64>]) {
        for (range, void) in self.live.values() {
            if changed.iter().any(|c| c.start < range.end && range.start < c.end) {
                void.store(true, Ordering::Release);
            }
        }
    }
}

/// A fill's claim that its bytes are those of the object's file, until dropped.
pub(crate) struct Claim {
    cookie: Arc<Cookie>,
    id: u64,
    void: Arc<AtomicBool>,
}

impl Claim {
    /// Whether the bytes are not the file's any more.
    pub(crate) fn is_void(&self) -> bool {
        self.void.load(Ordering::Acquire)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.cookie.inner.lock().claims.live.remove(&self.id);
    }
}

impl Cookie {
    /// Claims `range` (bytes) for a fill whose bytes are true of `identity`. Void from the start if the
    /// object is to be about another one.
    pub(crate) fn claim(self: &Arc<Self>, range: Range<u64>, identity: &Identity) -> Claim {
        let mut inner = self.inner.lock();
        let void = Arc::new(AtomicBool::new(inner.machine.identity() != identity));
        let id = inner.claims.next;
        inner.claims.next += 1;
        inner.claims.live.insert(id, (range, Arc::clone(&void)));
        drop(inner);
        Claim { cookie: Arc::clone(self), id, void }
    }
}
