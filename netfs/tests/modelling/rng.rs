//! A small seeded generator (splitmix64): a failing run is reproduced by its seed alone.

use std::ops::Range;

/// The source of every choice of a run.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        // Mixed, else each seed's numbers are the next one's but for the first, and runs of neighbouring
        // seeds fall into step.
        let mut rng = Rng(seed);
        rng.0 = rng.next();
        rng
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in a range that is not empty.
    pub(crate) fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }

    pub(crate) fn index(&mut self, len: usize) -> usize {
        self.within(0..len as u64) as usize
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.within(0..100) < percent
    }

    pub(crate) fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.index(from.len())].clone()
    }

    /// A range inside a file of `size` bytes: mostly small, often on or around an edge that matters
    /// (page, granule, end of file), sometimes past the end.
    pub(crate) fn span(&mut self, size: u64) -> (u64, u64) {
        let edges = [0, 4096, 262_144, size, size / 2];
        let near = self.pick(&edges).saturating_add(self.within(0..9000)).saturating_sub(4500);
        let anywhere = self.within(0..size.max(1) + 5000);
        let offset = if self.chance(50) { near } else { anywhere };
        let len = match self.within(0..10) {
            0 => 0,
            1..=4 => self.within(1..5000),
            5 | 6 => 4096 * self.within(1..5),
            7 | 8 => self.within(1..100_000),
            _ => self.within(1..(1 << 20) + 1),
        };
        let offset = if self.chance(20) { offset / 4096 * 4096 } else { offset };
        (offset, len)
    }
}
