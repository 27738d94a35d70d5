//! The writer's side of one file's page cache.
//!
//! [`write_step`](FolioIndex::write_step) writes as far as it gets at once, under the exclusive lock, or
//! says what has to be done first without it: new folios, a copy of memory that a reader holds, an overlay,
//! a fetch. The caller does that, and looks again.

use std::{cell::RefCell, ops::Range};

use bytes::Bytes;

use super::{Content, FolioIndex, in_place, slots::granule_of};
use crate::{
    clock::BootTime,
    folio::{
        Extents, GRANULE, PAGE_SIZE, Slice, Writer,
        budget::Account,
        dirt::{Dirt, Group},
        lent::LENT_MIN,
        memory::{FillBuf, FolioMem, NewMem},
        state::Folio,
        window::page_up,
    },
    sync::{Arc, Weak, atomic::Ordering},
    write::modify::{Modify, Place, decide},
};

/// Most bytes copied in one hold of the lock.
const STEP_MAX: usize = 64 * 1024;
/// From this size on a folio that is written to as a whole gets other memory, filled without the lock: that
/// takes some half a microsecond, putting the bytes aside first takes longer.
const REPLACED_MIN: usize = 64 * 1024;

thread_local! {
    /// What a step is about to write.
    static ASIDE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What is left of a write.
#[derive(Clone, Copy)]
pub(crate) struct Piece<'a> {
    /// Where its first byte goes in the file.
    pub(crate) offset: u64,
    pub(crate) bytes: &'a [u8],
    /// What holds these bytes, if the caller lends them.
    pub(crate) lent: Option<&'a Bytes>,
    pub(crate) writer: Writer,
    pub(crate) group: Option<Group>,
    pub(crate) now: BootTime,
}

impl<'a> Piece<'a> {
    /// Without the first `n` bytes.
    pub(crate) fn after(&self, n: usize) -> Piece<'a> {
        Piece { offset: self.offset + n as u64, bytes: &self.bytes[n..], ..*self }
    }

    pub(super) fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }

    fn covers(&self, place: &Range<u64>) -> bool {
        self.offset <= place.start && place.end <= self.end()
    }

    /// What becomes the memory of a folio in `place` without a copy: none of it but a whole folio, not too small.
    pub(crate) fn lend(&self, place: Range<u64>) -> Option<Bytes> {
        let long = place.end - place.start >= LENT_MIN as u64;
        let owner = self.lent.filter(|_| long && self.covers(&place))?;
        let at = (place.start - self.offset) as usize..(place.end - self.offset) as usize;
        Some(owner.slice_ref(&self.bytes[at]))
    }
}

/// What a step came to.
#[derive(Debug)]
pub(crate) enum Step {
    /// So many bytes are in.
    Wrote(usize),
    /// There is no folio in this range (whole pages, from the piece's first one): make some
    /// ([`Written::new`]) and [`insert`](FolioIndex::insert_written) them.
    Absent(Range<u64>),
    /// All of the folio in this place is written to: [`replace`](FolioIndex::replace) it, or write
    /// [into it](FolioIndex::write_into).
    Covered(Range<u64>),
    /// Somebody holds the folio's memory: [`give it other memory`](FolioIndex::unshare).
    Shared(Arc<Folio>),
    /// The folio is being filled: it [needs an overlay](FolioIndex::attach_overlay).
    NeedsOverlay(Arc<Folio>),
    /// What the folio lacks has to be fetched first.
    ReadFirst(Range<u64>),
    /// Bytes of another group are dirty in this range.
    OtherGroup(Range<u64>),
}

/// A folio made of a part of a write, not indexed yet.
pub(crate) struct Written {
    offset: u64,
    mem: Arc<FolioMem>,
    /// Relative to the folio.
    range: Range<usize>,
    uptodate: bool,
}

impl Written {
    /// Copies the part of `piece` that falls into the new memory, unless that is the piece's own. `clear`: around it the file has
    /// zeros, so that all of the folio is known.
    pub(crate) fn new(offset: u64, mem: NewMem, piece: &Piece<'_>, clear: bool) -> Written {
        let len = mem.len();
        let mem = match mem.into_lent() {
            Ok(mem) => return Written { offset, mem, range: 0..len, uptodate: true },
            Err(mem) => mem,
        };
        let start = piece.offset.saturating_sub(offset).min(len as u64) as usize;
        let end = (piece.end().saturating_sub(offset)).min(len as u64) as usize;
        let from = (offset + start as u64 - piece.offset) as usize;
        let (mut fill, mem) = FillBuf::whole(mem, len);
        fill.zero(start);
        fill.advance(start);
        fill.copy_in(&piece.bytes[from..from + (end - start)]);
        fill.advance(end - start);
        fill.zero(len - end);
        fill.advance(len - end);
        drop(fill);
        let how = decide(Place::Absent, &(start..end), piece.writer, len, clear, false);
        let uptodate = matches!(how, Modify::Clear | Modify::Whole);
        Written { offset, mem, range: start..end, uptodate }
    }

