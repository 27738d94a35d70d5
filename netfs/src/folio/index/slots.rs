//! The index's structure: a slot per granule, each empty, one folio of any size, or 64 pages.
//!
//! Slots of the populated low part of the file are a plain vector (a hit is one bounds check and one
//! load), the others a map, so that a file with one page at 8 EiB costs no more than one at 0. The
//! vector grows only in proportion to the granules that are populated.

use std::{collections::HashMap, ops::Range};

use crate::{
    folio::{GRANULE, PAGE_SIZE, state::Folio},
    sync::Arc,
};

const PAGES: usize = GRANULE / PAGE_SIZE;
/// Granules for which the vector may always grow.
const DENSE_MIN: u64 = 4;

/// The number of the granule that holds byte `offset`.
pub(super) fn granule_of(offset: u64) -> u64 {
    offset / GRANULE as u64
}

fn page_of(offset: u64) -> usize {
    (offset % GRANULE as u64) as usize / PAGE_SIZE
}

/// The folios of one granule, by page; a folio of several pages stands in each of them.
pub(super) struct Pages {
    pages: [Option<Arc<Folio>>; PAGES],
    used: usize,
}

impl Pages {
    fn insert(&mut self, folio: &Arc<Folio>) {
        let pages = pages_of(folio);
        self.used += pages.len();
        self.pages[pages].fill(Some(Arc::clone(folio)));
    }
}

#[derive(Default)]
pub(super) enum Slot {
    #[default]
    Empty,
    /// One folio, most often the whole granule or all of a small file.
    One(Arc<Folio>),
    Split(Box<Pages>),
}

impl Slot {
    /// The folio that holds byte `offset` of the file.
    #[inline]
    pub(super) fn get(&self, offset: u64) -> Option<&Arc<Folio>> {
        match self {
            Slot::Empty => None,
            Slot::One(folio) => folio.range().contains(&offset).then_some(folio),
            Slot::Split(pages) => pages.pages[page_of(offset)].as_ref(),
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Slot::Empty)
    }

    fn insert(&mut self, folio: &Arc<Folio>) {
        match self {
            Slot::Empty => *self = Slot::One(Arc::clone(folio)),
            Slot::One(first) => {
                let mut split = Box::new(Pages { pages: [const { None }; PAGES], used: 0 });
                split.insert(first);
                split.insert(folio);
                *self = Slot::Split(split);
            }
            Slot::Split(split) => split.insert(folio),
        }
    }

    /// Takes a folio out that is in this slot.
    fn remove(&mut self, folio: &Folio) {
        match self {
            Slot::Empty => {}
            Slot::One(_) => *self = Slot::Empty,
            Slot::Split(split) => {
                let pages = pages_of(folio);
                split.used -= pages.len();
                split.pages[pages].fill(None);
                if split.used == 0 {
                    *self = Slot::Empty;
                }
            }
        }
    }

    /// Clones of the folios that hold any page of `pages`, each once.
    fn list(&self, pages: Range<usize>, into: &mut Vec<Arc<Folio>>) {
        match self {
            Slot::Empty => {}
            Slot::One(folio) => {
                let own = pages_of(folio);
                if own.start < pages.end && pages.start < own.end {
                    into.push(Arc::clone(folio));
                }
            }
            Slot::Split(split) => {
                let mut at = pages.start;
                while at < pages.end {
                    let Some(folio) = &split.pages[at] else {
                        at += 1;
                        continue;
                    };
                    at = pages_of(folio).end;
                    into.push(Arc::clone(folio));
                }
            }
        }
    }
}

fn pages_of(folio: &Folio) -> Range<usize> {
    let first = page_of(folio.offset());
    first..first + folio.len() / PAGE_SIZE
}

/// All slots of one file.
#[derive(Default)]
pub(super) struct Slots {
    dense: Vec<Slot>,
    sparse: HashMap<u64, Slot, GranuleHash>,
    populated: u64,
}

impl Slots {
    /// The slot of a granule.
    #[inline]
    pub(super) fn slot(&self, granule: u64) -> &Slot {
        const EMPTY: &Slot = &Slot::Empty;
        match self.dense.get(granule as usize) {
            Some(slot) => slot,
            None => self.sparse.get(&granule).unwrap_or(EMPTY),
        }
    }

    /// The folio that holds byte `offset`.
    #[inline]
    pub(super) fn get(&self, offset: u64) -> Option<&Arc<Folio>> {
        self.slot(granule_of(offset)).get(offset)
    }

    /// Whether exactly this folio is indexed.
    pub(super) fn holds(&self, folio: &Arc<Folio>) -> bool {
        self.get(folio.offset()).is_some_and(|f| Arc::ptr_eq(f, folio))
    }

