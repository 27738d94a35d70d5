//! A reader-writer lock whose readers, as long as nobody writes, write to nothing that they share: BRAVO
//! (Dice and Kogan, "BRAVO - Biased Locking for Reader-Writer Locks", USENIX ATC 2019).
//!
//! A plain reader-writer lock is one word that every reader changes twice; on two processors that costs
//! more than all the rest of a memory hit. Here a reader that finds the lock *biased* writes the lock's
//! address into a place of its own in a table ([`Readers`]), looks again whether the lock is still
//! biased, and is in. A writer takes the plain lock, ends the bias, and waits until no place in the table
//! has the lock's address. Readers that come while the lock is not biased, or whose place is taken, use
//! the plain lock; enough of them without a writer in between bring the bias back.
//!
//! Invariants (the reason the `unsafe` here is sound):
//!
//! - **B-1** `biased` becomes true only under the shared lock and false only under the exclusive one. So
//!   it is false as long as a writer is in, from the moment it has ended the bias.
//! - **B-2** A reader first takes its place, then looks at `biased`; a writer first ends the bias, then
//!   looks at the places; all four are sequentially consistent. So either the reader sees that the bias
//!   is over and goes away, or the writer sees the reader and waits.
//! - **B-3** A reader gives its place back with release, and the writer's look is an acquire: it has
//!   finished reading when the writer begins. A reader that sees `biased` (acquire) sees all that was
//!   written before it was set, hence by every writer before.

#![allow(
    unsafe_code,
    reason = "access to the value under a biased lock; invariants B-1 to B-3 above"
)]

use std::{
    cell::UnsafeCell,
    ops::{Deref, DerefMut},
};

use crossbeam::utils::CachePadded;

use super::{
    Arc, RwLock, RwLockReadGuard, RwLockWriteGuard,
    atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
};

/// Places for threads that read. More threads than that share, and get in each other's way now and then.
const PLACES: usize = if cfg!(shuttle) { 2 } else { 32 };
/// Reads without a writer that bring the bias back: ending it costs a writer a look at all places.
const REBIAS: u32 = if cfg!(shuttle) { 1 } else { 32 };
const NOBODY: usize = 0;

/// Who reads what, for any number of locks.
pub(crate) struct Readers([CachePadded<AtomicUsize>; PLACES]);

impl Readers {
    pub(crate) fn new() -> Arc<Readers> {
        let place = |_| CachePadded::new(AtomicUsize::new(NOBODY));
        Arc::new(Readers(std::array::from_fn(place)))
    }
}

/// See the module's docs.
pub(crate) struct BiasedLock<T> {
    readers: Arc<Readers>,
    biased: AtomicBool,
    /// Reads through the plain lock since the bias ended.
    slow_reads: AtomicU32,
    lock: RwLock<()>,
    value: UnsafeCell<T>,
}

// SAFETY: the value is shared under a lock of its own: readers share it (`Sync`), a writer on any thread
// changes it or takes it out (`Send`).
unsafe impl<T: Send + Sync> Sync for BiasedLock<T> {}

impl<T> BiasedLock<T> {
    pub(crate) fn new(value: T, readers: Arc<Readers>) -> BiasedLock<T> {
        BiasedLock {
            readers,
            biased: AtomicBool::new(true),
            slow_reads: AtomicU32::new(0),
            lock: RwLock::new(()),
            value: UnsafeCell::new(value),
        }
    }

