//! Wakers of the tasks that wait for one folio.
//!
//! No wakeup is lost: a waiter registers under the list's lock and only while the folio is still
//! locked; whoever unlocks the folio changes its state first and takes the list's lock afterwards. So
//! either the waiter sees the new state or the unlocker sees the waiter.
//!
//! Wakers are foreign code (dropping one may drop a task that waits for this very folio), so they are
//! woken and dropped only after the list's lock has been released.

use std::task::Waker;

use crate::sync::Mutex;

/// A waiter's place in the list.
pub(super) struct WaitKey(usize);

#[derive(Default)]
pub(super) struct Waiters(Mutex<List>);

#[derive(Default)]
struct List {
    wakers: Vec<Option<Waker>>,
    /// Places whose waiter has given up.
    vacant: Vec<usize>,
}

impl Waiters {
    /// Registers or renews a waiter if `still_locked`; false if there is nothing to wait for.
    pub(super) fn register(
        &self,
        key: &mut Option<WaitKey>,
        waker: &Waker,
        still_locked: impl FnOnce() -> bool,
    ) -> bool {
        let waker = waker.clone();
        let mut list = self.0.lock();
        if !still_locked() {
            return false;
        }
        let at = match key {
            // Nobody drains the list of a locked folio, so the place is still ours.
            Some(WaitKey(at)) => *at,
            None => {
                let at = list.vacant.pop().unwrap_or_else(|| {
                    list.wakers.push(None);
                    list.wakers.len() - 1
                });
                *key = Some(WaitKey(at));
                at
            }
        };
        let old = list.wakers[at].replace(waker);
        drop(list);
        drop(old);
        true
    }

    /// Drops a waiter that no longer waits.
    pub(super) fn forget(&self, WaitKey(at): WaitKey) {
        let mut list = self.0.lock();
        // After a wake-up the list is empty and the place gone.
        let waker = list.wakers.get_mut(at).and_then(Option::take);
        if waker.is_some() {
            list.vacant.push(at);
        }
        drop(list);
        drop(waker);
    }

    /// Wakes all and empties the list. The folio is no longer locked.
    pub(super) fn wake_all(&self) {
        let list = std::mem::take(&mut *self.0.lock());
        for waker in list.wakers.into_iter().flatten() {
            waker.wake();
        }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn waiters_that_come_and_go_do_not_make_the_list_grow() {
        let waiters = Waiters::default();
        let register = || {
            let mut key = None;
            assert!(waiters.register(&mut key, Waker::noop(), || true));
            key.expect("registered")
        };
        let _stays = register();
        for _ in 0..1000 {
            let (a, b) = (register(), register());
            waiters.forget(a);
            waiters.forget(b);
        }
        assert_eq!(waiters.0.lock().wakers.len(), 3);
    }
}
