//! One GiB of a content map in memory.

use std::ops::Range;

use netfs::fscache::ExtentKind;
use smallvec::SmallVec;

use super::{
    BLOCK_PAGES, DirtyChunk, Run,
    codec::{CRC_SEGMENT_PAGES, Place},
};

/// The state of up to 262,144 pages. A page has its bit in `data`, in `zero`, or in neither.
pub(crate) struct Chunk {
    pub(super) pages: u64,
    pub(super) data: Box<[u64]>,
    pub(super) zero: Box<[u64]>,
    seq: Box<[u32]>,
    /// Empty until the first page is stored.
    pub(super) crcs: Vec<u32>,
    dirty: bool,
    /// Segments of checksums that changed, one bit each.
    dirty_segments: [u64; 4],
}

impl Chunk {
    /// A chunk of `pages` pages, nothing known.
    pub(crate) fn empty(pages: u64) -> Chunk {
        let blocks = usize::try_from(pages.div_ceil(BLOCK_PAGES)).unwrap_or(0);
        Chunk {
            pages,
            data: vec![0; blocks].into(),
            zero: vec![0; blocks].into(),
            seq: vec![0; blocks].into(),
            crcs: Vec::new(),
            dirty: false,
            dirty_segments: [0; 4],
        }
    }

    /// A block's sequence number.
    pub(super) fn seq(&self, page: u64) -> u32 {
        self.seq[block_of(page)]
    }

    /// The kind of `page` and how many pages of its block, from it on, are of that kind.
    pub(super) fn run_at(&self, page: u64) -> (ExtentKind, u64) {
        let (block, bit) = (block_of(page), page % BLOCK_PAGES);
        let (data, zero) = (self.data[block] >> bit, self.zero[block] >> bit);
        let (kind, mask) = if data & 1 == 1 {
            (ExtentKind::Data, data)
        } else if zero & 1 == 1 {
            (ExtentKind::Zero, zero)
        } else {
            (ExtentKind::Absent, !(data | zero))
        };
        let run = u64::from(mask.trailing_ones()).min(BLOCK_PAGES - bit);
        (kind, run.min(self.pages - page))
    }

    /// The run at `page` for a reader, at most `max` pages; `None` if the page is not known.
    pub(super) fn snapshot(&self, page: u64, max: u64) -> Option<Run> {
        let (kind, _) = self.run_at(page);
        let before = usize::try_from(page % BLOCK_PAGES).ok()?;
        let (mut seqs, mut end) = (SmallVec::new(), page);
        while end < self.pages && end - page < max {
            let (here, pages) = self.run_at(end);
            if here != kind {
                break;
            }
            seqs.push(self.seq(end));
            end += pages.min(max - (end - page));
            if end % BLOCK_PAGES != 0 {
                break;
            }
        }
        let pages = usize::try_from(end - page).ok()?;
        let mut run = Run { zero: false, pages, before, seqs, crcs: SmallVec::new() };
        match kind {
            ExtentKind::Zero => run.zero = true,
            ExtentKind::Data => {
                let first = usize::try_from(page).ok()?;
                run.crcs.extend_from_slice(self.crcs.get(first..first + pages)?);
            }
            _ => return None,
        }
        Some(run)
    }

    /// A page is stored and has this checksum.
    pub(crate) fn set_data(&mut self, page: u64, crc: u32) {
        if page >= self.pages {
            return;
        }
        let (block, mask) = (block_of(page), 1 << (page % BLOCK_PAGES));
        self.zero[block] &= !mask;
        self.data[block] |= mask;
        self.bump(block);
        if self.crcs.is_empty() {
            self.crcs = vec![0; usize::try_from(self.pages).unwrap_or(0)];
        }
        if let Some(slot) = usize::try_from(page).ok().and_then(|p| self.crcs.get_mut(p)) {
            *slot = crc;
        }
        let segment = page / CRC_SEGMENT_PAGES;
        self.dirty_segments[block_of(segment)] |= 1 << (segment % 64);
    }

