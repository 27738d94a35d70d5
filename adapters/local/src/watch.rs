//! inotify: which files are watched, and the thread that turns its events into breaks.
//!
//! - **W1** A watch is in place *before* the `statx` whose facts carry a promise, so a change is either
//!   in those facts or an event after them.
//! - **W2** When a watch ends, for whatever reason, its file's promise is broken after: a promise never
//!   outlives its watch.
//! - **W3** Lost events (queue overflow, unmount) break everything.
//!
//! inotify misses stores through a shared mapping: that is why promises from here last a second at most.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    thread::{self, JoinHandle},
};

use inotify::{Event, EventMask, Inotify, WatchDescriptor, WatchMask, Watches};
use netfs::{
    coherency::{BreakReason, VolumeEvents},
    remote::FileKind,
};
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::{
    handles::{Handles, proc_path},
    lru::Lru,
};

/// Who is told of changes: the core, or a test.
pub(crate) trait Listener: Send + Sync + 'static {
    /// The file may have changed.
    fn broken(&self, key: &[u8]);
    /// The file is gone for good.
    fn deleted(&self, key: &[u8]);
    /// Anything may have changed.
    fn all_broken(&self, reason: BreakReason);
}

impl Listener for VolumeEvents {
    fn broken(&self, key: &[u8]) {
        // Nobody to wait for: there is no server that wants an answer.
        drop(self.server_break(key, BreakReason::Notify));
    }

    fn deleted(&self, key: &[u8]) {
        VolumeEvents::deleted(self, key);
    }

    fn all_broken(&self, reason: BreakReason) {
        drop(self.server_break_all(reason));
    }
}

/// Room for a few hundred events a read.
const BUFFER: usize = 16 * 1024;

struct Table {
    by_key: Lru<Arc<[u8]>, WatchDescriptor>,
    by_watch: HashMap<WatchDescriptor, Arc<[u8]>>,
    /// Most watches; falls when the kernel refuses one.
    max: usize,
}

struct Inner {
    table: Mutex<Table>,
    watches: Mutex<Watches>,
    listener: Box<dyn Listener>,
    handles: Arc<Handles>,
}

/// The watches of one tree and their thread.
pub(crate) struct Watcher {
    inner: Arc<Inner>,
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Starts watching for `listener`.
    ///
    /// # Errors
    /// No inotify instance, eventfd or thread left.
    pub(crate) fn start(
        listener: Box<dyn Listener>,
        handles: Arc<Handles>,
        max: usize,
    ) -> io::Result<Watcher> {
        let inotify = Inotify::init()?;
        let table = Table { by_key: Lru::new(), by_watch: HashMap::new(), max };
        let inner = Arc::new(Inner {
            table: Mutex::new(table),
            watches: Mutex::new(inotify.watches()),
            listener,
            handles,
        });
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        let stopped = stop.try_clone()?;
        let shared = Arc::clone(&inner);
        let thread = thread::Builder::new()
            .name("netfs-inotify".into())
            .spawn(move || shared.run(inotify, &stopped))?;
        Ok(Watcher { inner, stop, thread: Some(thread) })
    }

    /// Sees to it that the file is watched; false if it cannot be.
    pub(crate) fn ensure(&self, key: &Arc<[u8]>, fd: BorrowedFd<'_>, kind: FileKind) -> bool {
        self.inner.ensure(key, fd, kind)
    }

    /// Watches in place now.
    pub(crate) fn len(&self) -> usize {
        self.inner.table.lock().by_key.len()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // An eventfd takes any write that does not overflow it; without one the thread would stay.
        if rustix::io::write(&self.stop, &1u64.to_ne_bytes()).is_err() {
            return;
        }
        if let Some(thread) = self.thread.take() {
            // It panicked if this fails; the hook has said so.
            let _ = thread.join();
        }
    }
}

/// What to be told of. Opens and reads are not among it: they change nothing.
fn mask(kind: FileKind) -> Option<WatchMask> {
    let own = WatchMask::ATTRIB | WatchMask::DELETE_SELF | WatchMask::MOVE_SELF;
    match kind {
        FileKind::File => Some(own | WatchMask::MODIFY | WatchMask::CLOSE_WRITE),
        FileKind::Dir => {
            Some(own | WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVE | WatchMask::ONLYDIR)
        }
        // A link's target never changes, and nobody caches what the others hold.
        _ => None,
    }
}

