//! Which whole pages are known at the moment their dirt is taken for writeback.

use std::ops::Range;

use smallvec::SmallVec;

use crate::{
    folio::{PAGE_SIZE, Slice, dirt::Dirt, memory::FolioMem, state::Folio},
    sync::Arc,
};

/// Runs of whole pages, by their place in the file.
pub(crate) type Known = SmallVec<[(u64, Slice); 1]>;

/// The pages that `piece` (relative to the folio, just moved from dirty to sent) touches and of which every
/// byte is what the server will have: written now, or, in an uptodate folio, had before. In `mem`.
pub(super) fn known_of(
    folio: &Folio,
    dirt: &Dirt,
    mem: &Arc<FolioMem>,
    piece: &Range<usize>,
) -> Known {
    // While the folio is being filled only what was written is known.
    let uptodate = folio.is_uptodate() && dirt.overlay.is_none();
    let mut known = Known::new();
    let mut run: Option<Range<usize>> = None;
    let first = piece.start / PAGE_SIZE * PAGE_SIZE;
    for start in (first..piece.end).step_by(PAGE_SIZE) {
        let page = start..(start + PAGE_SIZE).min(mem.len());
        // What is dirty still is newer than what is being sent.
        let whole = page.len() == PAGE_SIZE
            && (uptodate || dirt.sent.covers(&page))
            && !dirt.dirty.touches(&page);
        match &mut run {
            Some(run) if whole => run.end = page.end,
            _ if whole => run = Some(page),
            _ => known.extend(run.take().map(|run| slice(folio, mem, run))),
        }
    }
    known.extend(run.map(|run| slice(folio, mem, run)));
    known
}

fn slice(folio: &Folio, mem: &Arc<FolioMem>, run: Range<usize>) -> (u64, Slice) {
    (folio.offset() + run.start as u64, Slice::settled(Arc::clone(mem), run))
}
