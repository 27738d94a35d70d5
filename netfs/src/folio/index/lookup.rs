//! The hit path, and what a reader asks before it plans a fetch.

use std::ops::Range;

use smallvec::SmallVec;

use super::{
    Content, FolioIndex,
    slots::{Slot, granule_of},
};
use crate::{
    folio::{GRANULE, Held, PAGE_SIZE, Slice, shares, state::Folio, window::page_up},
    sync::Arc,
};

/// Zero-copy pieces of a read, in file order.
pub(crate) type Slices = SmallVec<[Slice; 8]>;

/// What is at an offset.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// No folio.
    Absent,
    /// A folio that is being filled.
    Locked(Arc<Folio>),
    /// A folio of which only what was written is known: for a reader, absent.
    Partial,
    /// A folio with its content.
    Uptodate(Arc<Folio>),
}

impl FolioIndex {
    /// What is at byte `offset`. Does not count as a use.
    pub(crate) fn get(&self, offset: u64) -> Lookup {
        self.content.glance(|content| match content.slots.get(offset) {
            None => Lookup::Absent,
            Some(folio) if folio.is_uptodate() => Lookup::Uptodate(Arc::clone(folio)),
            Some(folio) if folio.is_partial() => Lookup::Partial,
            Some(folio) => Lookup::Locked(Arc::clone(folio)),
        })
    }

    /// Copies what is uptodate from `offset` on into `into`, up to the first byte that is not, and
    /// returns how much that was. Nothing that is invalidated during the call is mixed with what came
    /// before: the copy ends there.
    ///
    /// Folios are pinned and copied without the index: the caller's buffer may be anything, and a page
    /// fault there may take for ever (memory of a guest, a file mapped from a mount that we serve), which
    /// a writer of the index would have to wait for.
    pub(crate) fn copy_uptodate(&self, offset: u64, into: &mut [u8]) -> usize {
        // Nearly all small reads: nothing to gather.
        if let Some(slice) = self.slice_uptodate(offset, into.len() as u64) {
            into.copy_from_slice(&slice);
            return into.len();
        }
        let data_gen = self.data_gen();
        let mut done = 0;
        while done < into.len() {
            let mut slices = Slices::new();
            let at = offset + done as u64;
            let found = self.inline_slices(at, into.len() - done, &mut slices);
            // A removal bumps the generation under the lock that was just held: what was found is of
            // the generation the copy began with, or is not used.
            if found == 0 || self.data_gen() != data_gen {
                break;
            }
            for slice in &slices {
                into[done..done + slice.len()].copy_from_slice(slice);
                done += slice.len();
            }
        }
        done
    }

    /// Appends what is uptodate from `offset` on to `into` as immutable slices, up to `len` bytes or
    /// the first byte that is not uptodate; returns how many bytes that was. One look under the lock:
    /// all of it was valid at one moment.
    pub(crate) fn slices_uptodate(&self, offset: u64, len: usize, into: &mut Slices) -> usize {
        self.content.read().for_uptodate(offset, len, |folio, range, _| {
            into.push(Slice::settled(Arc::clone(folio.mem_arc()), range));
            true
        })
    }

    /// All `len` bytes at `offset` as one immutable slice, if they are uptodate and in one folio; else
    /// nothing is noted of the look. The quickest way to a small zero-copy read.
    #[inline]
    pub(crate) fn slice_uptodate(&self, offset: u64, len: u64) -> Option<Slice> {
        self.content.glance(|content| {
            let folio = content.slots.get(offset).filter(|f| f.is_uptodate())?;
            let start = (offset - folio.offset()) as usize;
            if len > (folio.len() - start) as u64 {
                return None;
            }
            let range = start..start + len as usize;
            folio.touch(range.clone());
            Some(Slice::settled(Arc::clone(folio.mem_arc()), range))
        })
    }

    /// The same as [`slices_uptodate`](FolioIndex::slices_uptodate), as far as it goes without
    /// allocating.
    fn inline_slices(&self, offset: u64, len: usize, into: &mut Slices) -> usize {
        self.content.glance(|content| {
            content.for_uptodate(offset, len, |folio, range, _| {
                into.push(Slice::settled(Arc::clone(folio.mem_arc()), range));
                into.len() < into.inline_size()
            })
        })
    }

    /// Page-aligned runs within `range` (widened to pages) that have no folio at all, in order. Takes
    /// time in proportion to the range: ask for a window, not for a file.
    pub(crate) fn absent_runs(&self, range: Range<u64>) -> SmallVec<[Range<u64>; 4]> {
        let mut runs: SmallVec<[Range<u64>; 4]> = SmallVec::new();
        self.content.read().for_places(widen(range), |place, folio| {
            if folio.is_some() {
                return;
            }
            match runs.last_mut() {
                Some(run) if run.end == place.start => run.end = place.end,
                _ => runs.push(place),
            }
        });
        runs
    }

    /// The place of the folio at byte `at`, if something was written to it and it is not uptodate.
    pub(crate) fn dirty_place(&self, at: u64) -> Option<Range<u64>> {
        if self.dirty_bytes() == 0 {
            return None;
        }
        self.content.glance(|content| {
            let folio = content.slots.get(at)?;
            (folio.is_dirty() && !folio.is_uptodate()).then(|| folio.range())
        })
    }

