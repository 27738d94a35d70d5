//! What a file's dirt goes through on its way to the server.
//!
//! [`take_dirty_of`](FolioIndex::take_dirty_of) makes a snapshot: slices of what is dirty now. Whoever writes
//! to those folios meanwhile gets other memory (W1), so what is sent is neither torn nor lost. Then each
//! range comes back as [`written`](FolioIndex::written) or [`redirty`](FolioIndex::redirty).

use std::{collections::BTreeSet, ops::Range, time::Duration};

use super::{
    Content, FolioIndex, Removed,
    known::{Known, known_of},
};
use crate::{
    clock::BootTime,
    folio::{
        Slice, Writer,
        dirt::{Dirt, Group},
        state::Folio,
        widen::widen,
    },
    sync::{Arc, Weak, atomic::Ordering},
};

/// What a server likes to be sent, and where the file ends: nothing behind that is sent along.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unit {
    pub(crate) bytes: u64,
    pub(crate) size: u64,
}

impl Unit {
    /// Exactly what is dirty.
    pub(crate) const EXACT: Unit = Unit { bytes: 1, size: 0 };
}

/// What to take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Which {
    /// All that is dirty.
    All,
    /// One group's, or what belongs to none.
    Group(Option<Group>),
}

impl Which {
    fn has(self, group: Option<Group>) -> bool {
        self == Which::All || self == Which::Group(group)
    }
}

/// Bytes on their way to the server.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    /// Where in the file.
    pub(crate) range: Range<u64>,
    pub(crate) data: Slice,
    pub(crate) writer: Writer,
    pub(crate) group: Option<Group>,
    /// Where its folio ends: a segment border.
    pub(crate) folio_end: u64,
    /// The whole pages it touches, as far as they are known.
    pub(crate) known: Known,
}

impl FolioIndex {
    /// Dirty bytes and bytes on their way.
    pub(crate) fn dirty_bytes(&self) -> u64 {
        self.dirty_bytes.load(Ordering::Relaxed)
    }

    /// Whether any of them are in `range`.
    pub(crate) fn has_dirty(&self, range: &Range<u64>) -> bool {
        if self.dirty_bytes() == 0 {
            return false;
        }
        let content = self.content.read();
        let first = content.slots.get(range.start).map_or(range.start, |f| f.offset());
        content.dirty.range(first..range.end.max(first)).any(|offset| {
            content.slots.get(*offset).is_some_and(|folio| {
                let within = within(folio, range);
                folio.with_dirt(|dirt| dirt.is_some_and(|d| d.all().touches(&within)))
            })
        })
    }

    /// Where the last of them ends.
    pub(crate) fn dirty_end(&self) -> u64 {
        self.dirty_end.load(Ordering::Acquire)
    }

    fn note_dirty_end(&self, content: &Content) {
        let end = content.dirty.iter().rev().find_map(|offset| {
            let folio = content.slots.get(*offset)?;
            let last = folio.with_dirt(|d| d?.all().iter().next_back().map(|(range, _)| range.end));
            Some(offset + last? as u64)
        });
        self.dirty_end.store(end.unwrap_or(0), Ordering::Release);
    }

    /// Whether bytes have been dirty for `age` or longer. Asked of every dirty file again and again, so the
    /// folios are looked at only where the bound says so.
    pub(crate) fn dirty_for(&self, age: Duration, now: BootTime) -> bool {
        let old = |since: BootTime| since + age <= now;
        old(self.since.bound()) && self.oldest_dirty().is_some_and(old)
    }

    /// When the oldest dirty bytes were written.
    fn oldest_dirty(&self) -> Option<BootTime> {
        let content = self.content.write();
        let since = |offset: &u64| {
            let folio = content.slots.get(*offset)?;
            folio.with_dirt(|d| d.filter(|d| !d.dirty.is_empty()).map(|d| d.since))
        };
        let oldest = content.dirty.iter().filter_map(since).min();
        self.since.is(oldest.unwrap_or(BootTime::NEVER));
        oldest
    }

