//! What a direct write leaves of the caches: all but its range (complaint 13).

use std::ops::Range;

use super::Inode;
use crate::remote::Facts;

impl Inode {
    /// This client changed `range` past the caches, and nobody else changed the file: what is cached of the
    /// rest goes on under the new version. Row 105's `invalidate(DIO)`, which turns the cache off until the
    /// last close (N-C50), is for writes the core does not see.
    pub(crate) fn own_direct_change(&self, facts: &Facts, range: &Range<u64>) {
        self.begin_change();
        let moved = facts.version.is_some() && facts.version != self.cell.version();
        self.cell.own_write(facts.version.clone(), || self.commit_own(facts));
        if moved {
            self.rename_stored(range);
        } else {
            // The version does not tell old bytes from new ones: no fetch on its way may store its own.
            self.cut_over();
        }
        self.end_change();
    }

    /// Gives the cache's object the inode's new identity, without `range`.
    ///
    /// The version has moved. So what a fetch brings from before is not taken for current any more, and what
    /// is queued for the cache but not on its way is dropped. Only what is on its way could be stored after the
    /// range was forgotten; as long as there is any, the whole object goes.
    fn rename_stored(&self, range: &Range<u64>) {
        let Some(cookie) = self.live_cookie() else { return };
        let identity = self.wanted_identity();
        let quiet = self.core.fills.queued_bytes() == 0;
        match cookie.try_begin().filter(|_| quiet) {
            Some(access) => {
                access.object().forget(range.clone());
                drop(access);
                cookie.update(identity);
            }
            None => cookie.invalidate(identity, false),
        }
    }
}
