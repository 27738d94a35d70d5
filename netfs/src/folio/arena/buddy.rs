//! The buddy allocator's bookkeeping: which pages of which chunk are free. Numbers only, no memory.

use super::CHUNK;
use crate::folio::PAGE_SIZE;

/// Pages of a chunk.
const PAGES: usize = CHUNK / PAGE_SIZE;
/// The order of a whole chunk: 2^ORDER_MAX pages.
const ORDER_MAX: usize = PAGES.trailing_zeros() as usize;
const ORDERS: usize = ORDER_MAX + 1;

/// First word of each order's bitmap within [`FreeMap::words`]: order `o` has `PAGES >> o` bits.
const FIRST_WORD: [usize; ORDERS + 1] = {
    let mut first = [0; ORDERS + 1];
    let mut o = 0;
    while o < ORDERS {
        first[o + 1] = first[o] + (PAGES >> o).div_ceil(64);
        o += 1;
    }
    first
};

/// Where a block lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) chunk: u32,
    pub(super) page: u16,
    order: u8,
}

/// Free blocks of one chunk, a bitmap an order.
#[derive(Clone)]
struct FreeMap {
    words: [u64; FIRST_WORD[ORDERS]],
}

impl FreeMap {
    fn set(&mut self, order: usize, block: usize) {
        self.words[FIRST_WORD[order] + block / 64] |= 1 << (block % 64);
    }

    /// Takes one block off the map; says whether it was there.
    fn clear(&mut self, order: usize, block: usize) -> bool {
        let word = &mut self.words[FIRST_WORD[order] + block / 64];
        let bit = 1 << (block % 64);
        let was = *word & bit != 0;
        *word &= !bit;
        was
    }

    fn first(&self, order: usize) -> Option<usize> {
        let words = &self.words[FIRST_WORD[order]..FIRST_WORD[order + 1]];
        let i = words.iter().position(|w| *w != 0)?;
        Some(i * 64 + words[i].trailing_zeros() as usize)
    }
}

/// A set of chunk numbers with a quick way to the lowest one.
#[derive(Default)]
struct ChunkSet {
    words: Vec<u64>,
    /// No word before this one has a bit.
    lowest: usize,
}

impl ChunkSet {
    fn set(&mut self, chunk: u32) {
        let (word, bit) = (chunk as usize / 64, chunk % 64);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << bit;
        self.lowest = self.lowest.min(word);
    }

    fn clear(&mut self, chunk: u32) {
        if let Some(word) = self.words.get_mut(chunk as usize / 64) {
            *word &= !(1 << (chunk % 64));
        }
    }

    fn first(&mut self) -> Option<u32> {
        while let Some(word) = self.words.get(self.lowest) {
            if *word != 0 {
                return u32::try_from(self.lowest * 64).ok().map(|n| n + word.trailing_zeros());
            }
            self.lowest += 1;
        }
        None
    }
}

/// All chunks. Allocation takes the lowest chunk that has a block of the right size, so that high
/// chunks run empty and can be given back.
#[derive(Default)]
pub(super) struct Buddy {
    chunks: Vec<Option<Box<FreeMap>>>,
    vacant: Vec<u32>,
    /// By order: chunks that have a free block of exactly that order.
    with_free: [ChunkSet; ORDERS],
    free_chunks: usize,
}

impl Buddy {
    /// Registers a chunk, wholly free, and returns its number.
    pub(super) fn add_chunk(&mut self) -> u32 {
        let mut map = Box::new(FreeMap { words: [0; FIRST_WORD[ORDERS]] });
        map.set(ORDER_MAX, 0);
        let chunk = self.vacant.pop().unwrap_or_else(|| {
            self.chunks.push(None);
            u32::try_from(self.chunks.len() - 1).expect("2^32 chunks are 8 PiB")
        });
        self.chunks[chunk as usize] = Some(map);
        self.with_free[ORDER_MAX].set(chunk);
        self.free_chunks += 1;
        chunk
    }

    /// Forgets a wholly free chunk.
    pub(super) fn remove_chunk(&mut self, chunk: u32) {
        self.with_free[ORDER_MAX].clear(chunk);
        self.chunks[chunk as usize] = None;
        self.vacant.push(chunk);
        self.free_chunks -= 1;
    }

    /// Chunks that are wholly free.
    pub(super) fn free_chunks(&self) -> usize {
        self.free_chunks
    }

    /// Takes 2^order pages; `None` if no chunk has them.
    pub(super) fn alloc(&mut self, order: usize) -> Option<Place> {
        let (mut have, chunk) =
            (order..ORDERS).find_map(|o| self.with_free[o].first().map(|chunk| (o, chunk)))?;
        let map = self.chunks[chunk as usize].as_mut()?;
        let mut block = map.first(have)?;
        map.clear(have, block);
        if map.first(have).is_none() {
            self.with_free[have].clear(chunk);
        }
        if have == ORDER_MAX {
            self.free_chunks -= 1;
        }
        // Split: keep the lower half, free the upper, until the size is right.
        while have > order {
            have -= 1;
            block <<= 1;
            map.set(have, block + 1);
            self.with_free[have].set(chunk);
        }
        let page = u16::try_from(block << order).expect("a chunk has 512 pages");
        Some(Place { chunk, page, order: order as u8 })
    }

    /// Gives a block back, merged with its free buddies. True if its chunk is wholly free now.
    pub(super) fn free(&mut self, place: Place) -> bool {
        let mut order = place.order as usize;
        let mut block = place.page as usize >> order;
        let Some(map) = self.chunks[place.chunk as usize].as_mut() else { return false };
        while order < ORDER_MAX && map.clear(order, block ^ 1) {
            if map.first(order).is_none() {
                self.with_free[order].clear(place.chunk);
            }
            block >>= 1;
            order += 1;
        }
        map.set(order, block);
        self.with_free[order].set(place.chunk);
        self.free_chunks += usize::from(order == ORDER_MAX);
        order == ORDER_MAX
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Against a plain map of pages: no page is handed out twice, and everything freed merges
        /// back into whole chunks.
        #[test]
        fn equals_a_map_of_pages(ops in proptest::collection::vec((0usize..7, any::<bool>(), any::<prop::sample::Index>()), 1..400)) {
            let mut buddy = Buddy::default();
            let mut taken = std::collections::HashSet::new();
            let mut live: Vec<Place> = Vec::new();
            for (order, free, which) in ops {
                if free && !live.is_empty() {
                    let place = live.swap_remove(which.index(live.len()));
                    for p in 0..1u16 << place.order {
                        prop_assert!(taken.remove(&(place.chunk, place.page + p)));
                    }
                    buddy.free(place);
                    continue;
                }
                let place = buddy.alloc(order).unwrap_or_else(|| {
                    buddy.add_chunk();
                    buddy.alloc(order).expect("a fresh chunk has room")
                });
                prop_assert_eq!(place.page % (1 << order), 0);
                for p in 0..1u16 << order {
                    prop_assert!(taken.insert((place.chunk, place.page + p)));
                }
                live.push(place);
            }
            for place in live.drain(..) {
                buddy.free(place);
            }
            prop_assert_eq!(buddy.free_chunks(), buddy.chunks.len());
        }
    }
}