    /// What is dirty or on its way in `range`, as it is now; it stays so.
    pub(crate) fn peek_dirty(&self, range: &Range<u64>) -> Vec<Sent> {
        let content = self.content.read();
        let mut pieces = Vec::new();
        let first = content.slots.get(range.start).map_or(range.start, |f| f.offset());
        for offset in content.dirty.range(first..range.end) {
            let Some(folio) = content.slots.get(*offset) else { continue };
            folio.with_dirt(|dirt| {
                if let Some(dirt) = dirt {
                    let part = dirt.all().within(&within(folio, range));
                    slices_of(folio, dirt, part.iter(), &mut pieces);
                }
            });
        }
        pieces
    }

    /// The groups of what is dirty in `range`.
    pub(crate) fn dirty_groups(&self, range: &Range<u64>) -> BTreeSet<Option<Group>> {
        let content = self.content.read();
        let first = content.slots.get(range.start).map_or(range.start, |f| f.offset());
        let group = |offset: &u64| {
            let folio = content.slots.get(*offset)?;
            let within = within(folio, range);
            folio.with_dirt(|d| d.filter(|d| d.dirty.touches(&within)).map(|d| d.group))
        };
        content.dirty.range(first..range.end.max(first)).filter_map(group).collect()
    }

    /// Exactly what is dirty in `range`.
    #[cfg(test)]
    pub(crate) fn take_dirty(&self, range: &Range<u64>, max: u64) -> Vec<Sent> {
        self.take_dirty_of(range, max, Which::All, Unit::EXACT)
    }

    /// Takes what is dirty in `range`, in file order and up to about `max` bytes, with what is known around
    /// it up to multiples of the server's unit.
    pub(crate) fn take_dirty_of(
        &self,
        range: &Range<u64>,
        max: u64,
        which: Which,
        unit: Unit,
    ) -> Vec<Sent> {
        let content = self.content.write();
        let mut taken = Vec::new();
        let mut bytes = 0;
        // The folio that holds the start may begin before it.
        let first = content.slots.get(range.start).map_or(range.start, |f| f.offset());
        for offset in content.dirty.range(first..range.end) {
            let Some(folio) = content.slots.get(*offset) else { continue };
            if bytes >= max {
                break;
            }
            bytes += folio.change_dirt(|dirt| match dirt {
                Some(dirt) if which.has(dirt.group) => {
                    take_of(folio, dirt, range, unit, &mut taken)
                }
                _ => 0,
            });
        }
        taken
    }

    /// The server has the bytes of `range` that were on their way: what is not dirty again is clean.
    pub(crate) fn written(&self, range: &Range<u64>) {
        self.end_sent(range, |_, _| ());
    }

    /// The server does not have them: they are dirty again, except what was written since.
    pub(crate) fn redirty(&self, range: &Range<u64>) {
        self.end_sent(range, |dirt, within| {
            let back = dirt.sent.within(within);
            dirt.dirty.union_under(&back);
            self.since.dirty(dirt.since);
        });
    }

    fn end_sent(&self, range: &Range<u64>, mut end: impl FnMut(&mut Dirt, &Range<usize>)) {
        let mut clean = Vec::new();
        let mut content = self.content.write();
        let first = content.slots.get(range.start).map_or(range.start, |f| f.offset());
        let offsets: Vec<u64> = content.dirty.range(first..range.end).copied().collect();
        let mut cleaned = 0;
        for offset in offsets {
            let Some(folio) = content.slots.get(offset).cloned() else { continue };
            let within = within(&folio, range);
            cleaned += folio.change_dirt(|slot| {
                let Some(dirt) = slot else { return 0 };
                let before = dirt.dirty.bytes() + dirt.sent.bytes();
                end(dirt, &within);
                dirt.sent.remove(&within);
                before - dirt.dirty.bytes() - dirt.sent.bytes()
            });
            clean.extend(self.settle_dirt(&mut content, &folio));
        }
        self.note_dirty_end(&content);
        let cleaned = self.clean(&content, cleaned);
        drop(content);
        self.cleaned(cleaned);
        for folio in &clean {
            folio.settle(crate::folio::state::Unlocked::Failed);
            folio.account_removed();
            folio.wake();
        }
    }

