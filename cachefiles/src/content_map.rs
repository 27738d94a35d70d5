//! The content map: which pages of an object are stored, which are known to be zeros, and the
//! checksum of every stored page. It is the truth about what is cached; the backing filesystem's own
//! idea of holes is never asked (complaint 6: it may fill and punch zero blocks as it likes).
//!
//! - A [`Chunk`] covers 1 GiB: 4096 blocks of 256 KiB, 64 pages each. Chunks are made when first
//!   written and, for objects whose map is in a side file, loaded when first asked for.
//! - `I1` A page's data bit is set only after its bytes are wholly in the file and its checksum is in
//!   the map. A write clears the bits of its pages before it touches the file.
//! - `I2` Each change of a block's bits moves the block's sequence number. A reader that finds a bad
//!   checksum calls it corruption only if the number stands where it stood before the read.
//! - `I3` At most one write is in flight for a page. [`forget`](ContentMap::forget) and
//!   [`mark_zero`](ContentMap::mark_zero) cancel the writes they meet: those set no bits when they end.

mod chunk;
mod codec;
mod editions;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::Range,
};

use netfs::{
    folio::PAGE_SIZE,
    fscache::{CacheMiss, Extent, ExtentKind, Extents, Refusal},
};
use smallvec::SmallVec;

pub(crate) use chunk::Chunk;
pub(crate) use codec::{
    CRC_AREA, CRC_SEGMENT_PAGES, MAP_AREA, MAP_FIXED, Place, edition_in, side_offset, worst_inline,
};
pub(crate) use editions::Editions;

/// Pages of a block (256 KiB).
pub(crate) const BLOCK_PAGES: u64 = 64;
/// Blocks of a chunk.
pub(crate) const CHUNK_BLOCKS: u64 = 4096;
/// Pages of a chunk (1 GiB).
pub(crate) const CHUNK_PAGES: u64 = BLOCK_PAGES * CHUNK_BLOCKS;

const PAGE: u64 = PAGE_SIZE as u64;
/// New chunks one `mark_zero` makes at most: knowing a zero is optional, memory is not endless.
const ZERO_CHUNKS_MAX: u64 = 64;
/// Changes remembered for a chunk that is not loaded; past that everything in it is forgotten.
const PENDING_MAX: usize = 64;

/// Pages of one kind inside one chunk, as a reader sees them at one moment.
pub(crate) struct Run {
    /// Known zeros: nothing to read.
    pub(crate) zero: bool,
    /// How many pages.
    pub(crate) pages: usize,
    /// Pages of the first block before the run.
    before: usize,
    /// The blocks' sequence numbers (`I2`).
    seqs: SmallVec<[u32; 3]>,
    /// Checksums of the pages; of a small read without an allocation.
    pub(crate) crcs: SmallVec<[u32; 16]>,
}

impl Run {
    /// The sequence number of the block that the run's page `index` lies in.
    pub(crate) fn seq_of(&self, index: usize) -> u32 {
        self.seqs[(self.before + index) / BLOCK_PAGES as usize]
    }
}

/// A write that has begun.
#[derive(Debug)]
pub(crate) struct Ticket {
    id: u64,
    pages: Range<u64>,
}

/// A chunk's changes on their way to disk.
pub(crate) struct DirtyChunk {
    /// Which chunk.
    pub(crate) number: u64,
    /// The encoded map.
    pub(crate) map: Vec<u8>,
    /// Side file only: changed runs of checksums by segment number.
    pub(crate) segments: Vec<(u64, Vec<u8>)>,
}

struct Writing {
    id: u64,
    pages: Range<u64>,
    cancelled: bool,
}

enum Pending {
    Forget(Range<u64>),
    Zero(Range<u64>),
}

/// The content map of one incarnation of an object.
pub(crate) struct ContentMap {
    size: u64,
    pages: u64,
    /// Pages the map had when its chunks were last all on disk: of those chunks, one that is not in
    /// `chunks` is not loaded; of later ones it is empty. None of the latter is on disk.
    on_disk: u64,
    chunks: BTreeMap<u64, Chunk>,
    pending: BTreeMap<u64, Vec<Pending>>,
    editions: Editions,
    writing: Vec<Writing>,
    next_write: u64,
}

impl ContentMap {
    /// The map of an object of `size` bytes of which nothing is stored.
    pub(crate) fn empty(size: u64) -> ContentMap {
        ContentMap {
            size,
            pages: size.div_ceil(PAGE),
            on_disk: 0,
            chunks: BTreeMap::new(),
            pending: BTreeMap::new(),
            editions: Editions::default(),
            writing: Vec::new(),
            next_write: 0,
        }
    }