    /// Bytes of the write in it.
    pub(crate) fn bytes(&self) -> usize {
        self.range.len()
    }
}

impl FolioIndex {
    /// Writes the front of `piece`, at most as far as one folio goes.
    pub(crate) fn write_step(&self, piece: &Piece<'_>) -> Step {
        let first = self.content.glance(|content| {
            let Some(folio) = content.slots.get(piece.offset) else {
                return Some(Step::Absent(content.free_run(piece.offset, piece.end())));
            };
            let (place, least) = (folio.range(), piece.lent.map_or(REPLACED_MIN, |_| LENT_MIN));
            let covered = folio.len() >= least && piece.covers(&place) && !folio.is_locked();
            covered.then_some(Step::Covered(place))
        });
        // New folios are filled before they are indexed: nothing to put aside.
        first.unwrap_or_else(|| self.write_into(piece))
    }

    /// Writes the front of `piece` into the folio that is there.
    ///
    /// The caller's bytes are copied aside before the lock is taken (row 51): the caller's buffer may be
    /// anything, and a page fault there may take for ever (memory of a guest, a file mapped from a mount
    /// that we serve).
    pub(crate) fn write_into(&self, piece: &Piece<'_>) -> Step {
        let left = GRANULE - (piece.offset % GRANULE as u64) as usize;
        let bytes = &piece.bytes[..piece.bytes.len().min(left).min(STEP_MAX)];
        put_aside(bytes, |aside| self.write_from(piece, aside))
    }

    /// Writes all of `piece`, which is short, into one folio that is there, or, if anything has to be done first,
    /// nothing.
    pub(crate) fn write_at_once(&self, piece: &Piece<'_>) -> bool {
        debug_assert!(piece.bytes.len() <= STEP_MAX, "it is copied in one hold of the lock");
        put_aside(piece.bytes, |aside| {
            let whole = |content: &Content| {
                content.slots.get(piece.offset).is_some_and(|f| piece.end() <= f.range().end)
            };
            let mut content = self.content.write();
            whole(&content)
                && matches!(self.write_locked(&mut content, piece, aside), Step::Wrote(_))
        })
    }

    /// `aside`: the front of the piece, as far as a step goes.
    fn write_from(&self, piece: &Piece<'_>, aside: &[u8]) -> Step {
        self.write_locked(&mut self.content.write(), piece, aside)
    }

    fn write_locked(&self, content: &mut Content, piece: &Piece<'_>, aside: &[u8]) -> Step {
        let Some(folio) = content.slots.get(piece.offset).cloned() else {
            return Step::Absent(content.free_run(piece.offset, piece.end()));
        };
        let start = (piece.offset - folio.offset()) as usize;
        let n = aside.len().min(folio.len() - start);
        let (range, bytes) = (start..start + n, &aside[..n]);
        match decision(&folio, &range, piece) {
            Modify::FlushGroup => return Step::OtherGroup(folio.range()),
            Modify::ReadFirst => return Step::ReadFirst(folio.range()),
            Modify::Overlay => {
                if folio.with_dirt(|d| d.is_none_or(|d| d.overlay.is_none())) {
                    return Step::NeedsOverlay(folio);
                }
                if !content.write_overlay(piece.offset, bytes) {
                    return Step::Shared(folio);
                }
            }
            Modify::InPlace | Modify::Whole | Modify::Extent | Modify::Clear => {
                if !content.write_in_place(piece.offset, bytes) {
                    return Step::Shared(folio);
                }
            }
        }
        self.note_dirty(content, &folio, range, piece);
        Step::Wrote(n)
    }

    /// Indexes new folios, in order, up to the first whose place is taken. `data_gen` is from before
    /// it was decided what the file has around the write: nothing is inserted if something was dropped
    /// since. Returns the bytes written, counted from the first folio.
    pub(crate) fn insert_written(
        &self,
        folios: Vec<Written>,
        piece: &Piece<'_>,
        data_gen: u64,
    ) -> usize {
        let mut bytes = 0;
        let mut rest = folios.into_iter();
        let mut content = self.content.write();
        if self.data_gen() == data_gen {
            for new in rest.by_ref() {
                if !content.slots.is_free(new.offset..new.offset + new.mem.len() as u64) {
                    break;
                }
                bytes += new.range.len();
                self.insert_one(&mut content, new, piece);
            }
        }
        // Before anybody finds the folios, or takes their bytes for clean again.
        self.dirtied(&content, bytes);
        drop(content);
        // What was not used is freed outside the lock.
        drop(rest);
        bytes
    }