    /// If nothing of a folio's dirt is left: it is clean, or (known in those bytes only) leaves. So does
    /// one that is being filled: with bytes, perhaps, from before the write, which has nobody any more to be
    /// laid over them. The caller ends it.
    fn settle_dirt(&self, content: &mut Content, folio: &Arc<Folio>) -> Option<Arc<Folio>> {
        let empty = folio.with_dirt(|d| d.is_some_and(Dirt::is_empty));
        if !empty {
            return None;
        }
        folio.change_dirt(|d| *d = None);
        content.dirty.remove(folio.offset());
        if folio.is_partial() || folio.is_locked() {
            content.slots.remove(folio);
            return Some(Arc::clone(folio));
        }
        if folio.is_uptodate() {
            self.cache.admit(folio);
        }
        None
    }

    /// A folio with an overlay has been published: the overlay's bytes are in it.
    pub(super) fn settle_overlay(&self, content: &mut Content, folio: &Arc<Folio>) {
        folio.change_dirt(|d| d.as_mut().map(|d| d.overlay.take()));
        if let Some(clean) = self.settle_dirt(content, folio) {
            clean.account_removed();
        }
    }

    /// The file ends at `size` now: what lies beyond is gone, dirt included, and will read as zeros.
    /// Nothing may be on its way.
    pub(crate) fn truncate(&self, size: u64) -> Removed {
        self.cut(size..u64::MAX)
    }

    /// Forgets every folio with dirt.
    pub(crate) fn cut_dirty(&self) {
        let content = self.content.read();
        let folios = content.dirty.iter().filter_map(|offset| content.slots.get(*offset));
        let places: Vec<_> = folios.map(|folio| folio.range()).collect();
        drop(content);
        for place in places {
            self.cut(place);
        }
    }

    /// Forgets `range`, dirt included: a folio of which something is left keeps its dirt and nothing
    /// else. Nothing of the range may be on its way.
    pub(crate) fn cut(&self, range: Range<u64>) -> Removed {
        self.cut_with(range, |dirt, within| {
            dirt.dirty.remove(within);
            dirt.sent.remove(within);
        })
    }

    /// Forgets `range` but for what was written since it was taken for an upload, which will not be.
    pub(crate) fn give_up_sent(&self, range: &Range<u64>) {
        self.cut_with(range.clone(), |dirt, within| dirt.sent.remove(within));
    }

    /// `forget` takes out of a folio's dirt what is not to stay of a part of it.
    fn cut_with(&self, range: Range<u64>, forget: impl Fn(&mut Dirt, &Range<usize>)) -> Removed {
        let mut cleaned = 0;
        let mut content = self.content.write();
        let mut taken = content.slots.take(range.clone());
        for folio in &taken {
            cleaned += folio.change_dirt(|slot| {
                let Some(dirt) = slot else { return 0 };
                let before = dirt.dirty.bytes() + dirt.sent.bytes();
                forget(dirt, &within(folio, &range));
                let left = dirt.dirty.bytes() + dirt.sent.bytes();
                if left == 0 {
                    *slot = None;
                }
                before - left
            });
        }
        let kept = self.keep_dirt(&mut content, &mut taken);
        self.note_dirty_end(&content);
        self.data_gen.fetch_add(1, Ordering::Release);
        let cleaned = self.clean(&content, cleaned);
        drop(content);
        self.cleaned(cleaned);
        let removed = self.let_go(&taken);
        self.let_go_demoted(&kept);
        removed
    }

