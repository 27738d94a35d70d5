//! S3-FIFO (Yang et al., SOSP 2023) with weights in bytes.
//!
//! New entries go to a *small* queue of a tenth of the capacity; those used at least twice there move
//! on to *main*, the rest leave and only their key is remembered, in the *ghost*. What returns while
//! the ghost knows it goes to main at once. Main is a FIFO with up to three second chances. A one-pass
//! scan therefore passes through the small queue alone.

use std::collections::{HashMap, VecDeque};

use super::{
    Entry, Policy,
    queue::{Queues, Token},
};

const SMALL: usize = 0;
const MAIN: usize = 1;

/// Uses within the small queue that make an entry worth keeping.
const PROMOTE_AT: u8 = 2;

/// The policy.
pub struct S3Fifo<E> {
    queues: Queues<E, 2>,
    ghost: Ghost,
    /// The small queue is evicted from while it is heavier than this.
    small_target: u64,
}

impl<E: Entry> S3Fifo<E> {
    /// For entries that together weigh at most `capacity` bytes, the heaviest one `weight_max`. The
    /// small queue always has room for one entry, however small the capacity.
    #[must_use]
    pub fn new(capacity: u64, weight_max: u64) -> S3Fifo<E> {
        let small_target = (capacity / 10).max(weight_max);
        let ghost = Ghost::new(capacity.saturating_sub(small_target));
        S3Fifo { queues: Queues::new(), ghost, small_target }
    }

    /// Another capacity. Nothing is evicted by that: what is above it goes when room is needed.
    pub fn set_capacity(&mut self, capacity: u64, weight_max: u64) {
        self.small_target = (capacity / 10).max(weight_max);
        self.ghost.set_capacity(capacity.saturating_sub(self.small_target));
    }

    /// Entries the ghost remembers.
    #[must_use]
    pub fn ghost_len(&self) -> usize {
        self.ghost.order.len()
    }

    /// One step from the head of the small queue.
    fn step_small(&mut self) -> Option<E> {
        let (token, entry) = self.queues.head(SMALL)?;
        let weight = entry.weight();
        if entry.frequency() >= PROMOTE_AT {
            entry.set_frequency(0);
            self.queues.move_to_tail(token, MAIN, weight);
            return None;
        }
        if !entry.evictable() {
            self.queues.move_to_tail(token, SMALL, weight);
            return None;
        }
        let entry = self.queues.remove(token, E::weight)?;
        self.ghost.remember(entry.key(), weight);
        Some(entry)
    }

    /// One step from the head of main.
    fn step_main(&mut self) -> Option<E> {
        let (token, entry) = self.queues.head(MAIN)?;
        let weight = entry.weight();
        let frequency = entry.frequency();
        if frequency > 0 || !entry.evictable() {
            entry.set_frequency(frequency.saturating_sub(1));
            self.queues.move_to_tail(token, MAIN, weight);
            return None;
        }
        self.queues.remove(token, E::weight)
    }
}

impl<E: Entry> Policy<E> for S3Fifo<E> {
    fn insert(&mut self, entry: E) -> Token {
        let queue = if self.ghost.forget(entry.key()) { MAIN } else { SMALL };
        let weight = entry.weight();
        self.queues.push(queue, entry, weight)
    }

    fn remove(&mut self, token: Token) -> Option<E> {
        self.queues.remove(token, E::weight)
    }

    fn evict(&mut self) -> Option<E> {
        // Each entry of small is passed once (promoted, rotated or taken), each of main at most four
        // times (three chances); entries that cannot be evicted must not keep us here for ever.
        let steps = 4 * (self.len() + 1);
        let mut small_rotations = self.queues.len(SMALL);
        for _ in 0..steps {
            let small_over = self.queues.weight(SMALL) > self.small_target;
            let from_small = small_rotations > 0 && (small_over || self.queues.len(MAIN) == 0);
            let victim = if from_small {
                small_rotations -= 1;
                self.step_small()
            } else {
                self.step_main()
            };
            if victim.is_some() {
                return victim;
            }
        }
        // Main holds nothing evictable; small may, although it is within its share.
        (0..self.queues.len(SMALL)).find_map(|_| self.step_small())
    }

    fn weight(&self) -> u64 {
        self.queues.weight(SMALL) + self.queues.weight(MAIN)
    }

    fn len(&self) -> usize {
        self.queues.len(SMALL) + self.queues.len(MAIN)
    }
}

/// Keys that were evicted from small not long ago, oldest first, bounded by what they weighed.
struct Ghost {
    order: VecDeque<Departed>,
    /// By key: the serial of its youngest place in `order`.
    live: HashMap<u64, u64, KeyHash>,
    serial: u64,
    weight: u64,
    weight_max: u64,
}

struct Departed {
    key: u64,
    serial: u64,
    weight: u64,
}

impl Ghost {
    fn new(weight_max: u64) -> Ghost {
        let (order, live) = (VecDeque::new(), HashMap::default());
        Ghost { order, live, serial: 0, weight: 0, weight_max }
    }

    fn remember(&mut self, key: u64, weight: u64) {
        self.serial += 1;
        self.order.push_back(Departed { key, serial: self.serial, weight });
        self.live.insert(key, self.serial);
        self.weight += weight;
        self.forget_oldest();
    }

    fn set_capacity(&mut self, weight_max: u64) {
        self.weight_max = weight_max;
        self.forget_oldest();
    }

    fn forget_oldest(&mut self) {
        while self.weight > self.weight_max {
            let Some(oldest) = self.order.pop_front() else { break };
            self.weight -= oldest.weight;
            if self.live.get(&oldest.key) == Some(&oldest.serial) {
                self.live.remove(&oldest.key);
            }
        }
    }

    /// Whether the key is remembered; if so it no longer is. Its place in the order stays until it
    /// has aged out, so forgetting is cheap and the bound still holds.
    fn forget(&mut self, key: u64) -> bool {
        self.live.remove(&key).is_some()
    }
}

/// Keys are well mixed already ([`Entry::key`]).
#[derive(Clone, Copy, Default)]
struct KeyHash;

impl std::hash::BuildHasher for KeyHash {
    type Hasher = KeyHasher;
    fn build_hasher(&self) -> KeyHasher {
        KeyHasher(0)
    }
}

struct KeyHasher(u64);

impl std::hash::Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*b);
        }
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

#[cfg(test)]
mod tests;