    /// A short look, in the quickest way. `look` MUST NOT use this lock again and MUST NOT wait for
    /// anything: a writer may be waiting for it.
    #[inline]
    pub(crate) fn glance<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        // A hint; asked again below.
        if self.biased.load(Ordering::Relaxed)
            && let Some(_place) = Place::take(&self.readers, self.address())
            && self.biased.load(Ordering::SeqCst)
        {
            // SAFETY: B-2: no writer is in, and none comes in while `_place` is ours. B-3: what writers
            // before have written is visible.
            return look(unsafe { &*self.value.get() });
        }
        self.glance_slowly(look)
    }

    #[cold]
    fn glance_slowly<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        let value = self.read();
        if !self.biased.load(Ordering::Relaxed)
            && self.slow_reads.fetch_add(1, Ordering::Relaxed) + 1 >= REBIAS
        {
            self.slow_reads.store(0, Ordering::Relaxed);
            // B-1: under the shared lock.
            self.biased.store(true, Ordering::SeqCst);
        }
        look(&value)
    }

    /// Reads for longer, or waits meanwhile: through the plain lock.
    pub(crate) fn read(&self) -> ReadGuard<'_, T> {
        ReadGuard { _shared: self.lock.read(), of: self }
    }

    /// Excludes everybody else.
    pub(crate) fn write(&self) -> WriteGuard<'_, T> {
        let exclusive = self.lock.write();
        if self.biased.load(Ordering::Relaxed) {
            // B-1: under the exclusive lock.
            self.biased.store(false, Ordering::SeqCst);
            self.slow_reads.store(0, Ordering::Relaxed);
            self.wait_for_readers();
        }
        WriteGuard { _exclusive: exclusive, of: self }
    }

    fn wait_for_readers(&self) {
        for place in &self.readers.0 {
            let mut looks = 0u32;
            while place.load(Ordering::SeqCst) == self.address() {
                looks += 1;
                pause(looks);
            }
        }
    }

    /// Names this lock in the table. Not another's: it is borrowed while it stands there.
    fn address(&self) -> usize {
        self.value.get().addr() | 1 // never NOBODY, whatever T is
    }
}

/// A reader's place in the table.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    #[inline]
    fn take(readers: &'a Readers, lock: usize) -> Option<Place<'a>> {
        let place = &readers.0[own_place()];
        place
            .compare_exchange(NOBODY, lock, Ordering::SeqCst, Ordering::Relaxed)
            .is_ok()
            // Not `then_some`: a `Place` made for a reader that is not let in would be dropped, and give
            // away the place of the reader that is.
            .then(|| Place(place))
    }
}

impl Drop for Place<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.store(NOBODY, Ordering::Release);
    }
}

/// Shared access through the plain lock.
pub(crate) struct ReadGuard<'a, T> {
    _shared: RwLockReadGuard<'a, ()>,
    of: &'a BiasedLock<T>,
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: a writer would hold the plain lock alone.
        unsafe { &*self.of.value.get() }
    }
}

/// Access of one alone. Made only when the plain lock is held alone and all readers are gone.
pub(crate) struct WriteGuard<'a, T> {
    _exclusive: RwLockWriteGuard<'a, ()>,
    of: &'a BiasedLock<T>,
}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: as below.
        unsafe { &*self.of.value.get() }
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the plain lock keeps those out that use it; the others by B-1 and B-2: the bias is over
        // and whoever was in is gone. One guard, borrowed alone: no second reference from here.
        unsafe { &mut *self.of.value.get() }
    }
}

/// Where this thread stands in every table. Any answer is right; threads with the same one are slower.
#[cfg(not(shuttle))]
#[inline]
fn own_place() -> usize {
    use std::{cell::Cell, sync::atomic};
    const UNKNOWN: usize = usize::MAX;
    static NEXT: atomic::AtomicUsize = atomic::AtomicUsize::new(0);
    thread_local!(static MINE: Cell<usize> = const { Cell::new(UNKNOWN) });
    if MINE.get() == UNKNOWN {
        MINE.set(NEXT.fetch_add(1, Ordering::Relaxed) % PLACES);
    }
    MINE.get()
}

#[cfg(shuttle)]
fn own_place() -> usize {
    use shuttle::rand::Rng;
    shuttle::rand::thread_rng().gen_range(0..PLACES)
}

#[cfg(not(shuttle))]
fn pause(looks: u32) {
    if looks < 100 {
        std::hint::spin_loop();
    } else {
        // The reader has lost its processor in the middle of a look.
        std::thread::yield_now();
    }
}