    /// The map of an object whose chunks are on disk, in these editions.
    pub(crate) fn stored(size: u64, editions: Editions) -> ContentMap {
        ContentMap { on_disk: size.div_ceil(PAGE), editions, ..ContentMap::empty(size) }
    }

    /// The chunks' editions.
    pub(crate) fn editions(&self) -> &Editions {
        &self.editions
    }

    /// Pages of the object.
    pub(crate) fn pages(&self) -> u64 {
        self.pages
    }

    /// Whether the chunk has to be loaded before it can be written.
    pub(crate) fn needs_load(&self, number: u64) -> bool {
        number < self.stored_chunks() && !self.chunks.contains_key(&number)
    }

    /// The chunks that may be on disk and not here.
    fn stored_chunks(&self) -> u64 {
        self.on_disk.div_ceil(CHUNK_PAGES)
    }

    /// How many pages a chunk that is not loaded has on disk.
    pub(crate) fn pages_stored_in(&self, number: u64) -> u64 {
        self.on_disk.saturating_sub(number * CHUNK_PAGES).min(CHUNK_PAGES)
    }

    /// The chunks with changes that take effect only when they are loaded: until then the disk does not
    /// know of those.
    pub(crate) fn postponed(&self) -> Vec<u64> {
        self.pending.keys().copied().collect()
    }

    /// How many pages of the object lie in a chunk.
    pub(crate) fn pages_in(&self, number: u64) -> u64 {
        self.pages.saturating_sub(number * CHUNK_PAGES).min(CHUNK_PAGES)
    }

    /// The chunks a range of bytes lies in.
    pub(crate) fn chunks_of(&self, range: &Range<u64>) -> Range<u64> {
        let end = range.end.div_ceil(CHUNK_PAGES * PAGE);
        range.start / (CHUNK_PAGES * PAGE)..end.min(self.pages.div_ceil(CHUNK_PAGES))
    }

    /// Puts a loaded chunk in place, with what happened to it in the meantime.
    pub(crate) fn install(&mut self, number: u64, chunk: Chunk) {
        if !self.needs_load(number) {
            return;
        }
        let mut chunk = chunk;
        let pages = self.pages_in(number);
        // First the longer: changes may be about pages that one of the two does not have.
        chunk.resize(self.pages_stored_in(number).max(pages));
        if self.editions.on_disk(number) != self.editions.of(number) {
            chunk.touch();
        }
        self.editions.loaded(number);
        self.chunks.insert(number, chunk);
        for change in self.pending.remove(&number).unwrap_or_default() {
            match change {
                Pending::Forget(pages) => self.change(pages, Chunk::forget),
                Pending::Zero(pages) => self.change(pages, Chunk::mark_zero),
            }
        }
        if let Some(chunk) = self.chunks.get_mut(&number) {
            chunk.resize(pages);
        }
    }

    /// The owner has changed these bytes and made the file of this size: they are forgotten, and what an
    /// earlier map says of the chunks they lie in is no longer believed.
    ///
    /// # Errors
    /// As [`resize`](ContentMap::resize); nothing has changed then.
    pub(crate) fn own_change(
        &mut self,
        size: u64,
        changed: &[Range<u64>],
        edition: u64,
    ) -> Result<(), Refusal> {
        let end = self.size.min(size)..self.size.max(size);
        self.resize(size)?;
        for range in changed.iter().chain([&end]).filter(|range| !range.is_empty()) {
            for number in self.chunks_of(range) {
                let loaded = self.chunks.get_mut(&number);
                let is_loaded = loaded.is_some();
                if let Some(chunk) = loaded {
                    chunk.touch();
                } else if self.needs_load(number) {
                    // Has it loaded, and written back as of this edition.
                    self.postpone(number, Pending::Forget(0..0));
                } else {
                    continue;
                }
                self.editions.touch(number, edition, is_loaded);
            }
        }
        changed.iter().for_each(|range| self.forget(range.clone()));
        Ok(())
    }

    /// The object has another size (N-C73): the page that holds the old end and every page that reaches past
    /// the new one are forgotten.
    ///
    /// # Errors
    /// It would lose a chunk, whose encoding would stay on disk and be found again when it grows.
    fn resize(&mut self, size: u64) -> Result<(), Refusal> {
        let (before, pages) = (self.pages, size.div_ceil(PAGE));
        if pages.div_ceil(CHUNK_PAGES) < before.div_ceil(CHUNK_PAGES) {
            return Err(Refusal::Unsupported);
        }
        if size == self.size {
            return Ok(());
        }
        self.forget(self.size.min(size) / PAGE * PAGE..before * PAGE);
        (self.size, self.pages) = (size, pages);
        let Some(last) = before.checked_sub(1).map(|page| page / CHUNK_PAGES) else {
            return Ok(());
        };
        let pages = self.pages_in(last);
        if let Some(chunk) = self.chunks.get_mut(&last) {
            chunk.resize(pages);
        } else if self.needs_load(last) {
            // Has it loaded, and written back with its new length.
            self.postpone(last, Pending::Forget(0..0));
        }
        Ok(())
    }

