//! Writing into memory that readers may come to, in the one situation in which none can be there.

#![allow(unsafe_code, reason = "writes into a folio's memory under its index's exclusive lock: W1")]

use std::ops::Range;

use super::Content;
use crate::{
    folio::{
        Extents,
        memory::{Exclusive, FolioMem},
    },
    sync::Arc,
};

impl Content {
    /// Copies `bytes` into the folio at `offset` of the file, all of which it holds; false if somebody
    /// has a slice of its memory. `&mut`: the index is held exclusively.
    pub(super) fn write_in_place(&mut self, offset: u64, bytes: &[u8]) -> bool {
        let Some(folio) = self.slots.get(offset) else { return false };
        let at = (offset - folio.offset()) as usize;
        // SAFETY: the folio is in this index, which is held exclusively for the whole call; the folio
        // is its memory's only owner if the count is one.
        let Some(mut memory) = (unsafe { Exclusive::of(folio.mem_arc()) }) else { return false };
        memory.write(at, bytes);
        true
    }

    /// The same into the overlay of the folio at `offset`, which is being filled.
    pub(super) fn write_overlay(&mut self, offset: u64, bytes: &[u8]) -> bool {
        let Some(folio) = self.slots.get(offset) else { return false };
        let at = (offset - folio.offset()) as usize;
        folio.with_dirt(|dirt| {
            let Some(overlay) = dirt.and_then(|d| d.overlay.as_ref()) else { return false };
            // SAFETY: as above; an overlay is held by the dirt of its folio and by slices only.
            let Some(mut memory) = (unsafe { Exclusive::of(overlay) }) else { return false };
            memory.write(at, bytes);
            true
        })
    }

    /// Lays `extents` of `from` over the memory of the folio at `offset`, before anybody reads it; false
    /// if somebody has a slice of it (its way to the disk cache).
    pub(super) fn lay_over(&mut self, offset: u64, from: &FolioMem, extents: &Extents) -> bool {
        let Some(folio) = self.slots.get(offset) else { return false };
        // SAFETY: as above.
        let Some(mut memory) = (unsafe { Exclusive::of(folio.mem_arc()) }) else { return false };
        for (range, _) in extents.iter() {
            memory.write(range.start, from.read_settled(range));
        }
        true
    }
}

/// A copy of `from` in `to`, which is new and as long, with `extents` of `over` on top.
pub(super) fn copy_with(
    from: &FolioMem,
    to: &Arc<FolioMem>,
    over: Option<(&FolioMem, &Extents)>,
) -> bool {
    // SAFETY: `to` is the caller's alone if the count is one: nobody else has ever seen it.
    let Some(mut memory) = (unsafe { Exclusive::of(to) }) else { return false };
    memory.write(0, from.read_settled(0..from.len()));
    if let Some((over, extents)) = over {
        let ranges: Vec<Range<usize>> = extents.iter().map(|(r, _)| r).collect();
        ranges.into_iter().for_each(|r| memory.write(r.start, over.read_settled(r)));
    }
    true
}