    /// The places of partial folios in `range`: what they lack has to be fetched into a folio of the
    /// very same place.
    pub(crate) fn partial_in(&self, range: Range<u64>) -> SmallVec<[Range<u64>; 4]> {
        let mut places = SmallVec::new();
        let content = self.content.read();
        let first = content.slots.get(range.start).map_or(range.start, |f| f.offset());
        for offset in content.dirty.range(first..range.end) {
            let partial = content.slots.get(*offset).filter(|f| f.is_partial());
            places.extend(partial.map(|f| f.range()));
        }
        places
    }

    /// Bytes read past this cache, with what was written here and is not on the server laid over them.
    /// `slices` lie one after the other and cover `range`.
    pub(crate) fn with_dirt_over(&self, slices: Slices, range: &Range<u64>) -> Slices {
        if self.dirty_bytes() == 0 {
            return slices;
        }
        let mut bytes: Vec<u8> = slices.iter().flat_map(|s| s.iter().copied()).collect();
        let content = self.content.read();
        let first = content.slots.get(range.start).map_or(range.start, |f| f.offset());
        for offset in content.dirty.range(first..range.end) {
            let Some(folio) = content.slots.get(*offset) else { continue };
            folio.with_dirt(|dirt| {
                let Some(dirt) = dirt else { return };
                let mem = dirt.overlay.as_ref().unwrap_or(folio.mem_arc());
                for (r, _) in dirt.all().iter() {
                    let here = offset + r.start as u64..offset + r.end as u64;
                    let cut = here.start.max(range.start)..here.end.min(range.end);
                    if cut.start < cut.end {
                        let from = (cut.start - offset) as usize..(cut.end - offset) as usize;
                        let to =
                            (cut.start - range.start) as usize..(cut.end - range.start) as usize;
                        bytes[to].copy_from_slice(mem.read_settled(from));
                    }
                }
            });
        }
        drop(content);
        Slices::from_iter([Slice::from_bytes(&bytes)])
    }

    /// The bytes of an uptodate folio, for a reader that copies them. `range` is relative to it.
    pub(crate) fn slice_of(&self, folio: &Folio, range: Range<usize>) -> Slice {
        let _content = self.content.read();
        folio.slice(range)
    }

    /// Slices of folios a reader holds: the bytes of `range`, which they cover.
    pub(crate) fn slices_held(&self, held: &[Held], range: &Range<u64>) -> Slices {
        let _content = self.content.read();
        let part = |(held, r): (&Held, Range<u64>)| {
            let start = held.folio.offset();
            held.folio.slice((r.start - start) as usize..(r.end - start) as usize)
        };
        shares(held, range).map(part).collect()
    }

    /// Whether there is any folio in `range`, uptodate or not. For ranges of a read, at most.
    pub(crate) fn any_in(&self, range: Range<u64>) -> bool {
        let mut any = false;
        self.content.glance(|content| {
            content.for_places(widen(range), |_, folio| any |= folio.is_some());
        });
        any
    }

    #[cfg(test)]
    /// Folios within `range` that are being filled, in order.
    pub(crate) fn locked_in(&self, range: Range<u64>) -> SmallVec<[Arc<Folio>; 4]> {
        let mut locked = SmallVec::new();
        self.content.read().for_places(widen(range), |_, folio| {
            if let Some(folio) = folio.filter(|f| f.is_locked()) {
                locked.push(Arc::clone(folio));
            }
        });
        locked
    }
}

impl Content {
    /// Visits the uptodate folios from `offset` on without a gap: folio, the range within it, and the
    /// bytes before it. Stops after `len` bytes, at a gap, or when `visit` says so. Each visit counts
    /// as a use. Returns the bytes visited.
    fn for_uptodate(
        &self,
        offset: u64,
        len: usize,
        mut visit: impl FnMut(&Arc<Folio>, Range<usize>, usize) -> bool,
    ) -> usize {
        let mut done = 0;
        while done < len {
            let Some(at) = offset.checked_add(done as u64) else { break };
            let Some(folio) = self.slots.get(at).filter(|f| f.is_uptodate()) else { break };
            let start = (at - folio.offset()) as usize;
            let range = start..folio.len().min(start + (len - done));
            folio.touch(range.clone());
            let n = range.len();
            let go_on = visit(folio, range, done);
            done += n;
            if !go_on {
                break;
            }
        }
        done
    }

    /// Visits the page-aligned `range` in order: each folio once, and what lies between them.
    fn for_places(
        &self,
        range: Range<u64>,
        mut visit: impl FnMut(Range<u64>, Option<&Arc<Folio>>),
    ) {
        let mut at = range.start;
        while at < range.end {
            let granule = granule_of(at);
            let slot = self.slots.slot(granule);
            let folio = slot.get(at);
            let end = match (folio, slot) {
                (Some(folio), _) => folio.offset() + folio.len() as u64,
                (None, Slot::One(_) | Slot::Split(_)) => at + PAGE_SIZE as u64,
                (None, _) => (granule * GRANULE as u64).saturating_add(GRANULE as u64),
            };
            let end = end.min(range.end);
            visit(at..end, folio);
            at = end;
        }
    }
}

/// `range` grown to whole pages.
fn widen(range: Range<u64>) -> Range<u64> {
    range.start & !(PAGE_SIZE as u64 - 1)..page_up(range.end)
}