    /// What is known of a range of bytes, and the first chunk that would have to be loaded to know
    /// more.
    pub(crate) fn extents(&self, range: Range<u64>) -> (Extents, Option<u64>) {
        let mut runs = Runs { within: range.clone(), out: Extents::new() };
        let mut load = None;
        let known_end = range.end.div_ceil(PAGE).min(self.pages);
        let mut page = range.start / PAGE;
        while page < known_end {
            let number = page / CHUNK_PAGES;
            let (kind, end) = if let Some(chunk) = self.chunks.get(&number) {
                let (kind, pages) = chunk.run_at(page % CHUNK_PAGES);
                (kind, page + pages)
            } else if !self.needs_load(number) {
                (ExtentKind::Absent, self.next_chunk_after(number))
            } else {
                load.get_or_insert(number);
                let stored = self.stored_chunks() * CHUNK_PAGES;
                (ExtentKind::NotLoaded, self.next_chunk_after(number).min(stored))
            };
            let end = end.min(known_end);
            runs.push(page * PAGE..end * PAGE, kind);
            page = end;
        }
        runs.push(known_end * PAGE..u64::MAX, ExtentKind::Absent);
        (runs.out, load)
    }

    fn next_chunk_after(&self, number: u64) -> u64 {
        self.chunks.range(number + 1..).next().map_or(u64::MAX, |(n, _)| n * CHUNK_PAGES)
    }

    /// The run of pages of one kind that starts at `page`, at most `max` and within one chunk.
    pub(crate) fn run(&self, page: u64, max: u64) -> Result<Run, CacheMiss> {
        let number = page / CHUNK_PAGES;
        if page >= self.pages {
            return Err(CacheMiss::Absent);
        }
        match self.chunks.get(&number) {
            Some(chunk) => chunk.snapshot(page % CHUNK_PAGES, max).ok_or(CacheMiss::Absent),
            None if self.needs_load(number) => Err(CacheMiss::NotLoaded),
            None => Err(CacheMiss::Absent),
        }
    }

    /// [`run`](ContentMap::run) of at most `max`, if all of the `want` pages from `page` on are stored:
    /// so a reader of several runs does not find out in the middle.
    pub(crate) fn run_of_data(&self, page: u64, want: u64, max: u64) -> Result<Run, CacheMiss> {
        let run = self.run(page, want.min(max))?;
        let end = page.saturating_add(want);
        let mut at = page + run.pages as u64;
        // What one run holds, a small read always, is not looked at again.
        while !run.zero && at < end {
            let chunk = self.chunks.get(&(at / CHUNK_PAGES)).filter(|_| at < self.pages);
            match chunk.map(|chunk| chunk.run_at(at % CHUNK_PAGES)) {
                Some((ExtentKind::Data, pages)) => at += pages,
                _ => return Err(CacheMiss::Absent),
            }
        }
        if run.zero { Err(CacheMiss::Absent) } else { Ok(run) }
    }

    /// Announces a write (`I1`, `I3`). The chunks it touches must be loaded.
    pub(crate) fn begin_write(&mut self, pages: Range<u64>) -> Result<Ticket, Refusal> {
        if pages.is_empty() || pages.end > self.pages {
            return Err(Refusal::Unsupported);
        }
        if self.writing.iter().any(|w| overlap(&w.pages, &pages)) {
            return Err(Refusal::Busy);
        }
        self.change(pages.clone(), Chunk::forget);
        self.next_write += 1;
        let id = self.next_write;
        self.writing.push(Writing { id, pages: pages.clone(), cancelled: false });
        Ok(Ticket { id, pages })
    }

    /// Ends a write: with the checksums of its pages, or `None` if it failed. Says whether the pages
    /// are readable now.
    pub(crate) fn end_write(&mut self, ticket: Ticket, crcs: Option<&[u32]>) -> bool {
        let Some(at) = self.writing.iter().position(|w| w.id == ticket.id) else { return false };
        let writing = self.writing.swap_remove(at);
        let Some(crcs) = crcs.filter(|_| !writing.cancelled) else { return false };
        for (page, crc) in ticket.pages.zip(crcs) {
            let number = page / CHUNK_PAGES;
            let pages = self.pages_in(number);
            let chunk = self.chunks.entry(number).or_insert_with(|| Chunk::empty(pages));
            chunk.set_data(page % CHUNK_PAGES, *crc);
        }
        true
    }