#[cfg(shuttle)]
fn pause(_looks: u32) {
    shuttle::thread::yield_now();
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn b2_a_reader_that_finds_its_place_taken_leaves_it_to_its_owner() {
        let readers = Readers::new();
        let stands = |at: usize| readers.0[own_place()].load(Ordering::SeqCst) == at;
        let first = Place::take(&readers, 11).expect("free");
        assert!(Place::take(&readers, 13).is_none());
        assert!(stands(11), "a writer would no longer wait for the first");
        drop(first);
        assert!(stands(NOBODY));
    }

    #[test]
    fn b2_readers_and_writers_exclude_each_other() {
        const WRITES: u64 = if cfg!(miri) { 40 } else { 20_000 };
        // Equal whenever nobody writes. Plain words: a race would also be one for the sanitizer.
        let lock = BiasedLock::new([0u64; 16], Readers::new());
        std::thread::scope(|s| {
            for _ in 0..2 {
                s.spawn(|| {
                    for _ in 0..WRITES {
                        lock.write().iter_mut().for_each(|word| *word += 1);
                    }
                });
            }
            for _ in 0..2 {
                s.spawn(|| {
                    let mut last = 0;
                    while last < 2 * WRITES {
                        let words = lock.glance(|words| *words);
                        assert!(words.iter().all(|w| *w == words[0]), "{words:?}");
                        assert!(words[0] >= last, "time runs backwards");
                        last = words[0];
                    }
                });
            }
        });
        assert_eq!(lock.read()[0], 2 * WRITES);
    }

    #[test]
    fn b1_the_bias_ends_with_a_writer_and_comes_back_with_readers() {
        let lock = BiasedLock::new((), Readers::new());
        assert!(lock.biased.load(Ordering::Relaxed));
        drop(lock.write());
        for _ in 1..REBIAS {
            lock.glance(|()| ());
        }
        assert!(!lock.biased.load(Ordering::Relaxed));
        lock.glance(|()| ());
        assert!(lock.biased.load(Ordering::Relaxed));
    }

    #[test]
    fn a_look_at_another_lock_within_a_look_is_served_too() {
        let readers = Readers::new();
        let (a, b) = (BiasedLock::new(1, Arc::clone(&readers)), BiasedLock::new(2, readers));
        assert_eq!(a.glance(|a| b.glance(|b| a + b)), 3);
        *b.write() = 5;
        assert_eq!(a.glance(|a| b.glance(|b| a + b)), 6);
    }

    #[test]
    fn a_look_that_panics_leaves_the_lock_usable() {
        let lock = BiasedLock::new(0, Readers::new());
        let look = std::panic::AssertUnwindSafe(|| lock.glance(|_| panic!("in the look")));
        assert!(std::panic::catch_unwind(look).is_err());
        *lock.write() = 1;
        assert_eq!(lock.glance(|n| *n), 1);
    }
}

#[cfg(all(test, shuttle))]
mod shuttle_tests {
    use shuttle::thread;

    use super::*;

    /// Two words that are equal whenever nobody writes, and as many chances to switch as there are.
    #[derive(Default)]
    struct Pair(AtomicUsize, AtomicUsize);

    impl Pair {
        fn look(&self) -> (usize, usize) {
            let first = self.0.load(Ordering::Relaxed);
            thread::yield_now();
            (first, self.1.load(Ordering::Relaxed))
        }

        fn bump(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
            thread::yield_now();
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn b2_no_look_overlaps_a_write_in_any_interleaving() {
        shuttle::check_random(
            || {
                let lock = Arc::new(BiasedLock::new(Pair::default(), Readers::new()));
                let done = Arc::new(AtomicUsize::new(0));
                let mut threads = Vec::new();
                for _ in 0..2 {
                    let (lock, done) = (Arc::clone(&lock), Arc::clone(&done));
                    threads.push(thread::spawn(move || {
                        for _ in 0..2 {
                            lock.write().bump();
                            done.fetch_add(1, Ordering::SeqCst);
                        }
                    }));
                }
                for _ in 0..2 {
                    let (lock, done) = (Arc::clone(&lock), Arc::clone(&done));
                    threads.push(thread::spawn(move || {
                        for _ in 0..3 {
                            let ended = done.load(Ordering::SeqCst);
                            let (a, b) = lock.glance(Pair::look);
                            assert_eq!(a, b, "a look in the middle of a write");
                            assert!(a >= ended, "a look that began after a write has to see it");
                        }
                    }));
                }
                threads.into_iter().for_each(|t| t.join().expect("no panic"));
                assert_eq!(lock.read().look(), (4, 4));
            },
            5000,
        );
    }
}