    fn count_lent(&self, mem: &FolioMem) {
        if mem.is_foreign() {
            self.cache.counters().write_lent_bytes.add(mem.len() as u64);
        }
    }

    fn insert_one(&self, content: &mut Content, new: Written, piece: &Piece<'_>) {
        let Written { offset, mem, range, uptodate } = new;
        self.count_lent(&mem);
        if let Some(charge) = mem.charge() {
            charge.move_to(Account::Indexed);
        }
        let end = offset + range.end as u64;
        let mut dirt = Dirt::new(piece.now, piece.group);
        dirt.dirty = Extents::of(range, piece.writer);
        let this = Weak::clone(&self.this);
        let folio = Folio::written(offset, mem, self.id, this, uptodate, Box::new(dirt));
        content.slots.insert(&folio);
        content.dirty.insert(&folio);
        self.since.dirty(piece.now);
        self.dirty_end.fetch_max(end, Ordering::Release);
    }

    /// All of a folio's bytes as they are now. As long as the slice lives nobody changes them. None if
    /// the folio was taken out of the index (its memory may be being filled, with nothing laid aside any
    /// more), or is being filled and nothing was written to it.
    fn pin(&self, folio: &Arc<Folio>) -> Option<Slice> {
        let content = self.content.read();
        if !content.slots.holds(folio) {
            return None;
        }
        let overlay = folio.with_dirt(|d| d.and_then(|d| d.overlay.clone()));
        let mem = match overlay {
            None if folio.is_locked() => return None,
            None => Arc::clone(folio.mem_arc()),
            Some(overlay) => overlay,
        };
        let len = mem.len();
        Some(Slice::settled(mem, 0..len))
    }

    /// Gives a folio whose memory somebody holds (or its overlay) a copy in `new`, which is as long. No
    /// effect if the folio is not indexed any more, or its memory not held: look again.
    pub(crate) fn unshare(&self, folio: &Arc<Folio>, new: NewMem) {
        // Pinned, so that nobody writes to it between the copy and the exchange.
        let Some(pinned) = self.pin(folio) else { return };
        let mem = settled(new);
        if !in_place::copy_with(pinned.mem(), &mem, None) {
            return;
        }
        let mut content = self.content.write();
        let overlay = folio.with_dirt(|d| d.and_then(|d| d.overlay.clone()));
        let is_of = |other: &Arc<FolioMem>| Arc::ptr_eq(other, pinned.mem());
        let old = if !content.slots.holds(folio) {
            None
        } else if overlay.as_ref().is_some_and(is_of) {
            move_to_indexed(&mem);
            folio.change_dirt(|d| d.as_mut().map(|d| d.overlay.replace(mem)));
            None
        } else if overlay.is_none() && !folio.is_locked() && is_of(folio.mem_arc()) {
            Some(self.exchange(&mut content, folio, mem))
        } else {
            None
        };
        drop(content);
        if old.is_some() {
            folio.account_removed();
        }
        drop((pinned, overlay));
    }

    /// Puts a folio made of a part of `piece` in the place of one that it covers. Nothing is written if that is
    /// not there any more, or is being filled: look again. Readers of the old one keep it; what is on its
    /// way to the server stays what it was, and noted as such.
    pub(crate) fn replace(&self, new: Written, piece: &Piece<'_>) -> Step {
        let Written { offset, mem, range, uptodate } = new;
        let place = offset..offset + mem.len() as u64;
        debug_assert!(uptodate && range.len() == mem.len(), "all of it is written");
        let mut content = self.content.write();
        let same = content.slots.get(offset).filter(|f| f.range() == place && !f.is_locked());
        let Some(old) = same.cloned() else { return Step::Wrote(0) };
        match decision(&old, &range, piece) {
            Modify::InPlace | Modify::Whole => {}
            Modify::FlushGroup => return Step::OtherGroup(place),
            Modify::Overlay | Modify::Clear | Modify::Extent | Modify::ReadFirst => {
                return Step::Wrote(0);
            }
        }
        if !old.is_dirty() {
            // Not by way of the policy: it is dirty in a moment.
            old.change_dirt(|dirt| *dirt = Some(Box::new(Dirt::new(piece.now, piece.group))));
            content.dirty.insert(&old);
        }
        self.count_lent(&mem);
        let n = range.len();
        let folio = self.exchange(&mut content, &old, mem);
        self.note_dirty(&mut content, &folio, range, piece);
        drop(content);
        old.account_removed();
        Step::Wrote(n)
    }

