//! The disk cache's copy of what a round uploads.
//!
//! What is copied are whole pages as they were when their dirt was taken: written in the round, or known
//! before. They are true of the version the round left if it was ours alone, and if nothing else changed
//! the file while it was taken. A page known in part is forgotten. Nobody waits for the copy; what finds no
//! room in the queue is not cached.

use std::ops::Range;

use crate::{
    coherency::Epoch,
    folio::{PAGE_SIZE, Sent, Slice},
    fscache::{FillTag, Identity},
    inode::Inode,
    remote::Version,
    request::plan::page_out,
    sync::Arc,
};

/// Bytes of one write to the cache.
const FILL_MAX: u64 = 1 << 20;

/// What the file was when its dirt was about to be taken.
pub(super) struct Before {
    known: Option<Version>,
    mark: Option<u64>,
    epoch: Epoch,
}

/// Whole pages of a round.
pub(super) struct Copy {
    /// The version the dirt was taken over. Later it may be another one already.
    pub(super) known: Option<Version>,
    /// Ascending by offset, of whole pages.
    pages: Vec<(u64, Slice)>,
    /// What the round touches, in whole pages, ascending.
    pub(super) changed: Vec<Range<u64>>,
    pub(super) epoch: Epoch,
}

impl Before {
    pub(super) fn new(inode: &Inode) -> Before {
        Before { known: inode.cell.version(), mark: inode.stable(), epoch: inode.cell.sample() }
    }

    /// `sent` has been taken, in file order.
    pub(super) fn taken(self, inode: &Inode, sent: &mut [Sent]) -> Copy {
        let mut changed: Vec<Range<u64>> = Vec::new();
        for piece in sent.iter() {
            let range = page_out(&piece.range);
            match changed.last_mut() {
                Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
                _ => changed.push(range),
            }
        }
        let known = sent.iter_mut().flat_map(|piece| std::mem::take(&mut piece.known));
        let mut pages: Vec<(u64, Slice)> = Vec::new();
        for (offset, slice) in known {
            // Two pieces of one page both know it.
            let done = pages.last().map_or(0, |(o, s)| o + s.len() as u64);
            let skip = done.saturating_sub(offset).min(slice.len() as u64);
            if skip < slice.len() as u64 {
                pages.push((offset + skip, slice.part(skip as usize..slice.len())));
            }
        }
        // What was in memory beside the dirt may be of another version than the round starts from.
        if !self.mark.is_some_and(|mark| inode.unchanged(mark)) || inode.live_cookie().is_none() {
            pages.clear();
        }
        Copy { known: self.known, pages, changed, epoch: self.epoch }
    }
}

impl Copy {
    /// Offers what the server has, all but `unwritten`, as content of `identity`.
    pub(super) fn offer(self, inode: &Arc<Inode>, identity: &Identity, unwritten: &[Range<u64>]) {
        let Some(cookie) = inode.live_cookie() else { return };
        let inval_counter = cookie.inval_counter();
        let end = page_out(&(0..identity.size)).end;
        let missing: Vec<Range<u64>> = unwritten.iter().map(page_out).collect();
        let mut fill: Vec<Slice> = Vec::new();
        let (mut from, mut to) = (0, 0);
        let push = |from: u64, data: Vec<Slice>| {
            let still_ok = inode.vouching(self.epoch);
            let tag = FillTag { identity: identity.clone(), inval_counter, still_ok };
            // Dropped or not: it is counted there.
            let _ = inode.core.fills.try_push(&cookie, from, data, tag);
        };
        for (offset, slice) in self.pages.iter().flat_map(|run| without(run, &missing, end)) {
            if !fill.is_empty() && (offset != to || to - from + slice.len() as u64 > FILL_MAX) {
                push(from, std::mem::take(&mut fill));
            }
            if fill.is_empty() {
                from = offset;
            }
            to = offset + slice.len() as u64;
            fill.push(slice);
        }
        if !fill.is_empty() {
            push(from, fill);
        }
    }
}

/// The parts of a run of pages before `end` that meet none of `missing`.
fn without((offset, slice): &(u64, Slice), missing: &[Range<u64>], end: u64) -> Vec<(u64, Slice)> {
    let all = *offset..(offset + slice.len() as u64).min(end);
    let hit = |r: &Range<u64>| missing.iter().any(|m| m.start < r.end && r.start < m.end);
    if !hit(&all) {
        let n = all.end.saturating_sub(all.start) as usize;
        return if n == 0 { Vec::new() } else { vec![(*offset, slice.part(0..n))] };
    }
    let pages = all.clone().step_by(PAGE_SIZE).map(|at| at..at + PAGE_SIZE as u64);
    let part = |page: Range<u64>| {
        let at = (page.start - offset) as usize;
        (page.start, slice.part(at..at + PAGE_SIZE))
    };
    pages.filter(|page| !hit(page)).map(part).collect()
}