    /// Records zeros: the whole pages inside `range`, and the last page if the range reaches the end.
    pub(crate) fn mark_zero(&mut self, range: Range<u64>) {
        let end = if range.end >= self.size { self.pages } else { range.end / PAGE };
        let pages = range.start.div_ceil(PAGE)..end;
        self.cancel(&pages);
        let mut fresh = 0;
        for number in chunk_numbers(&pages) {
            let part = clip(&pages, number);
            if self.needs_load(number) {
                self.postpone(number, Pending::Zero(part));
                continue;
            }
            let count = self.pages_in(number);
            if let Entry::Vacant(place) = self.chunks.entry(number) {
                fresh += 1;
                if fresh > ZERO_CHUNKS_MAX {
                    continue;
                }
                place.insert(Chunk::empty(count));
            }
            self.change(part, Chunk::mark_zero);
        }
    }

    /// Forgets every page that `range` touches.
    pub(crate) fn forget(&mut self, range: Range<u64>) {
        let pages = range.start / PAGE..range.end.div_ceil(PAGE).min(self.pages);
        self.cancel(&pages);
        if self.on_disk > 0 {
            for number in chunk_numbers(&pages) {
                if self.needs_load(number) {
                    self.postpone(number, Pending::Forget(clip(&pages, number)));
                }
            }
        }
        self.change(pages, Chunk::forget);
    }

    /// A reader's checksum did not match: true if that is corruption (the page is forgotten then),
    /// false if the page changed since the run was taken (`I2`).
    pub(crate) fn is_corrupt(&mut self, page: u64, seq: u32) -> bool {
        let Some(chunk) = self.chunks.get_mut(&(page / CHUNK_PAGES)) else { return false };
        let inside = page % CHUNK_PAGES;
        if chunk.seq(inside) != seq {
            return false;
        }
        chunk.forget(inside..inside + 1);
        true
    }

    /// The chunks that changed since the last call, encoded. They count as clean from here on.
    pub(crate) fn take_dirty(&mut self, place: Place) -> Vec<DirtyChunk> {
        self.chunks
            .iter_mut()
            .filter(|(_, chunk)| chunk.is_dirty())
            .map(|(number, chunk)| chunk.take_dirty(*number, self.editions.of(*number), place))
            .collect()
    }

    /// Takes a failed write-back of the map into account: everything counts as changed again.
    pub(crate) fn redirty(&mut self) {
        self.chunks.values_mut().for_each(Chunk::redirty);
    }

    fn change(&mut self, pages: Range<u64>, f: impl Fn(&mut Chunk, Range<u64>)) {
        if pages.is_empty() {
            return;
        }
        let (first, last) = (pages.start / CHUNK_PAGES, (pages.end - 1) / CHUNK_PAGES);
        for (number, chunk) in self.chunks.range_mut(first..=last) {
            let part = clip(&pages, *number);
            let base = number * CHUNK_PAGES;
            f(chunk, part.start - base..part.end - base);
        }
    }

    fn cancel(&mut self, pages: &Range<u64>) {
        for writing in self.writing.iter_mut().filter(|w| overlap(&w.pages, pages)) {
            writing.cancelled = true;
        }
    }

    fn postpone(&mut self, number: u64, change: Pending) {
        let all = number * CHUNK_PAGES..(number + 1) * CHUNK_PAGES;
        let list = self.pending.entry(number).or_default();
        list.push(change);
        if list.len() > PENDING_MAX {
            *list = vec![Pending::Forget(all)];
        }
    }
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

fn chunk_numbers(pages: &Range<u64>) -> impl Iterator<Item = u64> + use<> {
    let end = if pages.is_empty() { 0 } else { (pages.end - 1) / CHUNK_PAGES + 1 };
    pages.start / CHUNK_PAGES..end
}

fn clip(pages: &Range<u64>, number: u64) -> Range<u64> {
    let base = number * CHUNK_PAGES;
    pages.start.max(base)..pages.end.min(base + CHUNK_PAGES)
}

/// Builds extents: clips to the asked range, merges neighbours of one kind.
struct Runs {
    within: Range<u64>,
    out: Extents,
}

impl Runs {
    fn push(&mut self, range: Range<u64>, kind: ExtentKind) {
        let range = range.start.max(self.within.start)..range.end.min(self.within.end);
        if range.is_empty() {
            return;
        }
        match self.out.last_mut() {
            Some(last) if last.kind == kind => last.range.end = range.end,
            _ => self.out.push(Extent { range, kind }),
        }
    }
}