    /// Puts a folio with other memory in a folio's place.
    fn exchange(&self, content: &mut Content, old: &Arc<Folio>, mem: Arc<FolioMem>) -> Arc<Folio> {
        move_to_indexed(&mem);
        let (partial, dirt) = (old.is_partial(), old.change_dirt(Option::take));
        let dirty = dirt.is_some();
        let dirt = dirt.unwrap_or_else(|| Box::new(Dirt::new(BootTime::ZERO, None)));
        let this = Weak::clone(&self.this);
        let new = Folio::written(old.offset(), mem, self.id, this, !partial, dirt);
        new.inherit(old);
        content.slots.remove(old);
        content.slots.insert(&new);
        self.cache.withdraw(std::slice::from_ref(old));
        if !dirty {
            new.change_dirt(|d| *d = None);
            self.cache.admit(&new);
        }
        new
    }

    /// Gives a folio that is being filled memory (as long) for what is written meanwhile.
    pub(crate) fn attach_overlay(&self, folio: &Arc<Folio>, new: NewMem, now: BootTime) {
        let mem = settled(new);
        let mut content = self.content.write();
        if content.slots.holds(folio) && folio.is_locked() {
            let none = folio.change_dirt(|d| {
                let dirt = d.get_or_insert_with(|| Box::new(Dirt::new(now, None)));
                let none = dirt.overlay.is_none();
                if none {
                    move_to_indexed(&mem);
                    dirt.overlay = Some(mem);
                }
                none
            });
            if none {
                content.dirty.insert(folio);
            }
        }
        drop(content);
    }

    /// Notes `range` of a folio as written.
    fn note_dirty(
        &self,
        content: &mut Content,
        folio: &Arc<Folio>,
        range: Range<usize>,
        piece: &Piece<'_>,
    ) {
        let known_whole = folio.is_uptodate();
        self.dirty_end.fetch_max(folio.offset() + range.end as u64, Ordering::Release);
        let (dirtied, first, whole) = folio.change_dirt(|dirt| {
            let first = dirt.is_none();
            let dirt = dirt.get_or_insert_with(|| Box::new(Dirt::new(piece.now, piece.group)));
            if dirt.dirty.is_empty() {
                (dirt.since, dirt.group) = (piece.now, piece.group);
                self.since.dirty(piece.now);
            }
            let mut dirtied = dirt.dirty.insert(range, piece.writer);
            while known_whole && dirt.dirty.count() > Extents::limit(folio.len()) {
                let before = dirt.dirty.bytes();
                dirt.dirty.join_nearest();
                dirtied += dirt.dirty.bytes() - before;
            }
            let whole = folio.is_partial() && dirt.all().covers(&(0..folio.len()));
            (dirtied, first, whole)
        });
        if whole {
            folio.completed();
        }
        if first {
            content.dirty.insert(folio);
            // What is dirty is not evicted: the policy need not look at it.
            self.cache.withdraw(std::slice::from_ref(folio));
        }
        self.dirtied(content, dirtied);
    }
}

impl Content {
    /// The pages from the one of `at` on, up to `end` or the next folio; not beyond the granule of
    /// `at` and the seven after it.
    fn free_run(&self, at: u64, end: u64) -> Range<u64> {
        let start = at & !(PAGE_SIZE as u64 - 1);
        let most = (granule_of(at) + 8).saturating_mul(GRANULE as u64);
        let end = page_up(end).min(most);
        let mut stop = start + PAGE_SIZE as u64;
        while stop < end && self.slots.get(stop).is_none() {
            stop += PAGE_SIZE as u64;
        }
        start..stop
    }
}

/// Copies `bytes` to where reading them cannot fail, before any lock is taken.
fn put_aside<T>(bytes: &[u8], then: impl FnOnce(&[u8]) -> T) -> T {
    ASIDE.with_borrow_mut(|aside| {
        aside.clear();
        aside.extend_from_slice(bytes);
        then(aside)
    })
}

fn decision(folio: &Folio, range: &Range<usize>, piece: &Piece<'_>) -> Modify {
    folio.with_dirt(|dirt| {
        // What is on its way too: if it does not arrive it is dirty again, and its group must not have become
        // another one by then.
        let held = dirt.filter(|d| !d.is_empty());
        let other_group = held.is_some_and(|d| d.group != piece.group);
        let known = if folio.is_partial() { dirt.map(Dirt::all) } else { None };
        let place = match &known {
            Some(known) => Place::Partial(known),
            None if folio.is_locked() => Place::Fetching,
            None => Place::Uptodate,
        };
        decide(place, range, piece.writer, folio.len(), false, other_group)
    })
}

/// Memory whose undefined bytes nobody will fill.
fn settled(new: NewMem) -> Arc<FolioMem> {
    let len = new.len();
    let (fill, mem) = FillBuf::whole(new, len);
    drop(fill);
    mem
}

fn move_to_indexed(mem: &Arc<FolioMem>) {
    if let Some(charge) = mem.charge() {
        charge.move_to(Account::Indexed);
    }
}