impl Inner {
    fn ensure(&self, key: &Arc<[u8]>, fd: BorrowedFd<'_>, kind: FileKind) -> bool {
        let Some(mask) = mask(kind) else { return false };
        let mut table = self.table.lock();
        if table.by_key.get(key).is_some() {
            return true;
        }
        let mut evicted = Vec::new();
        while table.by_key.len() >= table.max.max(1) {
            let Some((old, watch)) = table.by_key.pop() else { break };
            table.by_watch.remove(&watch);
            // It fails if the kernel ended the watch already; gone is gone.
            let _ = self.watches.lock().remove(watch);
            evicted.push(old);
        }
        let added = if table.max == 0 { None } else { self.add(&mut table, key, fd, mask) };
        drop(table);
        for old in evicted {
            self.listener.broken(&old); // W2
        }
        added.is_some()
    }

    fn add(
        &self,
        table: &mut Table,
        key: &Arc<[u8]>,
        fd: BorrowedFd<'_>,
        mask: WatchMask,
    ) -> Option<()> {
        let added = self.watches.lock().add(proc_path(fd), mask);
        match added {
            Ok(watch) => {
                table.by_watch.insert(watch.clone(), Arc::clone(key));
                table.by_key.insert(Arc::clone(key), watch);
                Some(())
            }
            Err(e) => {
                if matches!(e.raw_os_error(), Some(libc::ENOSPC | libc::ENOMEM)) {
                    // The user's watches are used up, perhaps by others: live with what we have.
                    table.max = table.by_key.len();
                    tracing::warn!(watches = table.max, "no more inotify watches: {e}");
                } else {
                    tracing::debug!("a file cannot be watched: {e}");
                }
                None
            }
        }
    }

    fn run(&self, mut inotify: Inotify, stop: &OwnedFd) {
        let mut buffer = vec![0u8; BUFFER];
        loop {
            let mut fds = [
                PollFd::from_borrowed_fd(inotify.as_fd(), PollFlags::IN),
                PollFd::new(stop, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) if !fds[1].revents().is_empty() => return,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return self.fail(&e.into()),
            }
            match inotify.read_events(&mut buffer) {
                Ok(events) => events.for_each(|e| self.event(&e)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return self.fail(&e),
            }
        }
    }

    /// Nothing will be heard any more: no new promises, and the standing ones are broken.
    fn fail(&self, e: &io::Error) {
        tracing::warn!("inotify failed, promises end: {e}");
        let mut table = self.table.lock();
        table.max = 0;
        table.by_watch.clear();
        while table.by_key.pop().is_some() {}
        drop(table);
        self.listener.all_broken(BreakReason::Disconnected);
    }

    fn event(&self, event: &Event<&std::ffi::OsStr>) {
        let mask = event.mask;
        if mask.intersects(EventMask::Q_OVERFLOW | EventMask::UNMOUNT) {
            self.listener.all_broken(BreakReason::Notify); // W3
            return;
        }
        let mut table = self.table.lock();
        let Some(key) = table.by_watch.get(&event.wd).cloned() else { return };
        if mask.contains(EventMask::IGNORED) {
            table.by_watch.remove(&event.wd);
            // The key may have a newer watch by now.
            if table.by_key.get(&key).is_some_and(|w| *w == event.wd) {
                table.by_key.remove(&key);
            }
        }
        drop(table);
        if event.name.is_some() && mask & !EventMask::ISDIR == EventMask::ATTRIB {
            return; // of a child; who cares for the child watches it
        }
        if mask.contains(EventMask::ATTRIB) {
            // An unlink comes as a change of the link count, and the file lives on as long as it is
            // open here.
            self.handles.forget(&key);
        }
        if mask.contains(EventMask::DELETE_SELF) {
            self.handles.forget(&key);
            // The kernel says so of the name that was watched; an open by handle may have another way to the
            // file.
            if !self.handles.opened.contains(&key) {
                self.listener.deleted(&key);
            }
        }
        self.listener.broken(&key);
    }
}

#[cfg(test)]
mod tests;
