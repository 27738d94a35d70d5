//! Eviction policies: who has to leave when room is needed. Pure data structures, generic over what
//! they keep, used alike by the page cache, by culling and by the hit-rate simulator.
//!
//! A hit never calls into a policy: it only raises the entry's own frequency ([`Entry::frequency`], a
//! few atomic bits where entries are shared), so that hits need no lock and no allocation. Insert,
//! remove and evict take `&mut self`: the owner puts the policy behind a lock.

mod queue;
mod s3fifo;

pub use queue::Token;
pub use s3fifo::S3Fifo;

/// Highest frequency an entry can have: two bits.
pub const FREQUENCY_MAX: u8 = 3;

/// What a policy needs to know of an entry. The entry may change under it, where entries are shared.
pub trait Entry {
    /// Identifies the entry over time: the same key comes back if the same thing is cached again. Keys
    /// MUST be well mixed (they are used as hashes).
    fn key(&self) -> u64;

    /// What it weighs, in bytes. MUST NOT change while the policy holds the entry.
    fn weight(&self) -> u64;

    /// Uses since it was inserted or since [`set_frequency`](Entry::set_frequency), at most
    /// [`FREQUENCY_MAX`].
    fn frequency(&self) -> u8;

    /// Sets the frequency.
    fn set_frequency(&self, frequency: u8);

    /// Whether it may be evicted now (it is not locked, dirty or under writeback).
    fn evictable(&self) -> bool;
}

/// An eviction policy.
pub trait Policy<E: Entry> {
    /// Takes an entry in. The token names it until it is removed or evicted.
    fn insert(&mut self, entry: E) -> Token;

    /// Takes an entry out that went away for another reason; nothing is learned from it. `None` if the
    /// token is not in use.
    fn remove(&mut self, token: Token) -> Option<E>;

    /// Chooses an entry, takes it out and returns it; `None` if none is evictable. O(1) amortised.
    fn evict(&mut self) -> Option<E>;

    /// Weight of all entries.
    fn weight(&self) -> u64;

    /// Number of entries.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
