//! The LRU of unused cookies (row 103): each stays open for a while after its last user has left, then
//! its object is committed and closed, which bounds the open files.
//!
//! A cookie has at most one entry however often it is used and unused; when the entry's time comes,
//! the cookie itself says whether it has been idle long enough (N-C45, N-C46) and is entered again if
//! not. One task sleeps until the first entry's time; it ends when there is none.

use std::collections::BTreeMap;

use super::{cache::FsCache, cookie::Cookie};
use crate::{
    clock::BootTime,
    sync::{Arc, Mutex, Weak},
};

#[derive(Default)]
pub(crate) struct Lru(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// A cookie that has been dropped is owned by nobody any more, also not by its entry.
    entries: BTreeMap<(BootTime, u64), Weak<Cookie>>,
    next_id: u64,
    /// The task is running. It sleeps until a deadline that is never later than the first entry's:
    /// the delay is one constant and time does not go back, so entries only come at the end, but for
    /// those entered again, and these are entered by the task itself.
    running: bool,
}

impl Lru {
    /// Enters a cookie.
    pub(super) fn add(&self, fscache: &Arc<FsCache>, since: BootTime, cookie: &Arc<Cookie>) {
        fscache.counters().lru_added.inc();
        let start = {
            let mut inner = self.0.lock();
            inner.next_id += 1;
            let key = (since + fscache.config().lru_delay, inner.next_id);
            inner.entries.insert(key, Arc::downgrade(cookie));
            !std::mem::replace(&mut inner.running, true)
        };
        if start {
            fscache.spawn(run(Arc::clone(fscache)));
        }
    }

    /// Entries there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().entries.len()
    }

    /// What is due, or until when to sleep; `None` ends the task.
    fn next(&self, now: BootTime) -> Option<Next> {
        let mut inner = self.0.lock();
        let Some((&key, _)) = inner.entries.first_key_value() else {
            inner.running = false;
            return None;
        };
        if key.0 > now {
            return Some(Next::Sleep(key.0));
        }
        inner.entries.remove(&key).map(Next::Due)
    }
}

enum Next {
    Sleep(BootTime),
    Due(Weak<Cookie>),
}

async fn run(fscache: Arc<FsCache>) {
    loop {
        let now = fscache.now();
        match fscache.lru().next(now) {
            None => return,
            Some(Next::Due(cookie)) => {
                if let Some(cookie) = cookie.upgrade() {
                    cookie.expire(now);
                }
            }
            Some(Next::Sleep(until)) => fscache.clock().sleep_until(until).await,
        }
    }
}
