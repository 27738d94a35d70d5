//! Access counting (row 113): who is calling a backend right now, and how that is brought to an end.
//!
//! A [`Gate`] is one word: an open bit and a count. Entering needs the bit and adds one in the same
//! atomic step, so there is no moment between "checked" and "counted" for a withdrawal to slip into
//! (the kernel checks, adds and checks again). Closing clears the bit; whoever brings the count of a
//! closed gate to zero is told so, exactly where the kernel queues its withdrawal work.
//!
//! Nothing here waits or knows of tasks, so a model checker can run it.

use crate::sync::atomic::{AtomicU64, Ordering};

const OPEN: u64 = 1 << 63;

/// An open bit and a count of who is inside.
#[derive(Debug)]
pub(crate) struct Gate(AtomicU64);

impl Gate {
    /// A closed gate with nobody inside.
    pub(crate) fn closed() -> Gate {
        Gate(AtomicU64::new(0))
    }

    /// An open gate with nobody inside.
    pub(crate) fn opened() -> Gate {
        Gate(AtomicU64::new(OPEN))
    }

    /// Counts the caller in, if the gate is open. MUST be paired with [`Gate::exit`].
    #[must_use]
    pub(crate) fn enter(&self) -> bool {
        // Acquire: what was published before the gate was opened is visible to whoever got in.
        self.0
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |w| {
                (w & OPEN != 0).then_some(w + 1)
            })
            .is_ok()
    }

    /// Counts the caller out. True if the gate is closed and nobody is left inside.
    #[must_use]
    pub(crate) fn exit(&self) -> bool {
        // Release: all that was done inside happens before the drain that follows it. Acquire: the
        // last one out may be the one that goes on to close the object.
        let before = self.0.fetch_sub(1, Ordering::AcqRel);
        debug_assert_ne!(before & !OPEN, 0, "an access ended twice (N-C43)");
        before == 1
    }

    /// Lets callers in.
    pub(crate) fn open(&self) {
        self.0.fetch_or(OPEN, Ordering::Release);
    }

    /// Lets nobody in any more; those inside stay until they leave.
    pub(crate) fn close(&self) {
        self.0.fetch_and(!OPEN, Ordering::AcqRel);
    }

    /// Closed, and nobody inside.
    pub(crate) fn is_drained(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }

    /// How many are inside.
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed) & !OPEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_gate_lets_nobody_in_and_tells_the_last_one_out() {
        let gate = Gate::opened();
        assert!(gate.enter() && gate.enter());
        gate.close();
        assert!(!gate.enter());
        assert!(!gate.exit(), "one is still inside");
        assert!(!gate.is_drained());
        assert!(gate.exit(), "the last one out is told");
        assert!(gate.is_drained());
        gate.open();
        assert!(gate.enter());
        assert!(!gate.exit(), "an open gate has no last one");
    }
}

#[cfg(all(test, shuttle))]
mod shuttle_tests {
    use shuttle::{check_random, thread};

    use super::*;
    use crate::sync::{Arc, atomic::AtomicBool};

    /// N-C44: once the gate is closed and drained, nobody is inside and nobody gets in; exactly one
    /// party (the closer or the last one out) learns of it.
    #[test]
    fn n_c44_no_caller_is_inside_a_drained_gate() {
        check_random(
            || {
                let gate = Arc::new(Gate::opened());
                let dead = Arc::new(AtomicBool::new(false));
                let users: Vec<_> = (0..3)
                    .map(|_| {
                        let (gate, dead) = (Arc::clone(&gate), Arc::clone(&dead));
                        thread::spawn(move || {
                            let mut told = 0;
                            for _ in 0..2 {
                                if gate.enter() {
                                    assert!(!dead.load(Ordering::SeqCst), "in after the drain");
                                    thread::yield_now();
                                    assert!(!dead.load(Ordering::SeqCst), "inside at the drain");
                                    if gate.exit() {
                                        dead.store(true, Ordering::SeqCst);
                                        told += 1;
                                    }
                                }
                            }
                            told
                        })
                    })
                    .collect();
                gate.close();
                if gate.is_drained() {
                    dead.store(true, Ordering::SeqCst);
                }
                let told: i32 = users.into_iter().map(|u| u.join().unwrap_or(99)).sum();
                assert!(told <= 1, "at most one last one out");
                assert!(dead.load(Ordering::SeqCst), "somebody learned of the drain");
            },
            2000,
        );
    }
}