    /// Of folios taken out of the slots: those with dirt are demoted to it and put back. Takes them
    /// out of `taken`; returns those whose place another one has now.
    pub(super) fn keep_dirt(
        &self,
        content: &mut Content,
        taken: &mut Vec<Arc<Folio>>,
    ) -> Vec<Arc<Folio>> {
        let mut demoted = Vec::new();
        taken.retain(|folio| {
            let Some(mut dirt) = folio.change_dirt(Option::take).filter(|d| !d.is_empty()) else {
                content.dirty.remove(folio.offset());
                return true;
            };
            let overlay = dirt.overlay.take();
            let mem = overlay.unwrap_or_else(|| Arc::clone(folio.mem_arc()));
            let this = Weak::clone(&self.this);
            let partial = Folio::written(folio.offset(), mem, self.id, this, false, dirt);
            content.slots.insert(&partial);
            demoted.push(Arc::clone(folio));
            false
        });
        demoted
    }

    /// Ends demoted folios: who waits for them looks again.
    pub(super) fn let_go_demoted(&self, demoted: &[Arc<Folio>]) {
        for folio in demoted {
            if folio.is_uptodate() {
                self.unread_gone(folio);
            }
            let locked = folio.settle(crate::folio::state::Unlocked::Failed);
            if locked {
                // The memory was its own; that of the others goes on with the dirt.
                folio.account_removed();
            }
            folio.wake();
        }
    }
}

impl Content {
    /// A partial folio is being filled from now on, through `locked`, which takes its place.
    pub(super) fn fill_over(&mut self, partial: &Arc<Folio>, locked: &Arc<Folio>) {
        self.slots.remove(partial);
        let dirt = partial.change_dirt(Option::take).map(|mut dirt| {
            dirt.overlay = Some(Arc::clone(partial.mem_arc()));
            dirt
        });
        locked.change_dirt(|d| *d = dirt);
    }

    /// Lays a folio's overlay over what was filled in. False if the filled memory is on its way to the
    /// disk cache: then it cannot be changed.
    pub(super) fn lay_dirt_over(&mut self, folio: &Arc<Folio>) -> bool {
        let over = folio.with_dirt(|d| d.and_then(|d| Some((d.overlay.clone()?, d.all()))));
        let Some((overlay, extents)) = over else { return true };
        self.lay_over(folio.offset(), &overlay, &extents)
    }
}

fn take_of(
    folio: &Folio,
    dirt: &mut Dirt,
    range: &Range<u64>,
    unit: Unit,
    into: &mut Vec<Sent>,
) -> u64 {
    let within = within(folio, range);
    let part = dirt.dirty.within(&within);
    let exact = unit.bytes <= 1 || !folio.is_uptodate() || dirt.overlay.is_some();
    let wide = (!exact).then(|| {
        let inside = self::within(folio, &(0..unit.size));
        widen(&part, &dirt.all(), (folio.offset(), unit.bytes), &inside)
    });
    dirt.dirty.remove(&within);
    dirt.sent.union(&part);
    match wide {
        Some(wide) => slices_of(folio, dirt, wide.into_iter(), into),
        None => slices_of(folio, dirt, part.iter(), into),
    }
    part.bytes() as u64
}

/// The bytes of `part`, pinned.
fn slices_of(
    folio: &Folio,
    dirt: &Dirt,
    part: impl Iterator<Item = (Range<usize>, Writer)>,
    into: &mut Vec<Sent>,
) {
    let mem = dirt.overlay.as_ref().unwrap_or(folio.mem_arc());
    for (r, writer) in part {
        into.push(Sent {
            range: folio.offset() + r.start as u64..folio.offset() + r.end as u64,
            data: Slice::settled(Arc::clone(mem), r.clone()),
            writer,
            group: dirt.group,
            folio_end: folio.range().end,
            known: known_of(folio, dirt, mem, &r),
        });
    }
}

/// The part of `range` that falls into a folio, relative to it.
fn within(folio: &Folio, range: &Range<u64>) -> Range<usize> {
    let at = |n: u64| n.clamp(folio.offset(), folio.range().end) - folio.offset();
    at(range.start) as usize..at(range.end) as usize
}
