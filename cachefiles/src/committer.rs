//! Writes the metadata of changed objects back: one thread that sleeps until something is dirty, then
//! one flush interval, then flushes what has gathered.

use std::{sync::Arc, thread::JoinHandle, time::Duration};

use parking_lot::{Condvar, Mutex};

use crate::object::Object;

#[derive(Default)]
struct State {
    dirty: Vec<Arc<Object>>,
    stop: bool,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

/// The thread and its list.
pub(crate) struct Committer {
    inner: Arc<Inner>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Committer {
    /// Starts the thread.
    pub(crate) fn start(interval: Duration) -> std::io::Result<Committer> {
        let inner = Arc::new(Inner::default());
        let theirs = Arc::clone(&inner);
        let thread = std::thread::Builder::new()
            .name("cachefiles-commit".into())
            .spawn(move || theirs.run(interval))?;
        Ok(Committer { inner, thread: Mutex::new(Some(thread)) })
    }

    /// Has the object flushed within the interval.
    pub(crate) fn register(&self, object: Arc<Object>) {
        let mut state = self.inner.state.lock();
        if state.stop {
            // Withdrawn. Kept here it would keep the whole cache alive.
            return;
        }
        let idle = state.dirty.is_empty();
        state.dirty.push(object);
        if idle {
            self.inner.changed.notify_one();
        }
    }

    /// Flushes what is dirty and ends the thread.
    pub(crate) fn stop(&self) {
        self.inner.state.lock().stop = true;
        self.inner.changed.notify_one();
        let Some(thread) = self.thread.lock().take() else { return };
        // The thread itself may drop the last reference to the cache.
        if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
            tracing::error!("the commit thread of the cache panicked");
        }
    }
}

impl Inner {
    fn run(&self, interval: Duration) {
        loop {
            let (dirty, stop) = self.gather(interval);
            for object in dirty {
                object.flush_in_background();
            }
            if stop {
                return;
            }
        }
    }

    fn gather(&self, interval: Duration) -> (Vec<Arc<Object>>, bool) {
        let mut state = self.state.lock();
        while state.dirty.is_empty() && !state.stop {
            self.changed.wait(&mut state);
        }
        if !state.stop {
            self.changed.wait_for(&mut state, interval);
        }
        (std::mem::take(&mut state.dirty), state.stop)
    }
}
