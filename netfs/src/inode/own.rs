//! Changes of a file by this client other than uploads: sizes, holes, attributes, names.
//!
//! The server's reply says which version the call found. If that is the one known here, nobody else wrote in
//! between, and what is cached goes on under the new version; if not, or if the reply does not say, nothing
//! is vouched for any more.

use std::ops::Range;

use super::Inode;
use crate::{
    folio::{GRANULE, PAGE_SIZE},
    remote::{Change, Facts, Version},
    request::plan::page_out,
};

/// Most bytes of a new hole that are kept in memory as zeros; the disk cache notes all of it.
const ZEROS_MAX: u64 = 1 << 20;

impl Inode {
    /// Takes over the reply to a change of data by this client, which found the file at `known` as far as is
    /// known here; it changed bytes of `range` and no others. `sizes` has them follow, together with the version.
    /// Says whether nobody else has written.
    pub(crate) fn changed_data(
        &self,
        known: Option<&Version>,
        change: &Change,
        range: Range<u64>,
        sizes: &dyn Fn(),
    ) -> bool {
        self.wrote(self.now());
        let alone = self.is_alone(known, change);
        if alone && change.after.version != change.before {
            self.own_change_of(&change.after, sizes, &[page_out(&range)]);
        } else if alone {
            self.own_unversioned_change(&change.after, sizes);
        } else {
            self.others_wrote_too(sizes);
            if let (Some(known), Some(_)) = (known, &change.before) {
                self.met_others(known, change.before.as_ref());
            }
        }
        alone
    }

    /// Whether a change of ours found the version known before it, and nobody has told of a later one since:
    /// replies overtake each other.
    pub(crate) fn is_alone(&self, known: Option<&Version>, change: &Change) -> bool {
        let now = self.cell.version();
        let ours_still = now.as_ref() == known || now == change.after.version;
        change.before.is_some() && change.before.as_ref() == known && ours_still
    }

    /// Takes over the reply to a change of attributes or names of this file by this client: the data are
    /// what they were, under another version perhaps.
    pub(crate) fn changed_attributes(&self, known: Option<&Version>, change: &Change) {
        let Change { before, after } = change;
        if after.version.is_some() && self.is_alone(known, change) {
            self.begin_change();
            self.cell.own_write(after.version.clone(), || self.commit_attr(after));
            if let Some(cookie) = self.live_cookie() {
                // The same content under a new identity (row 108).
                let wanted = self.wanted_identity();
                if cookie.identity() != wanted {
                    cookie.modified(wanted, &[]);
                }
            }
            self.end_change();
        } else if after.version.is_some()
            && after.version.as_ref() == known
            && self.cell.version().as_ref() == known
        {
            // No version moved: the attributes are all that is new.
            self.cell.own_write(after.version.clone(), || self.commit_attr(after));
        } else {
            self.others_wrote();
            if let (Some(known), Some(_)) = (known, before) {
                self.met_others(known, before.as_ref());
            }
        }
    }

    /// Takes over the reply to a change of this directory's names by this client. Says whether nobody else
    /// has changed any: then names known under `known` are still so, but for those that were changed.
    pub(crate) fn changed_names(&self, known: Option<&Version>, change: Option<&Change>) -> bool {
        let told = change.filter(|c| self.is_alone(known, c));
        let told = told.filter(|c| c.after.version.is_some() && c.after.version != c.before);
        let Some(Change { after, .. }) = told else {
            self.others_wrote();
            self.drop_names();
            return false;
        };
        self.begin_change();
        self.cell.own_write(after.version.clone(), || self.commit_facts_of_names(after));
        self.drop_names();
        self.end_change();
        true
    }

    fn commit_facts_of_names(&self, facts: &Facts) {
        if let Some(size) = facts.stated_size() {
            self.sizes.server_says(size, || 0);
        }
        self.commit_attr(facts);
    }

    /// A directory that was read as one object is another one now.
    fn drop_names(&self) {
        self.cut_over();
        self.pages.clear_keeping(&[]);
    }

    /// The server made a hole of `range`, of which nothing is on its way there: no byte of it is anywhere any
    /// more, and none comes back. `adopt` takes over the reply and says whether nobody else has written.
    pub(crate) fn punched(&self, range: &Range<u64>, adopt: impl FnOnce() -> bool) {
        self.begin_change();
        // As in `cut`: the version first, so that what is published in between goes with the pages.
        let alone = adopt();
        if !alone {
            // Whatever its object is about now: these bytes are not in it.
            self.cut_over();
        }
        self.pages.cut(range.clone());
        if self.pages.dirty_bytes() == 0 {
            // What could not be uploaded was in the hole.
            self.nothing_dirty();
        }
        if alone {
            self.sizes.punched(range);
            self.know_zeros(range);
        }
        self.end_change();
    }

    /// The server let the file grow to `size`, by zeros.
    pub(crate) fn grew(&self, size: u64, adopt: impl FnOnce(&dyn Fn())) {
        self.begin_change();
        // With the version: a reply from before may say otherwise until then, one from after it later.
        adopt(&|| self.sizes.grew(size));
        self.update_cookie();
        self.end_change();
    }

    /// Notes the whole pages of `range` as zeros.
    fn know_zeros(&self, range: &Range<u64>) {
        let sizes = self.sizes.load();
        let page = PAGE_SIZE as u64;
        let end = if range.end >= sizes.i_size {
            sizes.i_size.next_multiple_of(page)
        } else {
            range.end / page * page
        };
        let pages = range.start.next_multiple_of(page)..end;
        if pages.is_empty() {
            return;
        }
        let access = self.live_cookie().and_then(|cookie| cookie.try_begin());
        if let Some(access) = access.and_then(|access| self.usable(access)) {
            access.object().mark_zero(pages.start..pages.end.min(sizes.remote_i_size));
        }
        let some = pages.start..pages.end.min(pages.start + ZEROS_MAX);
        if let Some(window) = self.core.folios.alloc_window(&[some], sizes.i_size, GRANULE) {
            self.pages.insert_zeros(window);
        }
    }

    /// What was taken for an upload is given up instead (the owner has it elsewhere): the file reads as the
    /// server has it, but for what was written since.
    pub(crate) fn gave_up(&self, ranges: &[Range<u64>]) {
        self.begin_change();
        ranges.iter().for_each(|range| self.pages.give_up_sent(range));
        ranges.iter().for_each(|range| self.fronts_forget(range.clone()));
        self.sizes.discarded(|| self.pages.dirty_end());
        if self.pages.dirty_bytes() == 0 {
            self.nothing_dirty();
        }
        self.end_change();
    }

    /// Bytes that are dirty here met somebody else's change.
    pub(crate) fn met_others(&self, base: &Version, theirs: Option<&Version>) {
        let dirty = self.pages.dirty_bytes() > 0;
        if dirty && self.wb.conflicts.met(base, theirs, self.conflict_policy().is_merge()) {
            self.count_conflict(base, theirs);
        }
    }

    pub(crate) fn count_conflict(&self, base: &Version, theirs: Option<&Version>) {
        self.core.counters.write_conflicts.inc();
        tracing::warn!(key = ?self.key, known = ?base, now = ?theirs, "somebody else has written to a file too");
    }
}
