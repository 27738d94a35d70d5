//! Counters of the hit path: a cache line for each thread.
//!
//! An atomic addition takes as long as a lookup, even on a line that nobody else uses. So a thread gets a
//! stripe of its own, adds to it with a load and a store, and gives it back when it ends. Threads beyond
//! the number of stripes share one and add atomically.
//!
//! - **S-1** A stripe below [`SHARED`] is written by the one thread that holds it. It is handed on through
//!   [`TAKEN`], whose release and acquire make the last holder's sums visible to the next.

// One number per thread and process, whatever context it counts in.
use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering},
};

/// The stripe of those that got none of their own.
const SHARED: usize = 31;
/// Not asked for one yet.
const NONE: usize = usize::MAX;

/// Stripes that are held, one bit each.
static TAKEN: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static MINE: Cell<usize> = const { Cell::new(NONE) };
    static HELD: Held = const { Held(Cell::new(SHARED)) };
}

#[derive(Debug)]
#[repr(align(128))]
struct Stripe<const N: usize>([AtomicU64; N]);

/// `N` counters of the hit path that are counted together.
#[derive(Debug)]
pub(crate) struct Striped<const N: usize>([Stripe<N>; SHARED + 1]);

/// One of them.
pub(crate) type HotCounter = Striped<1>;

impl<const N: usize> Default for Striped<N> {
    fn default() -> Self {
        Striped(std::array::from_fn(|_| Stripe(std::array::from_fn(|_| AtomicU64::new(0)))))
    }
}

impl<const N: usize> Striped<N> {
    /// Adds to each.
    #[inline]
    pub(crate) fn add_each(&self, amounts: [u64; N]) {
        let mine = MINE.get();
        match self.0.get(mine) {
            Some(stripe) if mine != SHARED => {
                for (sum, n) in stripe.0.iter().zip(amounts) {
                    // S-1: nobody else stores here between the two.
                    sum.store(sum.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
                }
            }
            _ => self.add_slowly(amounts),
        }
    }

    pub(super) fn read_each(&self) -> [u64; N] {
        std::array::from_fn(|i| {
            self.0.iter().fold(0u64, |sum, s| sum.wrapping_add(s.0[i].load(Ordering::Relaxed)))
        })
    }

    #[cold]
    fn add_slowly(&self, amounts: [u64; N]) {
        if MINE.get() == NONE {
            MINE.set(take_stripe());
            return self.add_each(amounts);
        }
        for (sum, n) in self.0[SHARED].0.iter().zip(amounts) {
            sum.fetch_add(n, Ordering::Relaxed);
        }
    }
}

impl HotCounter {
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.add_each([n]);
    }

    #[inline]
    pub(crate) fn inc(&self) {
        self.add(1);
    }

    pub(super) fn read(&self) -> u64 {
        self.read_each()[0]
    }
}

/// Gives the stripe back when the thread ends.
struct Held(Cell<usize>);

impl Drop for Held {
    fn drop(&mut self) {
        // What this thread still counts from here on goes to the shared stripe.
        MINE.set(SHARED);
        if self.0.get() < SHARED {
            TAKEN.fetch_and(!(1 << self.0.get()), Ordering::Release);
        }
    }
}

/// A stripe of the calling thread's own, or the shared one.
fn take_stripe() -> usize {
    HELD.try_with(|held| {
        let mut taken = TAKEN.load(Ordering::Relaxed);
        loop {
            let free = (!taken).trailing_zeros() as usize;
            if free >= SHARED {
                return SHARED;
            }
            let with_it = taken | 1 << free;
            match TAKEN.compare_exchange_weak(taken, with_it, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => break held.0.set(free),
                Err(now) => taken = now,
            }
        }
        held.0.get()
    })
    // The thread is ending: it would not give it back.
    .unwrap_or(SHARED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s1_nothing_is_lost_across_more_threads_than_stripes() {
        let counter = HotCounter::default();
        for _ in 0..3 {
            std::thread::scope(|s| {
                for _ in 0..SHARED + 9 {
                    s.spawn(|| (0..1000).for_each(|_| counter.inc()));
                }
            });
        }
        assert_eq!(counter.read(), 3 * (SHARED as u64 + 9) * 1000);
    }

    #[test]
    fn s1_threads_at_work_at_the_same_time_have_stripes_of_their_own() {
        let both = std::sync::Barrier::new(2);
        let mine = || {
            HotCounter::default().inc();
            both.wait();
            let mine = MINE.get();
            both.wait();
            mine
        };
        std::thread::scope(|s| {
            let (a, b) = (s.spawn(mine), s.spawn(mine));
            let (a, b) = (a.join().expect("counts"), b.join().expect("counts"));
            assert!(a != b || a == SHARED, "{a} {b}");
        });
    }

    #[test]
    fn a_thread_counts_to_its_very_end() {
        struct Last(&'static HotCounter);
        impl Drop for Last {
            fn drop(&mut self) {
                self.0.inc();
            }
        }
        thread_local!(static LAST: Last = Last(&COUNTER));
        static COUNTER: std::sync::LazyLock<HotCounter> =
            std::sync::LazyLock::new(HotCounter::default);
        let thread = std::thread::spawn(|| {
            LAST.with(|last| last.0.inc());
        });
        thread.join().expect("ends");
        assert_eq!(COUNTER.read(), 2);
    }
}