    /// Takes another number of pages: those past it are forgotten, new ones are not known.
    pub(super) fn resize(&mut self, pages: u64) {
        if pages == self.pages {
            return;
        }
        self.forget(pages..self.pages);
        let blocks = usize::try_from(pages.div_ceil(BLOCK_PAGES)).unwrap_or(0);
        for words in [&mut self.data, &mut self.zero] {
            let mut longer = std::mem::take(words).into_vec();
            longer.resize(blocks, 0);
            *words = longer.into();
        }
        let mut seq = std::mem::take(&mut self.seq).into_vec();
        seq.resize(blocks, 0);
        self.seq = seq.into();
        if !self.crcs.is_empty() {
            self.crcs.resize(usize::try_from(pages).unwrap_or(0), 0);
        }
        self.pages = pages;
        // Its encoding says how many there are.
        self.dirty = true;
    }

    /// Nothing is known of these pages any more.
    pub(super) fn forget(&mut self, pages: Range<u64>) {
        for (block, mask) in blocks(pages.start..pages.end.min(self.pages)) {
            if (self.data[block] | self.zero[block]) & mask != 0 {
                self.data[block] &= !mask;
                self.zero[block] &= !mask;
                self.bump(block);
            }
        }
    }

    /// These pages are zeros.
    pub(crate) fn mark_zero(&mut self, pages: Range<u64>) {
        for (block, mask) in blocks(pages.start..pages.end.min(self.pages)) {
            if self.zero[block] & mask != mask {
                self.data[block] &= !mask;
                self.zero[block] |= mask;
                self.bump(block);
            }
        }
    }

    /// What it is called on disk has changed.
    pub(super) fn touch(&mut self) {
        self.dirty = true;
    }

    /// Whether there is something to write back.
    pub(super) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Everything counts as changed: the map, and the checksums of all stored pages.
    pub(super) fn redirty(&mut self) {
        self.dirty = true;
        let stored = self.data.iter().enumerate().filter(|(_, pages)| **pages != 0);
        for (block, _) in stored {
            let segment = block as u64 * BLOCK_PAGES / CRC_SEGMENT_PAGES;
            self.dirty_segments[block_of(segment)] |= 1 << (segment % 64);
        }
    }

    /// The changes, encoded; the chunk is clean afterwards.
    pub(super) fn take_dirty(&mut self, number: u64, edition: u64, place: Place) -> DirtyChunk {
        let map = self.encode(number, edition, place);
        let mut segments = Vec::new();
        if place.side {
            for segment in 0..self.pages.div_ceil(CRC_SEGMENT_PAGES) {
                if self.dirty_segments[block_of(segment)] >> (segment % 64) & 1 == 1 {
                    segments.extend(self.encode_segment(segment).map(|bytes| (segment, bytes)));
                }
            }
        }
        self.dirty = false;
        self.dirty_segments = [0; 4];
        DirtyChunk { number, map, segments }
    }

    fn bump(&mut self, block: usize) {
        self.seq[block] = self.seq[block].wrapping_add(1);
        self.dirty = true;
    }
}

/// Both blocks of pages and words of segment bits count in sixty-fours.
fn block_of(page: u64) -> usize {
    // Callers pass pages of one chunk: far below the range of usize.
    usize::try_from(page / BLOCK_PAGES).unwrap_or(usize::MAX)
}

/// The blocks a range of pages touches, with the mask of the pages touched in each.
fn blocks(pages: Range<u64>) -> impl Iterator<Item = (usize, u64)> {
    let first = pages.start / BLOCK_PAGES;
    let last = if pages.is_empty() { first } else { pages.end.div_ceil(BLOCK_PAGES) };
    (first..last).map(move |block| {
        let base = block * BLOCK_PAGES;
        let lo = pages.start.max(base) - base;
        let hi = pages.end.min(base + BLOCK_PAGES) - base;
        let below_hi = if hi == BLOCK_PAGES { u64::MAX } else { (1 << hi) - 1 };
        (block_of(base), below_hi & (u64::MAX << lo))
    })
}
