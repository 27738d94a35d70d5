//! Which state of each chunk is the right one after own changes.
//!
//! An own change keeps the incarnation, and with it what checksums and maps are bound to. So an older map
//! put back together with older data would fit both. Therefore each own change gives the chunks it touches
//! an edition, a number that never comes again; a chunk's encoding states its own, and the object's header
//! what all of them come to. A chunk that no own change has touched is of edition 0.

use std::collections::BTreeMap;

use crate::checksum::mix;

/// The editions of an object's chunks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Editions {
    /// Those that are not 0.
    now: BTreeMap<u64, u64>,
    /// What the disk has of chunks that were touched before they were loaded.
    unloaded: BTreeMap<u64, u64>,
}

impl Editions {
    /// Those of chunk 0, 1, ..; the same number is in the header.
    pub(crate) fn stored(editions: impl IntoIterator<Item = (u64, u64)>) -> Editions {
        let now = editions.into_iter().filter(|(_, edition)| *edition != 0).collect();
        Editions { now, unloaded: BTreeMap::new() }
    }

    /// What they come to: 0 if no own change has touched anything.
    pub(crate) fn sum(&self) -> u64 {
        self.now.iter().fold(0, |sum, (chunk, edition)| sum ^ mix(mix(*chunk) ^ edition))
    }

    /// A chunk's edition.
    pub(super) fn of(&self, chunk: u64) -> u64 {
        self.now.get(&chunk).copied().unwrap_or(0)
    }

    /// The edition that a chunk which is not loaded has on disk.
    pub(crate) fn on_disk(&self, chunk: u64) -> u64 {
        self.unloaded.get(&chunk).copied().unwrap_or_else(|| self.of(chunk))
    }

    /// An own change has touched a chunk.
    pub(super) fn touch(&mut self, chunk: u64, edition: u64, loaded: bool) {
        let before = self.now.insert(chunk, edition).unwrap_or(0);
        if !loaded {
            self.unloaded.entry(chunk).or_insert(before);
        }
    }

    /// A chunk has been loaded: the next thing the disk has of it is its edition now.
    pub(super) fn loaded(&mut self, chunk: u64) {
        self.unloaded.remove(&chunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_chunk_and_each_edition_counts() {
        let sum = |e: &[(u64, u64)]| Editions::stored(e.iter().copied()).sum();
        assert_eq!((sum(&[]), sum(&[(0, 0), (7, 0)])), (0, 0));
        let sums = [sum(&[(0, 5)]), sum(&[(1, 5)]), sum(&[(0, 6)]), sum(&[(0, 5), (1, 5)])];
        for (i, a) in sums.iter().enumerate() {
            assert!(*a != 0 && sums[..i].iter().all(|b| a != b), "{sums:?}");
        }
    }

    #[test]
    fn the_disk_has_the_first_edition_until_a_chunk_is_loaded() {
        let mut editions = Editions::stored([(3, 9)]);
        editions.touch(3, 10, false);
        editions.touch(3, 11, false);
        assert_eq!((editions.of(3), editions.on_disk(3)), (11, 9));
        editions.loaded(3);
        editions.touch(3, 12, true);
        assert_eq!((editions.of(3), editions.on_disk(3)), (12, 12));
    }
}