    /// Whether nothing overlaps `range`, which lies within one granule.
    pub(super) fn is_free(&self, range: Range<u64>) -> bool {
        match self.slot(granule_of(range.start)) {
            Slot::Empty => true,
            Slot::One(folio) => {
                let own = folio.range();
                range.end <= own.start || own.end <= range.start
            }
            Slot::Split(split) => {
                let first = page_of(range.start);
                let count = (range.end - range.start) as usize / PAGE_SIZE;
                split.pages[first..first + count].iter().all(Option::is_none)
            }
        }
    }

    /// Puts a folio where [`is_free`](Slots::is_free).
    pub(super) fn insert(&mut self, folio: &Arc<Folio>) {
        let granule = granule_of(folio.offset());
        let slot = self.slot_mut(granule);
        let was_empty = slot.is_empty();
        slot.insert(folio);
        self.populated += u64::from(was_empty);
    }

    /// Takes a folio out that is [held](Slots::holds).
    pub(super) fn remove(&mut self, folio: &Folio) {
        let granule = granule_of(folio.offset());
        if let Some(slot) = self.dense.get_mut(granule as usize) {
            slot.remove(folio);
            self.populated -= u64::from(slot.is_empty());
        } else if let Some(slot) = self.sparse.get_mut(&granule) {
            slot.remove(folio);
            if slot.is_empty() {
                self.sparse.remove(&granule);
                self.populated -= 1;
            }
        }
    }

    /// Takes out every folio that overlaps `range`.
    pub(super) fn take(&mut self, range: Range<u64>) -> Vec<Arc<Folio>> {
        let mut taken = Vec::new();
        let Some(last) = range.end.checked_sub(1).filter(|last| *last >= range.start) else {
            return taken;
        };
        let (first, last) = (granule_of(range.start), granule_of(last));
        let in_vector =
            (first as usize).min(self.dense.len())..(last as usize + 1).min(self.dense.len());
        for granule in in_vector {
            self.dense[granule].list(pages_within(granule as u64, &range), &mut taken);
        }
        // Whichever is shorter: the granules of the range or those of the map.
        if last - first < self.sparse.len() as u64 {
            for granule in first..=last {
                if let Some(slot) = self.sparse.get(&granule) {
                    slot.list(pages_within(granule, &range), &mut taken);
                }
            }
        } else {
            for (granule, slot) in self.sparse.iter().filter(|(g, _)| (first..=last).contains(*g)) {
                slot.list(pages_within(*granule, &range), &mut taken);
            }
        }
        for folio in &taken {
            self.remove(folio);
        }
        taken
    }

    /// Takes out everything.
    pub(super) fn take_all(&mut self) -> Vec<Arc<Folio>> {
        let Slots { dense, sparse, .. } = std::mem::take(self);
        let mut taken = Vec::new();
        for slot in dense.iter().chain(sparse.values()) {
            slot.list(0..PAGES, &mut taken);
        }
        taken
    }

    /// Slots in the vector.
    #[cfg(test)]
    pub(super) fn vector_len(&self) -> usize {
        self.dense.len()
    }

    fn slot_mut(&mut self, granule: u64) -> &mut Slot {
        let reach = DENSE_MIN + 2 * self.populated;
        let len = self.dense.len() as u64;
        // At least an eighth at a time: each growth looks through the map once.
        if granule >= len && granule < reach && reach >= len + len / 8 {
            self.dense.resize_with(reach as usize, Slot::default);
            let moved: Vec<u64> = self.sparse.keys().copied().filter(|g| *g < reach).collect();
            for g in moved {
                if let Some(slot) = self.sparse.remove(&g) {
                    self.dense[g as usize] = slot;
                }
            }
        }
        match self.dense.get_mut(granule as usize) {
            Some(slot) => slot,
            None => self.sparse.entry(granule).or_default(),
        }
    }
}

/// The pages of a granule that `range` touches. The range touches the granule.
fn pages_within(granule: u64, range: &Range<u64>) -> Range<usize> {
    let start = granule * GRANULE as u64;
    let first = range.start.saturating_sub(start) as usize / PAGE_SIZE;
    let end = (range.end - start).min(GRANULE as u64) as usize;
    first..end.div_ceil(PAGE_SIZE)
}

/// Granule numbers are spread by a multiplication; hash flooding is no concern within one file's own
/// cache, where a bad pattern costs its owner time only.
#[derive(Clone, Copy, Default)]
struct GranuleHash;

impl std::hash::BuildHasher for GranuleHash {
    type Hasher = GranuleHasher;
    fn build_hasher(&self) -> GranuleHasher {
        GranuleHasher(0)
    }
}

struct GranuleHasher(u64);

impl std::hash::Hasher for GranuleHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.write_u64(u64::from(*b));
        }
    }

    fn write_u64(&mut self, n: u64) {
        let product = u128::from(self.0 ^ n ^ 0x2545_f491_4f6c_dd1d) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}
