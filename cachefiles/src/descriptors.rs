//! The descriptor budget: an object stays open while its backing file is closed and reopened.
//!
//! Objects that hold a file open stand on a ring; at the budget the hand passes over them, takes the
//! file from the first that was not used since it last came by (CLOCK, an approximation of LRU whose
//! hit is one relaxed store) and leaves it to whoever still reads from it to close it.

use std::{
    collections::VecDeque,
    fs::File,
    ops::Deref,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use parking_lot::{Mutex, RwLock};

use crate::{
    io::{Errno, IoResult},
    object::Object,
    stats::Counters,
};

/// How often room is looked for before a file is opened beyond the budget.
const MAKE_ROOM_TRIES: usize = 4;

/// An open backing file, counted.
#[derive(Debug)]
pub(crate) struct CountedFile {
    file: File,
    _place: Place,
}

impl Deref for CountedFile {
    type Target = File;
    fn deref(&self) -> &File {
        &self.file
    }
}

/// A place in the budget, taken before a file is opened: two threads that open files at the same time
/// must not both believe in the last one.
#[derive(Debug)]
pub(crate) struct Place(Arc<Counters>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.descriptors.fetch_sub(1, Relaxed);
    }
}

/// Where an object keeps its backing file while it is open.
#[derive(Default, Debug)]
pub(crate) struct FileCell {
    file: RwLock<Option<Arc<CountedFile>>>,
    used: AtomicBool,
}

impl FileCell {
    /// The file, if it is open.
    pub(crate) fn get(&self) -> Option<Arc<CountedFile>> {
        let file = self.file.read().clone();
        if file.is_some() && !self.used.load(Relaxed) {
            self.used.store(true, Relaxed);
        }
        file
    }

    /// Closes it as soon as the last user is done.
    pub(crate) fn clear(&self) {
        let file = self.file.write().take();
        drop(file);
    }
}

/// The budget.
pub(crate) struct Descriptors {
    max: usize,
    stats: Arc<Counters>,
    ring: Mutex<Ring>,
}

#[derive(Default)]
struct Ring {
    places: VecDeque<Weak<Object>>,
    /// Places at which those of objects that are gone are given up.
    sweep_at: usize,
}

impl Ring {
    /// Amortised: a sweep is paid for by as many additions as it left places. Without it a budget
    /// that is never reached would remember every object there ever was.
    fn add(&mut self, object: Weak<Object>) {
        if self.places.len() >= self.sweep_at {
            self.places.retain(|o| o.strong_count() > 0);
            self.sweep_at = 2 * self.places.len() + 64;
        }
        self.places.push_back(object);
    }
}

impl Descriptors {
    /// At most `max` backing files.
    pub(crate) fn new(max: usize, stats: Arc<Counters>) -> Descriptors {
        Descriptors { max, stats, ring: Mutex::default() }
    }

    /// Makes room for one more file. Called before opening one.
    pub(crate) fn make_room(&self) -> Place {
        let below_max = |n| (n < self.max).then_some(n + 1);
        for _ in 0..MAKE_ROOM_TRIES {
            self.shrink_to(self.max.saturating_sub(1));
            if self.stats.descriptors.fetch_update(Relaxed, Relaxed, below_max).is_ok() {
                return Place(Arc::clone(&self.stats));
            }
        }
        // All are in use this very moment, by as many threads: one more for as long as that lasts.
        self.stats.descriptors.fetch_add(1, Relaxed);
        Place(Arc::clone(&self.stats))
    }

    /// The process ran out of descriptors: gives half of ours back.
    pub(crate) fn emergency(&self) {
        self.shrink_to(self.stats.descriptors.load(Relaxed) / 2);
    }

    /// Opens something; if the process has no descriptor left, once more after some of ours are given back.
    pub(crate) fn open<T>(&self, mut open: impl FnMut() -> IoResult<T>) -> IoResult<T> {
        match open() {
            Err(Errno::MFILE | Errno::NFILE) => {
                self.emergency();
                open()
            }
            other => other,
        }
    }

    /// Closes all.
    pub(crate) fn close_all(&self) {
        let ring = std::mem::take(&mut self.ring.lock().places);
        for object in ring {
            if let Some(object) = object.upgrade() {
                object.file_cell().clear();
            }
        }
    }

    /// Gives an object its open file.
    pub(crate) fn adopt(&self, object: &Arc<Object>, file: File, place: Place) -> Arc<CountedFile> {
        let file = Arc::new(CountedFile { file, _place: place });
        let cell = object.file_cell();
        *cell.file.write() = Some(Arc::clone(&file));
        cell.used.store(true, Relaxed);
        self.ring.lock().add(Arc::downgrade(object));
        file
    }

    /// Places on the ring.
    #[cfg(test)]
    pub(crate) fn ring_len(&self) -> usize {
        self.ring.lock().places.len()
    }

    /// Two rounds of the hand at most: files in use by a read stay open, and counted, until it ends.
    fn shrink_to(&self, target: usize) {
        let mut steps = 2 * self.ring.lock().places.len();
        while self.stats.descriptors.load(Relaxed) > target && steps > 0 {
            steps -= 1;
            let Some(next) = self.ring.lock().places.pop_front() else { return };
            let Some(object) = next.upgrade() else { continue };
            let cell = object.file_cell();
            if cell.used.swap(false, Relaxed) {
                self.ring.lock().places.push_back(next);
            } else {
                cell.clear();
            }
        }
    }
}
